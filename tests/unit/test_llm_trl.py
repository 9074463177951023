"""Losses and gradients against TRL's own trainers: ours on the left of every comparison.

First the losses as functions of log-probabilities, with TRL's loss method told what its model said;
then whole first steps of our agents, through the model, against whole steps of TRL's trainers on
the same weights and tokens. Where TRL differs, both numbers are asserted, with the reason.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import llm, spaces
from jaxrl.llm import examples, scoring, tuning
from jaxrl.llm.answers import Answers, Drawn
from jaxrl.llm.grpo import Batch
from jaxrl.llm.losses import advantages, divergence, dpo, grpo, kl, kto, ratios, reference_free, sft
from jaxrl.llm.losses.aggregate import (
    BySequence,
    BySequenceSum,
    ByToken,
    Layout,
    average,
)
from jaxrl.llm.losses.grpo import PolicyLoss
from jaxrl.llm.losses.surrogates import Cispo, Clipped, Sapo, Vespo
from jaxrl.types import Spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch: Any = pytest.importorskip("torch")
trl: Any = pytest.importorskip("trl", minversion="1.16")
pytest.importorskip("tokenizers")
there: Any = pytest.importorskip("tests.trl_trainers")
pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to fix

R, P, L = 6, 4, 5
"""Rows, tokens of a prompt and of an answer"""
LOSS, GRADIENT = 2e-5, 1e-4
"""Relative"""
KEY = jax.random.key(0)
SPEC: Any = Spec(None, None, None, 100)  # pyright: ignore
GROUP_SPEC: Any = Spec(
    spaces.Box(-1, there.VOCAB - 1, (P,), jnp.int32),
    spaces.Box(-1, there.VOCAB - 1, (L,), jnp.int32), None, 100,
)  # fmt: skip
PLAIN = tuning.AdamW(max_grad_norm=1e9)
NETWORK = there.NETWORK
KLP = kl.KLPenalty(beta=0.05, estimator=kl.k3, form=kl.weighted)

LENGTHS = (5, 3, 0, 1, 4, 2)  # of completions: one has none that count


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


MASK = np.arange(L) < np.array(LENGTHS)[:, None]
ADVANTAGE = np.array([1.3, -0.4, 0.7, -1.1, 0.6, -0.9], np.float32)


def same(ours: Any, theirs: Any, bound: float) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 1e-6  # or nothing is compared
    assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


def same_everywhere(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        same(ours[name], theirs[name], GRADIENT)


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


def started(agent: Any, policy: Any, reference: Any = None) -> Any:
    """The agent's state with these parameters, and that reference."""
    state = agent.start_from(agent.init(KEY, SPEC), policy)
    if reference is None:
        return state
    return tuning.Tuned(state.params, reference, state.opt, state.updates, state.spec)


def gradient(state: Any) -> Any:
    """Of the only step so far, from Adam's first moment."""
    return jax.tree.map(lambda x: x / (1 - 0.9), optax.tree_utils.tree_get(state.opt, "mu"))


def step(agent: Any, state: Any, batch: Any) -> tuple[float, dict[str, np.ndarray]]:
    batch = jax.tree.map(jnp.asarray, batch)
    after, metrics = jax.jit(lambda s, b: agent.learn(s, b, KEY))(state, batch)
    return float(metrics["loss/total"]), there.by_their_names(gradient(after))


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
        dict(loss_type="dapo", off_policy_mask_threshold=0.05),
        PolicyLoss(Clipped(), aggregate=ByToken()),
    ),
}  # fmt: skip


def told(trainer: Any, log_prob: np.ndarray, given: dict[str, Any], method: Any = None) -> Any:
    """TRL's loss and its gradient where the model says `log_prob`."""
    leaf = torch.tensor(log_prob, requires_grad=True)
    entropy = torch.tensor(np.abs(random(4, R, L)))
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
        keep = ratios.off_policy_mask(ADVANTAGE, jnp.asarray(NEW), jnp.asarray(OLD), layout, 0.05)
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
    theirs = told(loo_trainer, NEW, given_to_them(old_logps=(OLD * MASK).sum(1)))
    ours = PolicyLoss(Clipped(), level=ratios.product, aggregate=EMPTY)
    found = jax.value_and_grad(
        lambda x: ours(x, OLD, ADVANTAGE, Layout(jnp.asarray(MASK)))[0]
    )(jnp.asarray(NEW))  # fmt: skip
    same(found[0], theirs[0], LOSS)
    same(found[1], theirs[1], LOSS)


def test_the_kl_beside_ratios_of_completions_is_weighted_by_them(group_trainer: Any) -> None:
    """TRL weighs the KL estimate of a token by the ratio of that token, although VESPO's ratios are
    those of completions: off-policy that is not the expectation under the policy. Ours is weighted
    by the ratio that the loss itself uses."""
    there.configure(group_trainer, **(USUAL | dict(loss_type="vespo", beta=0.0)))
    given = given_to_them(old_per_token_logps=OLD, ref_per_token_logps=REF)
    without = told(group_trainer, NEW, given)[0]
    there.configure(group_trainer, beta=0.05)
    theirs = told(group_trainer, NEW, given)[0] - without
    ours = PolicyLoss(Vespo(), level=ratios.product, kl=KLP)(
        jnp.asarray(NEW), OLD, ADVANTAGE, Layout(jnp.asarray(MASK)), ref=jnp.asarray(REF)
    )[1]["loss/kl"]
    new, old, ref = (x.astype(np.float64) for x in (NEW, OLD, REF))
    k3 = np.where(MASK, np.exp(ref - new) - (ref - new) - 1, 0.0)
    whole = np.exp((new - old).sum(1, keepdims=True))
    right, tokens = (0.05 * (w * k3).sum() / MASK.sum() for w in (whole, np.exp(new - old)))
    same(ours, right, LOSS)
    same(theirs, tokens, 1e-4)  # a difference of two losses
    assert abs(right - tokens) > 2e-3 * right


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


# -------------------------------------------------------------------- preferences of log-probs

B, T = 4, 9
PROMPT = 3
SIZES = {"chosen": (6, 2, 4, 3), "rejected": (3, 5, 1, 6)}


def side_mask(side: str) -> np.ndarray:
    at = np.arange(T)[None]
    return (at >= PROMPT) & (at < PROMPT + np.array(SIZES[side])[:, None])


SIDE_MASKS = {side: side_mask(side) for side in SIZES}
BOTH_MASKS = np.concatenate([SIDE_MASKS["chosen"], SIDE_MASKS["rejected"]])
SHIFTED = BOTH_MASKS[:, 1:]
PAIR_NEW = -np.abs(random(11, 2 * B, T - 1)) * SHIFTED
PAIR_REF = (PAIR_NEW + 0.6 * random(12, 2 * B, T - 1)) * SHIFTED
COLLISION = -np.abs(random(13, 2 * B, T - 1))


@pytest.fixture(scope="module")
def pair_trainer(folder: Path) -> Any:
    args = trl.DPOConfig(**there.settings(folder), use_weighting=True)
    return there.ready(
        trl.DPOTrainer(
            there.model(folder), there.model(folder, "reference"), args,
            train_dataset=there.dataset("pairs"), processing_class=there.tokenizer(),
        )
    )  # fmt: skip


PAIR_USUAL: dict[str, Any] = dict(
    beta=0.3, label_smoothing=0.0, f_divergence_type="reverse_kl", ld_alpha=None,
    use_weighting=False, loss_weights=[1.0], f_alpha_divergence_coef=0.5, discopop_tau=0.05,
)  # fmt: skip
MPO = ((0.8, partial(dpo.dpo, beta=0.3)), (0.2, partial(dpo.bco, beta=0.3)))

PAIRS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "sigmoid": ({}, dpo.dpo, {}),
    "hinge": ({}, dpo.hinge, {}),
    "ipo": ({}, dpo.ipo_mean, {}),
    "exo_pair": (dict(label_smoothing=0.05), partial(dpo.exo, smoothing=0.05), {}),
    "nca_pair": ({}, dpo.nca, {}),
    "robust": (dict(label_smoothing=0.1), partial(dpo.robust, smoothing=0.1), {}),
    "bco_pair": ({}, dpo.bco, {}),
    "sppo_hard": ({}, dpo.sppo, {}),
    "aot": (dict(label_smoothing=0.1), partial(dpo.aot, smoothing=0.1), {}),
    "aot_unpaired": (dict(label_smoothing=0.1), partial(dpo.aot_unpaired, smoothing=0.1), {}),
    "apo_zero": ({}, dpo.apo_zero, {}),
    "apo_down": ({}, dpo.apo_down, {}),
    "discopop": ({}, dpo.discopop, {}),
    "sigmoid_norm": ({}, dpo.dpo_mean, {}),
    "sigmoid, forward": (
        dict(f_divergence_type="forward_kl"), dpo.dpo, dict(divergence=divergence.forward_kl)
    ),
    "sigmoid, js": (
        dict(f_divergence_type="js_divergence"), dpo.dpo, dict(divergence=divergence.jensen_shannon)
    ),
    "hinge, alpha": (
        dict(f_divergence_type="alpha_divergence"), dpo.hinge,
        dict(divergence=divergence.Alpha(a=0.5)),
    ),
    "sigmoid, tail": (dict(ld_alpha=0.4), dpo.dpo, dict(tail=0.4)),
    "sigmoid, weighed": (dict(use_weighting=True), dpo.dpo, dict(weigh=True)),
    "mixture": (
        dict(loss_types=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]), MPO,
        dict(nll=1.0),
    ),
}  # fmt: skip


def side(x: Any, n: int) -> Any:
    return x[:B] if n == 0 else x[B:]


def pair_loss(loss: Any, x: jax.Array, divergence: Any = divergence.reverse_kl, tail: Any = None,
              weigh: bool = False, nll: float = 0.0, beta: float = 0.3) -> jax.Array:  # fmt: skip
    layouts = [Layout(jnp.asarray(side(SHIFTED, n))) for n in (0, 1)]
    totals = []
    for source in (x, jnp.asarray(PAIR_REF)):
        for n in (0, 1):
            own, other = layouts[n], layouts[1 - n]
            if tail is None:
                totals.append(own.total(side(source, n)))
                continue
            totals.append(
                length_desensitised(side(source, n), own, other.lengths(), tail)
            )  # fmt: skip
    pairs = dpo.Pairs(*totals, *(each.lengths() for each in layouts), divergence=divergence)
    each = dpo.mixture(pairs, loss) if isinstance(loss, tuple) else loss(pairs, beta=beta)
    if weigh:
        for n in (0, 1):
            each *= policy_weight(side(x, n), side(jnp.asarray(COLLISION), n), layouts[n])
    return average(each) + (nll * sft.nll(side(x, 0), layouts[0]) if nll else 0.0)


length_desensitised, policy_weight = divergence.length_desensitised, divergence.policy_weight


def pretending(log_prob: Any) -> Any:
    """A model that says this."""
    zero = torch.zeros(log_prob.shape)
    said = SimpleNamespace(
        log_probs=log_prob, entropy=zero, mean_logits=zero, is_top1=zero.bool(),
        log_sum_sq_probs=torch.tensor(COLLISION),
    )  # fmt: skip
    return lambda **_: said


def told_pairs(trainer: Any, name: str, **own: Any) -> tuple[float, np.ndarray]:
    names = {"loss_types": [name.split(",")[0]]}
    there.configure(trainer, **(PAIR_USUAL | names | own))
    leaf = torch.tensor(PAIR_NEW, requires_grad=True)
    kept, trainer.ref_model = trainer.ref_model, pretending(torch.tensor(PAIR_REF))
    ids = np.ones((2 * B, T), int)
    given = dict(input_ids=ids, attention_mask=ids, completion_mask=BOTH_MASKS)
    try:
        loss = trainer._compute_loss(pretending(leaf), there.tensors(given), False)
    finally:
        trainer.ref_model = kept
    loss.backward()
    return float(loss.detach()), leaf.grad.numpy()


@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_pairs(pair_trainer: Any, name: str) -> None:
    chosen, loss, fields = PAIRS[name]
    theirs = told_pairs(pair_trainer, name, **chosen)
    found = jax.value_and_grad(lambda x: pair_loss(loss, x, **fields))(jnp.asarray(PAIR_NEW))
    same(found[0], theirs[0], LOSS)
    same(found[1], theirs[1], LOSS)


def test_label_smoothing_of_dpo(pair_trainer: Any) -> None:
    """TRL's `sigmoid` takes label_smoothing and does nothing with it; ours is cDPO."""
    plain, _ = told_pairs(pair_trainer, "sigmoid")
    theirs, _ = told_pairs(pair_trainer, "sigmoid", label_smoothing=0.2)
    assert theirs == plain
    ours = pair_loss(partial(dpo.cdpo, smoothing=0.2), jnp.asarray(PAIR_NEW))
    rows = (PAIR_NEW - PAIR_REF).astype(np.float64).sum(1)
    x = 0.3 * (rows[:B] - rows[B:])
    same(ours, np.mean(0.8 * np.log1p(np.exp(-x)) + 0.2 * np.log1p(np.exp(x))), LOSS)
    assert abs(float(ours) - theirs) > 0.01 * theirs


def test_ipo_of_sums(pair_trainer: Any) -> None:
    """The paper's IPO is of sums, as `dpo.ipo`; TRL's of means over tokens, as `dpo.ipo_mean`."""
    theirs, _ = told_pairs(pair_trainer, "ipo")
    rows = (PAIR_NEW - PAIR_REF).astype(np.float64).sum(1)
    ours = pair_loss(dpo.ipo, jnp.asarray(PAIR_NEW))
    same(ours, np.mean((rows[:B] - rows[B:] - 0.5 / 0.3) ** 2), LOSS)
    assert abs(float(ours) - theirs) > 0.1 * theirs


# --------------------------------------------------------------------- whole steps of preferences

ASKED = [[2, 3], [4, 5, 6], [7], [8, 9]]
GOOD = [[10, 11], [12], [13, 14, 15], [16]]
BAD = [[17], [18, 19, 20], [21], [22, 23, 2]]
ROOM = 8


def pair_arrays() -> Any:
    return examples.preferences(ASKED, GOOD, BAD, room=ROOM, eos=there.END).arrays


def both(arrays: Any, name: str) -> np.ndarray:
    return np.concatenate([arrays["chosen"][name], arrays["rejected"][name]])


BOUND = {
    "sigmoid": ({}, dict(loss=partial(dpo.dpo, beta=0.3))),
    "ipo": ({}, dict(loss=partial(dpo.ipo_mean, beta=0.3))),
    "sigmoid, tail": (dict(ld_alpha=0.4), dict(loss=partial(dpo.dpo, beta=0.3), tail=0.4)),
    "sigmoid, weighed": (
        dict(use_weighting=True), dict(loss=partial(dpo.dpo, beta=0.3), weigh=True)
    ),
    "mixture": (
        dict(loss_types=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]),
        dict(loss=partial(dpo.mixture, parts=MPO), nll=1.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "sigmoid" else pytest.mark.slow) for n in BOUND]
)
def test_steps_of_pairs(pair_trainer: Any, policy: Any, reference: Any, name: str) -> None:
    """A later step, when the reference is another model; at the first all log-ratios are 0."""
    chosen, fields = BOUND[name]
    arrays = pair_arrays()
    names = {"loss_types": [name.split(",")[0]]}
    there.configure(pair_trainer, **(PAIR_USUAL | names | chosen))
    given = there.tensors(dict(
        input_ids=both(arrays, "tokens"), attention_mask=both(arrays, "segments"),
        completion_mask=both(arrays, "mask"),
    ))  # fmt: skip
    theirs = there.backward(
        pair_trainer._compute_loss(pair_trainer.model, given, False), pair_trainer.model
    )
    agent = llm.DPO(NETWORK, batch_size=4, optimizer=PLAIN, **fields)
    loss, found = step(agent, started(agent, policy, reference), arrays)
    same(loss, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)


@pytest.fixture(scope="module")
def text_trainer(folder: Path) -> Any:
    args = trl.SFTConfig(**there.settings(folder))
    return there.ready(
        trl.SFTTrainer(
            there.model(folder), args, train_dataset=there.dataset("texts"),
            processing_class=there.tokenizer(),
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", ["nll", pytest.param("dft", marks=pytest.mark.slow)])
def test_steps_of_fine_tuning(text_trainer: Any, policy: Any, name: str) -> None:
    arrays = pair_arrays()["chosen"]
    labels = np.where(arrays["mask"], arrays["tokens"], -100)
    given = there.tensors(dict(
        input_ids=arrays["tokens"], attention_mask=arrays["segments"], labels=labels
    ))  # fmt: skip
    text_trainer.args.loss_type = name
    theirs = there.backward(
        text_trainer.compute_loss(text_trainer.model, given), text_trainer.model
    )
    agent = llm.SFT(NETWORK, batch_size=4, loss=getattr(sft, name), optimizer=PLAIN)
    loss, found = step(agent, started(agent, policy), arrays)
    same(loss, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)


@pytest.fixture(scope="module")
def thumb_trainer(folder: Path) -> Any:
    args = trl.KTOConfig(**there.settings(folder, beta=0.3))
    return there.ready(
        trl.KTOTrainer(
            there.model(folder), there.model(folder, "reference"), args,
            train_dataset=there.dataset("thumbs"), processing_class=there.tokenizer(),
        )
    )  # fmt: skip


LIKED = [True, False, False, True]


@pytest.mark.parametrize("name", ["kto", pytest.param("apo_zero_unpaired", marks=pytest.mark.slow)])
def test_steps_of_thumbs(thumb_trainer: Any, policy: Any, reference: Any, name: str) -> None:
    there.configure(
        thumb_trainer, loss_type=name, calculate_KL=name == "kto", desirable_weight=1.2,
        undesirable_weight=0.9,
    )  # fmt: skip
    answers = [[*a, there.END] for a in GOOD]
    rows = [
        dict(prompt_ids=p, completion_ids=a, KL_completion_ids=k, label=good)
        for p, a, k, good in zip(ASKED, answers, answers[-1:] + answers[:-1], LIKED, strict=True)
    ]
    collated = trl.trainer.kto_trainer.DataCollatorForUnpairedPreference(there.PAD)(rows)
    theirs = there.backward(
        thumb_trainer._compute_loss(thumb_trainer.model, collated, False), thumb_trainer.model
    )
    data = examples.thumbs(ASKED, GOOD, LIKED, prompt_room=3, answer_room=4, eos=there.END)
    loss = partial(getattr(kto, name), beta=0.3, desirable_weight=1.2, undesirable_weight=0.9)
    agent = llm.KTO(NETWORK, batch_size=4, loss=loss, point=name == "kto", optimizer=PLAIN)
    value, found = step(agent, started(agent, policy, reference), data.arrays)
    same(value, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)
    if name == "kto":  # or the reference point is not compared
        assert thumb_trainer._metrics["train"]["kl"][-1] > 0.05


@pytest.fixture(scope="module")
def free_trainer(folder: Path) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer  # pyright: ignore

    args = CPOConfig(**there.settings(folder, loss_type="simpo", max_length=32))
    return there.ready(
        CPOTrainer(
            there.model(folder), args, train_dataset=there.dataset("pairs"),
            processing_class=there.tokenizer(),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def odds_trainer(folder: Path) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # pyright: ignore

    args = ORPOConfig(**there.settings(folder, beta=0.1, max_length=32))
    return there.ready(
        ORPOTrainer(
            there.model(folder), args, train_dataset=there.dataset("pairs"),
            processing_class=there.tokenizer(),
        )
    )  # fmt: skip


def apart(arrays: Any) -> dict[str, Any]:
    """The layout of TRL's experimental trainers."""
    found: dict[str, Any] = {}
    for side, rows in arrays.items():
        found |= {
            f"{side}_input_ids": rows["tokens"],
            f"{side}_attention_mask": rows["segments"],
            f"{side}_labels": np.where(rows["mask"], rows["tokens"], -100),
        }
    return there.tensors(found)


FREE: dict[str, tuple[dict[str, Any], Any]] = {
    "simpo": (
        dict(loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.0, alpha=0.0), llm.SimPO
    ),
    "alpha": (
        dict(loss_type="simpo", beta=2.0, simpo_gamma=0.5, cpo_alpha=0.0, alpha=0.1), llm.AlphaPO
    ),
    "cpo": (
        dict(loss_type="sigmoid", beta=0.1, cpo_alpha=1.0, alpha=0.0, label_smoothing=0.1),
        partial(llm.CPO, loss=partial(reference_free.cpo, beta=0.1, smoothing=0.1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "simpo" else pytest.mark.slow) for n in FREE]
)
def test_steps_without_reference(free_trainer: Any, policy: Any, name: str) -> None:
    chosen, method = FREE[name]
    there.configure(free_trainer, **({"label_smoothing": 0.0} | chosen))
    theirs, _ = free_trainer.get_batch_loss_metrics(free_trainer.model, apart(pair_arrays()))
    theirs = there.backward(theirs, free_trainer.model)
    agent = method(NETWORK, batch_size=4, optimizer=PLAIN)
    loss, found = step(agent, started(agent, policy), pair_arrays())
    same(loss, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)


def test_alpha_po_of_improbable_answers(free_trainer: Any) -> None:
    """TRL forms the probability itself, which is 0 in float32 below a mean of -104 per token."""
    there.configure(free_trainer, loss_type="simpo", beta=2.0, simpo_gamma=0.5, alpha=0.1)
    means = np.array([[-120.0], [-121.0]], np.float32)
    theirs, *_ = free_trainer.cpo_loss(*torch.tensor(means))
    ours = reference_free.alpha_po(*jnp.asarray(means), alpha=0.1)
    reward = (1 - np.exp(-0.1 * means.astype(np.float64))) / 0.1
    x = 2.0 * (reward[0] - reward[1]) - 0.5
    assert not torch.isfinite(theirs).all()
    np.testing.assert_allclose(ours, np.log1p(np.exp(-x)), atol=1e-6)


def test_cdpo_is_their_cpo_of_log_ratios(free_trainer: Any) -> None:
    there.configure(free_trainer, loss_type="sigmoid", beta=0.3, alpha=0.0, label_smoothing=0.2)
    rows = (PAIR_NEW - PAIR_REF).sum(1)
    theirs, *_ = free_trainer.cpo_loss(torch.tensor(rows[:B]), torch.tensor(rows[B:]))
    ours = pair_loss(partial(dpo.cdpo, smoothing=0.2), jnp.asarray(PAIR_NEW))
    same(ours, float(theirs.mean()), LOSS)


@pytest.mark.slow
def test_steps_of_odds(odds_trainer: Any, policy: Any) -> None:
    theirs, _ = odds_trainer.get_batch_loss_metrics(odds_trainer.model, apart(pair_arrays()))
    theirs = there.backward(theirs, odds_trainer.model)
    agent = llm.ORPO(NETWORK, batch_size=4, optimizer=PLAIN)
    loss, found = step(agent, started(agent, policy), pair_arrays())
    same(loss, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)


# -------------------------------------------------------------------------------- reward models


@pytest.fixture(scope="module")
def reward_trainer(folder: Path) -> Any:
    args = trl.RewardConfig(**there.settings(folder, center_rewards_coefficient=0.02))
    return there.ready(
        trl.RewardTrainer(
            there.scorer(folder), args, train_dataset=there.dataset("choices"),
            processing_class=there.tokenizer(),
        )
    )  # fmt: skip


def rewarded(trainer: Any, policy: Any, margin: Any) -> tuple[Any, Any]:
    arrays = pair_arrays()
    given = there.tensors(dict(
        input_ids=both(arrays, "tokens"), attention_mask=both(arrays, "segments"), margin=margin
    ))  # fmt: skip
    theirs = there.backward(trainer.compute_loss(trainer.model, given), trainer.model)
    agent = llm.RewardModel(NETWORK, batch_size=4, centring=0.02, optimizer=PLAIN)
    head = jnp.asarray(trainer.model.score.weight.detach().numpy()[0])
    state = started(agent, {"trunk": policy, "score": head})
    batch = jax.tree.map(jnp.asarray, arrays | {"margin": margin})
    after, metrics = jax.jit(lambda s, b: agent.learn(s, b, KEY))(state, batch)
    found = gradient(after)
    named = {n: x for n, x in there.by_their_names(found["trunk"]).items() if n != "lm_head.weight"}
    return theirs, (metrics["loss/total"], named | {"score.weight": found["score"][None]})


MARGIN = np.array([0.3, 0.0, 1.0, 0.5], np.float32)


def test_steps_of_reward_models(reward_trainer: Any, policy: Any) -> None:
    theirs, (loss, found) = rewarded(reward_trainer, policy, MARGIN)
    same(loss, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)


def test_scores_where_the_end_is_also_padding(reward_trainer: Any, policy: Any) -> None:
    """transformers, and with it TRL, looks for the last token that is not the padding token: with
    the end token for padding, which TRL chooses if there is none, the end is never scored."""
    config = reward_trainer.model.config
    config.pad_token_id = there.END
    theirs, (loss, found) = rewarded(reward_trainer, policy, MARGIN)
    config.pad_token_id = there.PAD
    right, _ = rewarded(reward_trainer, policy, MARGIN)
    same(loss, right.loss, LOSS)
    same_everywhere(found, right.gradient)
    assert abs(theirs.loss - right.loss) > 0.01 * right.loss
