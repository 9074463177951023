"""Sequences: what a network sees along them, and a replay of them against a list of transitions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import replay, returns, sequences, spaces
from jaxrl.priority import Prioritized
from jaxrl.replay import Index, Uniform
from jaxrl.types import PyTree, Rollout, Spec

G = 0.5


def rollout(
    truncated: list[int], limit: int | None, num_steps: int, first: list[int] | None = None
) -> Rollout:
    """One environment; observation t is t + 1, and that which ended an episode at t is 100 + t."""
    cut = jnp.zeros((num_steps, 1), bool).at[jnp.array(truncated, int)].set(True)
    rows = 0 if limit is None else -(-num_steps // limit)
    final = np.zeros((rows, 1, 1))
    for t in truncated:
        final[t // (limit or 1)] = 100 + t
    start = jnp.zeros((num_steps, 1), bool).at[jnp.array(first or [], int)].set(True)
    return Rollout(
        obs=jnp.arange(1.0, num_steps + 1)[:, None, None],
        action=jnp.zeros((num_steps, 1), jnp.int32),
        reward=jnp.zeros((num_steps, 1)),
        terminated=jnp.zeros((num_steps, 1), bool),
        truncated=cut,
        first=start | jnp.concatenate([jnp.zeros((1, 1), bool), cut[:-1]]),
        last_obs=jnp.full((1, 1), num_steps + 1.0),
        final_obs=jnp.asarray(final, jnp.float32),
        extras=(),
        memory=None,
        last_memory=None,
    )


def adder(obs: PyTree, memory: PyTree, first: jax.Array | None) -> tuple[jax.Array, PyTree]:
    """Remembers the sum of the observations of its episode, which is also its output."""
    if first is None:
        memory = memory + obs[..., 0]
        return memory, memory
    sums = []
    for x, begins in zip(obs[..., 0], first, strict=True):
        memory = jnp.where(begins, 0.0, memory) + x
        sums.append(memory)
    return jnp.stack(sums), jnp.stack(sums)


def test_outputs_by_hand() -> None:
    """T = 5, truncated at 1: sums of 10 (what is remembered), 1, 2 | 3, 4, 5 | 6."""
    played = rollout([1], 3, 5)
    now, last, final = sequences.outputs(adder, played, jnp.array([10.0]), 3)
    np.testing.assert_array_equal(now[:, 0], [11, 13, 3, 7, 12])
    assert last[0] == 18
    # 101 comes after 13. Wrong: 101 or 113 with another time's memory, 3 from the next episode.
    assert final.shape == (2, 1) and final[0, 0] == 13 + 101
    after = returns.next_values(now, last, final, played.truncated, 3)
    np.testing.assert_array_equal(after[:, 0], [13, 114, 7, 12, 18])


def test_outputs_where_the_last_step_is_truncated() -> None:
    played = rollout([1, 4], 3, 5)
    now, last, final = sequences.outputs(adder, played, jnp.array([10.0]), 3)
    np.testing.assert_array_equal(final[:, 0], [114, 12 + 104])
    after = returns.next_values(now, last, final, played.truncated, 3)
    assert after[4, 0] == 116


def test_outputs_without_truncation() -> None:
    now, last, final = sequences.outputs(adder, rollout([], None, 3), jnp.array([0.0]), None)
    np.testing.assert_array_equal(now[:, 0], [1, 3, 6])
    assert last[0] == 10 and final.shape == (0, 1)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_truncation_times(limit: int) -> None:
    rng = np.random.default_rng(0)
    truncated = np.zeros((6, 50), bool)
    for n in range(50):
        t = rng.integers(limit)
        while t < 6:
            truncated[t, n] = True
            t += limit + rng.integers(3)
    when = np.asarray(sequences.truncation_times(jnp.asarray(truncated), limit))
    for t, n in np.argwhere(truncated):
        assert when[t // limit, n] == t


def test_n_step_targets_by_hand() -> None:
    reward = jnp.array([1.0, 2.0, 4.0, 8.0])[:, None]
    value = jnp.array([10.0, 20.0, 30.0, 40.0])[:, None]
    no, at1 = jnp.zeros((4, 1), bool), jnp.zeros((4, 1), bool).at[1].set(True)

    def target(terminated: jax.Array, truncated: jax.Array, n: int) -> list[float]:
        return returns.n_step(reward, value, terminated, truncated, G, n)[:, 0].tolist()

    assert target(no, no, 1) == [6, 12, 19, 28]
    assert target(no, no, 3) == [1 + 1 + 1 + 30 / 8, 2 + 2 + 2 + 5]
    # s4: a termination after the second reward; s5: a truncation bootstraps gamma^2 times V(final).
    assert target(at1, no, 3) == [1 + 1, 2]
    assert target(no, at1, 3) == [1 + 1 + 20 / 4, 2 + 10]


class Tape:
    """Many steps of two environments with ends at random, cut into rollouts of `stride`."""

    def __init__(self, limit: int | None, stride: int, rollouts: int) -> None:
        rng = np.random.default_rng(limit or 0)
        self.limit, self.stride = limit, stride
        length = stride * rollouts
        self.terminated = rng.random((length, 2)) < 0.05
        self.truncated = np.zeros((length, 2), bool)
        self.first = np.zeros((length + 1, 2), bool)
        self.first[0] = True
        since = np.zeros(2, int)
        for t in range(length):
            since += 1
            if limit is not None:
                self.truncated[t] = (since >= limit) & ~self.terminated[t]
            ended = self.terminated[t] | self.truncated[t]
            self.first[t + 1] = ended
            since[ended] = 0
        self.obs = rng.normal(size=(length + 1, 2, 1)).astype(np.float32)
        self.final = rng.normal(size=(length, 2, 1)).astype(np.float32)
        self.action = rng.integers(0, 3, (length, 2))
        self.reward = rng.normal(size=(length, 2)).astype(np.float32)
        self.memory = rng.normal(size=(length, 2, 4)).astype(np.float32)

    def rollout(self, i: int) -> Rollout:
        cut = slice(i * self.stride, (i + 1) * self.stride)
        rows = 0 if self.limit is None else -(-self.stride // self.limit)
        final = np.zeros((rows, 2, 1), np.float32)
        for t, n in np.argwhere(self.truncated[cut]):
            final[t // (self.limit or 1), n] = self.final[cut][t, n]
        return Rollout(
            obs=jnp.asarray(self.obs[cut]),
            action=jnp.asarray(self.action[cut], jnp.int32),
            reward=jnp.asarray(self.reward[cut]),
            terminated=jnp.asarray(self.terminated[cut]),
            truncated=jnp.asarray(self.truncated[cut]),
            first=jnp.asarray(self.first[cut]),
            last_obs=jnp.asarray(self.obs[cut.stop]),
            final_obs=jnp.asarray(final),
            extras=(),
            memory=jnp.asarray(self.memory[cut.start]),
            last_memory=None,
        )


@pytest.mark.parametrize("limit", [None, 2, 3, 9])
def test_equals_a_tape(limit: int | None) -> None:
    stride, rows, steps, skip = 4, 5, 7, 3  # 3 rollouts are needed, 5 are kept
    spec = Spec(spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(3), limit)
    tape = Tape(limit, stride, 13)
    ring = sequences.init(spec, rows * stride * 2, 2, stride, jnp.zeros((2, 4)))
    add, cuts = jax.jit(sequences.add), 0
    for i in range(13):
        ring = add(ring, tape.rollout(i))
        held = min(i + 1, rows)
        assert ring.filled.value == held
        for ago in range(3, held + 1):
            row = jnp.full(2, (ring.head.value - ago) % (rows + 1))
            got = sequences.gather(ring, Index(row, jnp.arange(2), jnp.ones(2)), steps, skip)
            start = (i + 1 - ago) * stride
            np.testing.assert_array_equal(got.memory, tape.memory[start])
            cut = slice(start + skip, start + skip + steps)
            for name in ("obs", "action", "reward", "terminated", "truncated", "first"):
                np.testing.assert_array_equal(getattr(got, name), getattr(tape, name)[cut], name)
            np.testing.assert_array_equal(got.last_obs, tape.obs[cut.stop])
            for t, n in np.argwhere(tape.truncated[cut]):
                cuts += 1
                np.testing.assert_array_equal(got.final_obs[t // limit, n], tape.final[cut][t, n])
    assert (cuts > 0) == (limit is not None)


@pytest.mark.parametrize("sampler", [Uniform(), Prioritized()])
def test_samplers_draw_whole_sequences_of_rollouts(sampler: Any) -> None:
    """s12: sequences of three rollouts out of five begin in the oldest three, equally often."""
    spec = Spec(spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(3))
    tape = Tape(None, 2, 8)
    ring = sequences.init(spec, 5 * 2 * 2, 2, 2, jnp.zeros((2, 4)))
    memory = sampler.init(ring)
    for i in range(8):
        ring = sequences.add(ring, tape.rollout(i))
        memory = sampler.added(memory, ring, 1, 3)
    index = sampler.draw(memory, ring, jax.random.key(0), 6000, 3, jnp.zeros(()))
    ago = (ring.head.value - index.row - 1) % 6 + 1
    counts = np.zeros((6, 2))
    np.add.at(counts, (np.asarray(ago), np.asarray(index.env)), 1)
    assert not counts[:3].any()
    np.testing.assert_allclose(counts[3:], 1000, atol=150)
    if isinstance(sampler, Prioritized):
        one = Index(index.row[:1], index.env[:1], index.weight[:1])
        memory = sampler.learned(memory, ring, one, jnp.array([1e-3]))
        again = sampler.draw(memory, ring, jax.random.key(1), 6000, 3, jnp.zeros(()))
        hits = (again.row == one.row[0]) & (again.env == one.env[0])
        assert hits.sum() < 100


def test_refusals() -> None:
    spec = Spec(spaces.Box(-1, 1, (1,)), spaces.Discrete(3))
    with pytest.raises(ValueError, match="capacity=16"):
        sequences.init(spec, 20, 2, 4, jnp.zeros((2, 4)))
    ring = sequences.init(spec, 16, 2, 4, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="every 4 steps"):
        sequences.add(ring, Tape(None, 2, 2).rollout(0))
    assert dataclasses.replace(ring).rows == 2 and isinstance(ring.replay, replay.Replay)
