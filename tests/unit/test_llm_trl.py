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

from jaxrl import llm
from jaxrl.llm import examples, tuning
from jaxrl.llm.answers import Answers, Drawn
from jaxrl.llm.grpo import Batch
from jaxrl.llm.losses import advantages, divergence, dpo, grpo, kl, kto, ratios, reference_free, sft
from jaxrl.llm.losses.aggregate import (
    ByLength,
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

LOSS, GRADIENT = 2e-5, 1e-4
"""Relative"""
KEY = jax.random.key(0)
SPEC: Any = Spec(None, None, None, 100)  # pyright: ignore
PLAIN = tuning.AdamW(max_grad_norm=1e9)
NETWORK = there.NETWORK
KLP = kl.KLPenalty(beta=0.05, estimator=kl.k3, form=kl.weighted)

R, P, L = 6, 4, 5
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


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("name", GROUP)
def test_policy_losses(group_trainer: Any, name: str, beta: float) -> None:
    chosen, ours = GROUP[name]
    if beta:
        ours = PolicyLoss(**(vars(ours) | {"kl": KLP}))
    there.configure(group_trainer, **(USUAL | {"beta": beta} | chosen))
    theirs = told(group_trainer, NEW, given_to_them(old_per_token_logps=OLD, ref_per_token_logps=REF))
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
    theirs = told(group_trainer, NEW, given_to_them(old_per_token_logps=OLD, ref_per_token_logps=REF))
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
