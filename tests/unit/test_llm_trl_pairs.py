"""Preferences, fine-tuning and reward models against TRL's own trainers, as in test_llm_trl.py."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import llm
from jaxrl.llm import examples
from jaxrl.llm.losses import divergence, dpo, kto, reference_free, sft
from jaxrl.llm.losses.aggregate import Layout, average

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch: Any = pytest.importorskip("torch")
trl: Any = pytest.importorskip("trl", minversion="1.16")
pytest.importorskip("tokenizers")
there: Any = pytest.importorskip("tests.trl_trainers")
pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to fix

KEY, PLAIN, NETWORK, LOSS = there.KEY, there.PLAIN, there.NETWORK, there.LOSS
random, same, same_everywhere = there.random, there.same, there.same_everywhere
gradient, started, step = there.gradient, there.started, there.step


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
    return float(loss.detach()), leaf.grad.numpy() * SHIFTED  # their models say 0 elsewhere


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
            there.model(folder, "reference"), there.model(folder), args,
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
    value, found = step(agent, started(agent, reference, policy), data.arrays)
    same(value, theirs.loss, LOSS)
    same_everywhere(found, theirs.gradient)
    if name == "kto":  # at 0 it would not be compared
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
