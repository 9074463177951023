"""GRPO and its relatives against TRL's own trainers: ours on the left of every comparison.

First the losses as functions of log-probabilities, with TRL's loss method told what its model said;
then whole steps of our agents, through the model, against whole steps of TRL's trainers on the same
weights and tokens. Where TRL differs, both numbers are asserted, with the reason.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import llm, spaces
from jaxrl.llm import scoring
from jaxrl.llm.answers import Answers, Drawn
from jaxrl.llm.grpo import Batch
from jaxrl.llm.losses import advantages, grpo, kl, ratios
from jaxrl.llm.losses.aggregate import BySequence, BySequenceSum, ByToken, Layout
from jaxrl.llm.losses.grpo import PolicyLoss
from jaxrl.llm.losses.surrogates import Cispo, Clipped, Sapo, Vespo
from jaxrl.types import Spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch: Any = pytest.importorskip("torch")
trl: Any = pytest.importorskip("trl", minversion="1.16")
pytest.importorskip("tokenizers")
there: Any = pytest.importorskip("tests.trl_trainers")
pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to fix

KEY, PLAIN, NETWORK = there.KEY, there.PLAIN, there.NETWORK
LOSS, GRADIENT = there.LOSS, there.GRADIENT
random, same, same_everywhere = there.random, there.same, there.same_everywhere
gradient = there.gradient


R, P, L = 6, 4, 5
"""Rows, tokens of a prompt and of an answer"""
GROUP_SPEC: Any = Spec(
    spaces.Box(-1, there.VOCAB - 1, (P,), jnp.int32),
    spaces.Box(-1, there.VOCAB - 1, (L,), jnp.int32), None, 100,
)  # fmt: skip
KLP = kl.KLPenalty(beta=0.05, estimator=kl.k3, form=kl.weighted)

LENGTHS = (5, 3, 0, 1, 4, 2)  # of completions: one has none that count


MASK = np.arange(L) < np.array(LENGTHS)[:, None]
ADVANTAGE = np.array([1.3, -0.4, 0.7, -0.6, 0.9, -0.5], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trl")
    there.make(path)
    return path


@pytest.fixture(scope="module")
def policy(folder: Path) -> Any:
    return llm.load(folder / "policy").params


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return llm.load(folder / "reference").params


# ----------------------------------------------------------------- policy losses of log-probs


@pytest.fixture(scope="module")
def group_trainer(folder: Path) -> Any:
    args = trl.GRPOConfig(
        **there.settings(folder, num_generations=6, max_completion_length=8, beta=0.05)
    )
    return there.ready(
        trl.GRPOTrainer(
            there.model(folder), lambda completions, **_: [0.0] * len(completions), args,
            train_dataset=there.dataset("prompts"), processing_class=there.tokenizer(),
        )
    )  # fmt: skip


USUAL: dict[str, Any] = dict(
    loss_type="grpo", importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.2,
    delta=None, top_entropy_quantile=1.0, off_policy_mask_threshold=None, entropy_coef=0.0,
    _entropy_bonus_enabled=False, use_bias_correction_kl=True,
)  # fmt: skip
EMPTY = BySequence(empty=True)

GROUP: dict[str, tuple[dict[str, Any], PolicyLoss]] = {
    "grpo": (dict(loss_type="grpo"), PolicyLoss(Clipped(), aggregate=EMPTY)),
    "bnpo": (dict(loss_type="bnpo"), PolicyLoss(Clipped(), aggregate=ByToken())),
    "dr_grpo": (dict(loss_type="dr_grpo"), grpo.dr_grpo(length=8.0)),
    "dapo": (dict(loss_type="dapo", epsilon_high=0.28), grpo.dapo(0.2, 0.28)),
    "cispo": (dict(loss_type="cispo", epsilon_high=1.1), grpo.cispo(high=1.1)),
    "sapo": (dict(loss_type="sapo"), PolicyLoss(Sapo(), aggregate=EMPTY)),
    "vespo": (dict(loss_type="vespo"), grpo.vespo()),
    "gspo": (
        dict(loss_type="grpo", importance_sampling_level="sequence"),
        PolicyLoss(Clipped(), level=ratios.sequence, aggregate=EMPTY),
    ),
    "luspo": (
        dict(loss_type="luspo", importance_sampling_level="sequence"),
        PolicyLoss(Clipped(), level=ratios.sequence, aggregate=BySequenceSum(empty=True)),
    ),
    "luspo of tokens": (
        dict(loss_type="luspo"), PolicyLoss(Clipped(), aggregate=BySequenceSum(empty=True))
    ),
    "cispo of sequences": (
        dict(loss_type="cispo", importance_sampling_level="sequence", epsilon_high=1.1),
        PolicyLoss(Cispo(high=1.1), level=ratios.sequence),
    ),
    "two-sided": (
        dict(loss_type="dapo", delta=1.1), PolicyLoss(Clipped(delta=1.1), aggregate=ByToken())
    ),
    "entropy": (
        dict(loss_type="dapo", entropy_coef=0.03, _entropy_bonus_enabled=True),
        PolicyLoss(Clipped(), aggregate=ByToken(), entropy=0.03),
    ),
    "entropy mask": (
        dict(loss_type="dapo", top_entropy_quantile=0.4),
        PolicyLoss(Clipped(), aggregate=ByToken()),
    ),
    "off-policy mask": (
        dict(loss_type="dapo", off_policy_mask_threshold=-0.12),
        PolicyLoss(Clipped(), aggregate=ByToken()),
    ),
}  # fmt: skip


def told(trainer: Any, log_prob: np.ndarray, given: dict[str, Any]) -> Any:
    """TRL's loss and its gradient where the model says `log_prob`."""
    leaf = torch.tensor(log_prob, requires_grad=True)
    entropy = torch.tensor(np.abs(random(4, *log_prob.shape)))
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, entropy, None)
    try:
        loss = trainer._compute_loss(trainer.model, given)
    finally:
        del trainer._get_per_token_logps_and_entropies
    loss.backward()
    return float(loss.detach()), leaf.grad.numpy()


def given_to_them(**own: Any) -> dict[str, Any]:
    ids = np.ones((R, P), int)
    return there.tensors(dict(
        prompt_ids=ids, prompt_mask=ids, completion_ids=np.ones((R, L), int),
        completion_mask=MASK, advantages=ADVANTAGE, num_items_in_batch=np.asarray(MASK.sum()),
    ) | own)  # fmt: skip


OLD = -np.abs(random(1, R, L)) * MASK
NEW = (OLD + 0.25 * random(2, R, L)) * MASK
REF = (OLD + 0.5 * random(3, R, L)) * MASK


@pytest.mark.parametrize(("name", "beta"), [
    (name, beta) for name in GROUP for beta in (0.0, 0.05) if (name, beta) != ("vespo", 0.05)
])  # fmt: skip
def test_policy_losses(group_trainer: Any, name: str, beta: float) -> None:
    chosen, ours = GROUP[name]
    if beta:
        ours = PolicyLoss(**(vars(ours) | {"kl": KLP}))
    there.configure(group_trainer, **(USUAL | {"beta": beta} | chosen))
    theirs = told(
        group_trainer, NEW, given_to_them(old_per_token_logps=OLD, ref_per_token_logps=REF)
    )
    layout, entropy = Layout(jnp.asarray(MASK)), jnp.abs(jnp.asarray(random(4, R, L)))
    keep = None
    if name == "entropy mask":
        keep = ratios.entropy_mask(entropy, layout, 0.6)
    if name == "off-policy mask":
        keep = ratios.off_policy_mask(ADVANTAGE, jnp.asarray(NEW), jnp.asarray(OLD), layout, -0.12)
    if keep is not None:
        assert 0 < (keep & MASK).sum() < MASK.sum()

    def loss(x: jax.Array) -> jax.Array:
        return ours(
            x, jnp.asarray(OLD), jnp.asarray(ADVANTAGE), layout,
            ref=jnp.asarray(REF) if beta else None, entropy=entropy, keep=keep,
        )[0]  # fmt: skip

    found = jax.value_and_grad(loss)(jnp.asarray(NEW))
    same(found[0], theirs[0], LOSS)
    same(found[1], theirs[1], LOSS)


def test_the_published_kl_of_grpo(group_trainer: Any) -> None:
    """k3 that is not weighted by the ratio."""
    off = dict(beta=0.05, use_bias_correction_kl=False)
    there.configure(group_trainer, **(USUAL | off))
    theirs = told(
        group_trainer, NEW, given_to_them(old_per_token_logps=OLD, ref_per_token_logps=REF)
    )
    ours = PolicyLoss(Clipped(), aggregate=EMPTY, kl=kl.KLPenalty(beta=0.05, form=kl.plain))
    found = jax.value_and_grad(
        lambda x: ours(x, OLD, ADVANTAGE, Layout(jnp.asarray(MASK)), ref=jnp.asarray(REF))[0]
    )(jnp.asarray(NEW))
    same(found[0], theirs[0], LOSS)
    same(found[1], theirs[1], LOSS)


@pytest.fixture(scope="module")
def loo_trainer(folder: Path) -> Any:
    args = trl.RLOOConfig(
        **there.settings(folder, num_generations=2, max_completion_length=L, beta=0.05)
    )
    return there.ready(
        trl.RLOOTrainer(
            there.model(folder), scores, args,
            train_dataset=there.dataset("prompts"), processing_class=there.tokenizer(),
        )
    )  # fmt: skip


def scores(completion_ids: Any, **_: Any) -> list[float]:
    """A reward that every row has its own of."""
    return [0.1 * sum(ids) - 0.3 * len(ids) for ids in completion_ids]


def test_leave_one_out(loo_trainer: Any) -> None:
    """The ratio of a completion without tokens is 1: in TRL it adds its advantage to the loss, as a
    constant that has no gradient; in ours nothing."""
    constant = float(-ADVANTAGE[MASK.sum(1) == 0].sum()) / R
    theirs = told(loo_trainer, NEW, given_to_them(old_logps=(OLD * MASK).sum(1)))
    ours = PolicyLoss(Clipped(), level=ratios.product, aggregate=EMPTY)
    found = jax.value_and_grad(
        lambda x: ours(x, OLD, ADVANTAGE, Layout(jnp.asarray(MASK)))[0]
    )(jnp.asarray(NEW))  # fmt: skip
    same(found[0] + constant, theirs[0], LOSS)
    same(found[1], theirs[1], LOSS)


def test_the_kl_beside_ratios_of_completions_is_weighted_by_them(group_trainer: Any) -> None:
    """TRL weighs the KL estimate of a token by the ratio of that token, although VESPO's ratios are
    those of completions: off-policy that is not the expectation under the policy. Ours is weighted
    by the ratio that the loss itself uses."""
    there.configure(group_trainer, **(USUAL | dict(loss_type="vespo", beta=0.0)))
    moved = (OLD + 0.15) * MASK
    given = given_to_them(old_per_token_logps=OLD, ref_per_token_logps=REF)
    without = told(group_trainer, moved, given)[0]
    there.configure(group_trainer, beta=0.05)
    theirs = told(group_trainer, moved, given)[0] - without
    ours = PolicyLoss(Vespo(), level=ratios.product, kl=KLP)(
        jnp.asarray(moved), OLD, ADVANTAGE, Layout(jnp.asarray(MASK)), ref=jnp.asarray(REF)
    )[1]["loss/kl"]
    new, old, ref = (x.astype(np.float64) for x in (moved, OLD, REF))
    k3 = np.where(MASK, np.exp(ref - new) - (ref - new) - 1, 0.0)
    whole = np.exp((new - old).sum(1, keepdims=True))
    right, tokens = (0.05 * (w * k3).sum() / MASK.sum() for w in (whole, np.exp(new - old)))
    same(ours, right, LOSS)
    same(theirs, tokens, 1e-4)  # a difference of two losses
    assert right > 1.1 * tokens


def test_k3_near_its_minimum(group_trainer: Any) -> None:
    """exp(x) - x - 1 in float32 rounds small divergences away; TRL's metric and loss lose them."""
    near = (OLD + 1e-4 * random(5, R, L)) * MASK
    there.configure(group_trainer, **(USUAL | dict(loss_type="dapo", beta=1.0)))
    given = given_to_them(ref_per_token_logps=near) | {"advantages": torch.zeros(R)}
    theirs = told(group_trainer, OLD, given)[0]
    gap = near.astype(np.float64) - OLD.astype(np.float64)
    right = (np.expm1(gap) - gap)[MASK].mean()
    ours = PolicyLoss(Clipped(), kl=kl.KLPenalty(beta=1.0))(
        jnp.asarray(OLD), None, jnp.zeros(R), Layout(jnp.asarray(MASK)), ref=jnp.asarray(near)
    )[0]
    same(float(ours) * 1e6, right * 1e6, 1e-2)
    assert abs(theirs - right) > 0.1 * right


# --------------------------------------------------------------------------------- advantages

PROMPT_IDS = [[2, 3], [4, 5, 6], [7]]
WORDS = [[8, 9, 1], [10, 1], [11, 12, 13, 14, 1], [15, 16], [17, 1], [18, 19, 20, 1]]


def scored(trainer: Any) -> Any:
    """What TRL makes of completions that it did not have to draw."""
    prompts = [p for p in PROMPT_IDS for _ in range(2)]
    texts = ["" for _ in WORDS]
    drawn: Any = (prompts, WORDS, texts)
    if not isinstance(trainer, trl.RLOOTrainer):
        drawn = (prompts, WORDS, None, texts, None, {}, None, None)
    trainer._generate = lambda _: drawn
    return trainer._generate_and_score_completions([{"prompt": "w2 w3"}] * 6)


REWARD = jnp.asarray(scores(WORDS), jnp.float32).reshape(3, 2)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_groups(group_trainer: Any, scale: str) -> None:
    there.configure(
        group_trainer, scale_rewards=scale, num_generations=2, num_generations_eval=2,
        beta=0.0, reward_funcs=[scores],
    )  # fmt: skip
    theirs = scored(group_trainer)
    there.configure(group_trainer, num_generations=6)
    ours = {
        "group": advantages.standardised,
        "batch": advantages.batch_standardised,
        "none": advantages.centred,
    }[scale](REWARD)
    same(ours.ravel(), theirs["advantages"].numpy(), LOSS)
    assert int(theirs["num_items_in_batch"]) == sum(len(w) for w in WORDS)


def rows_of(words: Any = WORDS, prompts: Any = PROMPT_IDS) -> dict[str, np.ndarray]:
    """Prompts padded on the left, answers on the right."""
    prompt, real = np.zeros((len(words), P), np.int32), np.zeros((len(words), P), bool)
    tokens, mask = np.zeros((len(words), L), np.int32), np.zeros((len(words), L), bool)
    each = len(words) // len(prompts)
    for n, answer in enumerate(words):
        before = prompts[n // each]
        prompt[n, P - len(before) :], real[n, P - len(before) :] = before, True
        tokens[n, : len(answer)], mask[n, : len(answer)] = answer, True
    return dict(prompt=prompt, prompt_mask=real, tokens=tokens, mask=mask)


@jax.jit
def in_model(params: Any) -> jax.Array:
    r = {name: jnp.asarray(x) for name, x in rows_of().items()}
    return scoring.of_completions(
        NETWORK, params, r["prompt"], r["prompt_mask"], r["tokens"], r["mask"], None, llm.Sampling()
    )[0]


def test_leave_one_out_with_the_kl_in_the_reward(
    loo_trainer: Any, folder: Path, policy: Any, reference: Any
) -> None:
    other = there.model(folder, "reference").state_dict()
    loo_trainer.ref_model.load_state_dict(other)
    theirs = scored(loo_trainer)
    gap = in_model(policy) - in_model(reference)
    reward = REWARD - 0.05 * gap.sum(axis=1).reshape(3, 2)
    same(advantages.leave_one_out(reward).ravel(), theirs["advantages"].numpy(), GRADIENT)
    same(in_model(policy).sum(axis=1), theirs["old_logps"].numpy(), LOSS)


# ------------------------------------------------------------------------- whole steps of groups


def group_batch(reference: Any, old: Any) -> Batch:
    rows = {name: jnp.asarray(x) for name, x in rows_of().items()}
    drawn = Drawn(log_prob=old, kept=None, stopped=jnp.ones(R, bool))
    found = Answers(
        prompt=rows["prompt"], prompt_mask=rows["prompt_mask"], tokens=rows["tokens"],
        mask=rows["mask"], drawn=drawn, reward=jnp.zeros(R),
    )  # fmt: skip
    return Batch(found, jnp.asarray(ADVANTAGE), in_model(reference))


def whole(trainer: Any, **own: Any) -> Any:
    """TRL's loss of the same tokens, through its model."""
    rows = rows_of()
    given = there.tensors(dict(
        prompt_ids=rows["prompt"], prompt_mask=rows["prompt_mask"], completion_ids=rows["tokens"],
        completion_mask=rows["mask"], advantages=ADVANTAGE,
        num_items_in_batch=np.asarray(rows["mask"].sum()),
    ) | own)  # fmt: skip
    return there.backward(trainer._compute_loss(trainer.model, given), trainer.model)


STEPS = [
    pytest.param(name, beta, marks=() if name == "dapo" and beta else pytest.mark.slow)
    for name in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo", "gspo")
    for beta in (0.0, 0.05)
    if (name, beta) != ("vespo", 0.05)
]


@pytest.mark.parametrize(("name", "beta"), STEPS)
def test_steps_of_groups(
    group_trainer: Any, policy: Any, reference: Any, name: str, beta: float
) -> None:
    """The first step after drawing, and a later one, where the ratios are not 1."""
    chosen, loss = GROUP[name]
    loss = PolicyLoss(**(vars(loss) | {"kl": KLP if beta else None}))
    agent = (
        llm.GRPO(NETWORK, loss=loss, prompts=3, group=2, optimizer=PLAIN, watch=False)
        if not beta
        else llm.GRPO(NETWORK, loss=loss, prompts=3, group=2, optimizer=PLAIN)
    )
    state = jax.jit(lambda: agent.init(KEY, GROUP_SPEC))()
    state = agent.start_from(state, policy)
    learn = jax.jit(lambda s, b: agent.learn(s, b, KEY))
    there.configure(group_trainer, **(USUAL | {"beta": beta} | chosen))
    ref, own = np.asarray(in_model(reference)), in_model(policy)
    for moved in (0.0, 0.2):
        old = own + moved * random(6, R, L) * rows_of()["mask"]
        after, metrics = learn(state, group_batch(reference, old))
        later = dict(old_per_token_logps=np.asarray(old)) if moved else {}
        theirs = whole(group_trainer, ref_per_token_logps=ref, **later)
        same(metrics["loss/total"], theirs.loss, LOSS)
        same_everywhere(there.by_their_names(gradient(after)), theirs.gradient)


@pytest.mark.slow
def test_steps_of_leave_one_out(loo_trainer: Any, policy: Any, reference: Any) -> None:
    agent = llm.RLOO(NETWORK, prompts=3, group=2, optimizer=PLAIN)
    state = agent.start_from(agent.init(KEY, GROUP_SPEC), policy)
    for moved in (0.0, 0.05):
        old = in_model(policy) + moved * random(6, R, L) * rows_of()["mask"]
        after, metrics = jax.jit(agent.learn)(state, group_batch(reference, old), KEY)
        theirs = whole(loo_trainer, old_logps=np.asarray(old).sum(1))
        same(metrics["loss/total"], theirs.loss, LOSS)
        same_everywhere(there.by_their_names(gradient(after)), theirs.gradient)


def test_batches_in_parts(group_trainer: Any) -> None:
    """TRL's `bnpo` is the mean of the means of micro-batches: cut in two, another loss. Ours are
    told the count of the whole."""
    there.configure(group_trainer, **(USUAL | dict(loss_type="bnpo", beta=0.0)))
    given = given_to_them(old_per_token_logps=OLD)
    at_once = told(group_trainer, NEW, given)[0]
    halves = (slice(0, 3), slice(3, 6))
    group_trainer.current_gradient_accumulation_steps = 2
    cut = sum(
        told(group_trainer, NEW[h], {n: x[h] if x.ndim else x for n, x in given.items()})[0]
        for h in halves
    )
    group_trainer.current_gradient_accumulation_steps = 1
    ours = PolicyLoss(Clipped(), aggregate=ByToken())
    ours_cut = sum(
        float(ours(jnp.asarray(NEW[h]), OLD[h], ADVANTAGE[h], Layout(jnp.asarray(MASK[h])),
                   count=MASK.sum())[0])
        for h in halves
    )  # fmt: skip
    same(ours_cut, at_once, LOSS)
    assert abs(cut - at_once) > 0.01 * abs(at_once)


@pytest.mark.slow
def test_truncated_sampling(group_trainer: Any, policy: Any) -> None:
    """With top-k tokens are drawn from what is left of the distribution. TRL scores them under all
    of it, so its ratio to the sampler is the mass that was kept; ours is 1."""
    sampling = llm.Sampling(top_k=3)
    prompt = jnp.asarray(rows_of()["prompt"])
    out = llm.generate(
        NETWORK, policy, prompt, jnp.asarray(rows_of()["prompt_mask"]), jax.random.key(3), sampling,
        max_new=L, group=1, stop=(1,),
    )  # fmt: skip
    ours, _ = scoring.of_completions(
        NETWORK, policy, prompt, jnp.asarray(rows_of()["prompt_mask"]), out.tokens, out.mask,
        out.kept, sampling,
    )  # fmt: skip
    mask = np.asarray(out.mask)
    same(np.asarray(ours), np.where(mask, out.log_probs, 0.0), LOSS)
    ids = np.concatenate([prompt, np.where(mask, out.tokens, 0)], axis=1)
    real = np.concatenate([rows_of()["prompt_mask"], mask], axis=1)
    with torch.no_grad():
        theirs, *_ = group_trainer._get_per_token_logps_and_entropies(
            group_trainer.model, there.tensors(ids), there.tensors(real), L
        )
    kept = np.exp(theirs.numpy() - np.asarray(out.log_probs))[mask]
    assert kept.max() < 1.0 and kept.mean() < 0.9
