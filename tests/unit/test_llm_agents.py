"""What GRPO, PPO and distillation have in common: the step size over a run, gold scores watched."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import optim
from jaxrl.llm import GRPO, PPO, AdamW, Distill
from jaxrl.llm.tasks import Scored
from jaxrl.types import Counter
from tests.echo import NETWORK, Echo, played

AGENTS = {
    "GRPO": lambda **kw: GRPO(NETWORK, prompts=2, group=2, **kw),
    "PPO": lambda **kw: PPO(NETWORK, prompts=4, epochs=1, minibatches=1, **kw),
    "Distill": lambda **kw: Distill(NETWORK, NETWORK, prompts=4, **kw),
}


def learned(state: Any) -> Any:
    return state.params, getattr(state, "critic", None)


@pytest.mark.parametrize("name", AGENTS)
def test_the_step_size_follows_the_run(name: str) -> None:
    """64 steps are planned, four in each iteration: sixteen updates. Adam's first direction does
    not depend on the step size, so after eight of them the step is half the first one."""
    agent = AGENTS[name](lr=1e-3, optimizer=AdamW(anneal=optim.linear))
    state, rollout = played(agent, Echo())
    update = jax.jit(agent.update)

    def moved(updates: int) -> Any:
        begun = dataclasses.replace(state, updates=Counter(jnp.int32(updates)))
        after = update(begun, rollout, jax.random.key(3))[0]
        return jax.tree.map(lambda x, y: np.asarray(y - x), learned(begun), learned(after))

    first, middle, over = moved(0), moved(8), moved(16)
    assert max(abs(x).max() for x in jax.tree.leaves(first)) > 1e-6
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, 2 * y, atol=5e-7), first, middle)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), over)


@pytest.mark.parametrize("name", AGENTS)
def test_a_learned_reward_is_watched_beside_the_gold_one(name: str) -> None:
    def doubled(params: Any, prompt: jax.Array, completion: jax.Array) -> jax.Array:
        return 2 * Echo().step(prompt, completion, jax.random.key(0))[1].reward

    agent = AGENTS[name]()
    state, rollout = played(agent, Scored(Echo(), doubled))
    metrics = jax.jit(agent.update)(state, rollout, jax.random.key(3))[1]
    gold = rollout.measures["gold"].mean()
    np.testing.assert_allclose(metrics["reward/mean"], 2 * gold, rtol=1e-5)
    np.testing.assert_allclose(metrics["reward/gold_gap"], gold, rtol=1e-5)
    np.testing.assert_allclose(metrics["reward/gold_correlation"], 1.0, rtol=1e-5)
