"""R2D2: its targets, its burn-in, its priorities, and a task that only memory solves."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import networks, rollout, sequences, spaces
from jaxrl.agents.value.r2d2 import R2D2, Batch, State
from jaxrl.priority import Prioritized
from jaxrl.replay import Index
from jaxrl.types import PyTree, Spec

KEY = jax.random.key(0)
SMALL = R2D2(
    num_envs=3,
    num_steps=4,
    burn_in=2,
    length=5,
    n_steps=2,
    batch_size=6,
    capacity=120,
    learning_starts=24,
    grad_steps=1,
    gamma=0.9,
    torso=networks.LSTM(6),
    head=networks.Headed,
)


def played(agent: R2D2, env: Any, rollouts: int = 8) -> tuple[State, Any]:
    """A state whose replay is filled, and which has not learned."""
    spec = Spec(env.obs_space, env.action_space, env.time_limit, 10_000)
    state = agent.init(KEY, spec)
    target = jax.tree.map(lambda x: x + 0.1, state.params)  # so that the two networks disagree
    state = dataclasses.replace(state, target=target)
    streams = rollout.start(agent, env, jax.random.key(1))
    collect = jax.jit(lambda t, k: rollout.collect(agent, env, spec, state, t, k))
    buffer = state.sequences
    assert buffer is not None
    for i in range(rollouts):
        streams, got, _ = collect(streams, jax.random.key(i + 2))
        buffer = sequences.add(buffer, got)
    return dataclasses.replace(state, sequences=buffer), got


def drawn(agent: R2D2, state: State) -> Batch:
    assert state.sequences is not None
    head = state.sequences.head.value
    row = (head - 2 - jnp.arange(6) // 3 * 3) % (state.sequences.rows + 1)
    index = Index(row, jnp.arange(6) % 3, jnp.linspace(0.5, 1.0, 6))
    return agent._gather(state.sequences, index)


def loop(agent: R2D2, params: PyTree, spec: Spec, batch: Batch, b: int) -> tuple[Any, Any]:
    """Q along one sequence, step by step: at s_t [S, A], and at the true next states [S, A]."""
    memory = jax.tree.map(lambda m: m[b : b + 1], batch.learn.memory)
    parts = [batch.learn] if batch.burn_in is None else [batch.burn_in, batch.learn]
    now: list[np.ndarray] = []
    after: list[np.ndarray] = []
    for part in parts:
        now, after = [], []
        steps = part.reward.shape[0]
        for t in range(steps):
            if part.first[t, b]:
                memory = jax.tree.map(jnp.zeros_like, memory)
            q, memory = agent.q(params, spec, part.obs[t, b][None], memory)
            now.append(np.asarray(q[0]))
            following = part.last_obs[b] if t == steps - 1 else part.obs[t + 1, b]
            if part.truncated[t, b]:
                following = part.final_obs[t // (spec.time_limit or 1), b]
            q, _ = agent.q(params, spec, following[None], memory)
            after.append(np.asarray(q[0]))
    return np.stack(now), np.stack(after)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_the_loss_is_that_of_a_loop(burn_in: int) -> None:
    """s1, s4, s5, d1 with memory: time limits of three steps and falls inside the sequences."""
    env = jaxrl.envs.make("CartPole-v1", max_steps=3)
    agent = dataclasses.replace(SMALL, burn_in=burn_in)
    state, _ = played(agent, env)
    batch = drawn(agent, state)
    assert batch.learn.truncated.any() and batch.learn.first.any()
    terminated = batch.learn.terminated.at[2, 0].set(True)
    truncated = batch.learn.truncated.at[2, 0].set(False)
    ended = dataclasses.replace(batch.learn, terminated=terminated, truncated=truncated)
    batch = dataclasses.replace(batch, learn=ended)
    _, metrics, priority = jax.jit(agent._step)(state, batch)

    total, n, length = 0.0, agent.n_steps, agent.length
    for b in range(6):
        q, online = loop(agent, state.params, state.spec, batch, b)
        _, target = loop(agent, state.target, state.spec, batch, b)
        errors = []
        for t in range(length):
            value, discount = 0.0, 1.0
            for i in range(t, t + n):
                value += discount * float(ended.reward[i, b])
                discount *= 0.9
                if ended.terminated[i, b]:
                    discount = 0.0
                if ended.terminated[i, b] or ended.truncated[i, b] or i == t + n - 1:
                    value += discount * target[i][online[i].argmax()]
                    break
            errors.append(value - q[t][int(ended.action[t, b])])
        size = np.abs(errors)
        total += float(batch.weight[b]) * np.mean(0.5 * size**2) / 6
        assert float(priority[b]) == pytest.approx(0.9 * size.max() + 0.1 * size.mean(), rel=1e-4)
    assert float(metrics["loss/td"]) == pytest.approx(total, rel=1e-4)


def test_no_gradient_flows_through_the_burn_in() -> None:
    """The gradient is that of the learned part alone, with the memory as a constant."""
    state, _ = played(SMALL, jaxrl.envs.make("CartPole-v1"))
    batch = drawn(SMALL, state)
    assert batch.burn_in is not None
    _, memories = SMALL.q(
        state.params, state.spec, batch.burn_in.obs, batch.learn.memory, batch.burn_in.first
    )
    warm = jax.tree.map(lambda m: m[-1], memories)
    alone = Batch(None, dataclasses.replace(batch.learn, memory=warm), batch.weight)

    def q(params: PyTree, batch: Batch) -> jax.Array:
        return SMALL._along(params, state.spec, batch)[0].sum()

    got, expected = (jax.grad(q)(state.params, b) for b in (batch, alone))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    # And the burn-in does matter: without it the values are others.
    cold = Batch(None, batch.learn, batch.weight)
    assert abs(float(q(state.params, cold) - q(state.params, batch))) > 1e-4


def test_the_stored_memory_is_that_of_play() -> None:
    agent = dataclasses.replace(SMALL, burn_in=0)
    state, _ = played(agent, jaxrl.envs.make("CartPole-v1"))
    assert state.sequences is not None
    old = sequences.gather(
        state.sequences,
        Index(
            (state.sequences.head.value - 4 + jnp.zeros(3, int)) % 11, jnp.arange(3), jnp.ones(3)
        ),
        12,
    )
    # Parameters have not changed: playing a sequence again gives the memory stored 8 steps later.
    _, memories = agent.q(state.params, state.spec, old.obs, old.memory, old.first)
    row = (state.sequences.head.value - 2) % 11
    for got, stored in zip(memories, state.sequences.memory, strict=True):
        np.testing.assert_allclose(got[7], stored[row], atol=1e-6)
        assert jnp.abs(stored[row]).max() > 1e-3


def test_warm_up_and_prioritised_sequences() -> None:
    agent = dataclasses.replace(SMALL, sampler=Prioritized(), learning_starts=36, grad_steps=2)
    state, got = played(agent, jaxrl.envs.make("CartPole-v1"), 1)
    state = agent.init(KEY, state.spec)
    update = jax.jit(agent.update)
    for i in range(4):
        state, metrics = update(state, got, KEY)
        assert bool(jnp.isnan(metrics["loss/td"])) == (i < 2)
    assert state.grad_steps.value == 4
    leaves = np.asarray(state.sampler.tree.levels[0]).ravel()
    # Four rollouts in three environments; two rollouts make a sequence of 8 steps.
    assert (leaves > 0).sum() == 9 and len(np.unique(leaves[leaves > 0])) > 2


def test_a_mask_is_never_crossed() -> None:
    mask = jnp.array([[True, False, True], [False, True, False]])
    obs = {"observation": jnp.zeros((2, 2)), "action_mask": mask}
    box, bits = spaces.Box(-1, 1, (2,)), spaces.Box(0, 1, (3,), bool)
    spec = Spec(spaces.Dict({"observation": box, "action_mask": bits}), spaces.Discrete(3), None)
    state = SMALL.init(KEY, spec)
    for i in range(20):
        for explore in (True, False):
            action = SMALL.act(state, obs, jax.random.key(i), explore).action
            assert mask[jnp.arange(2), action].all()


def test_bytes_and_refusals() -> None:
    spec = Spec(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), 500)
    state = SMALL.init(KEY, spec)
    held = sum(x.nbytes for x in jax.tree.leaves((state.sequences, state.sampler)))
    assert SMALL.memory(spec) == held
    with pytest.raises(ValueError, match="capacity=24 or more"):
        dataclasses.replace(SMALL, capacity=12, learning_starts=0).init(KEY, spec)


def test_probe_memory() -> None:
    agent = R2D2(
        num_envs=8, num_steps=4, burn_in=4, length=8, n_steps=2, gamma=0.9, lr=3e-3,
        capacity=8192, learning_starts=500, torso=networks.GRU(16),
    )  # fmt: skip
    env = jaxrl.envs.make("Probe-Memory")
    result = jaxrl.train(agent, env, KEY, steps=12_000)
    assert jaxrl.evaluate(result, env, episodes=64).mean == pytest.approx(1.0)
