"""Sequences for agents that remember: reading networks along them, and keeping them in a replay.

The replay is the ring of transitions of `jaxrl.replay` with one thing more: the memories with which
each rollout began. A sequence begins where a rollout began, with the memory stored there
(Kapturowski et al. 2019, section 3), and may be longer than a rollout. It may cross the border
between two episodes, because its first-step flags reset the memory there, as they did in play.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import mesh, spaces
from jaxrl import replay as transitions
from jaxrl.replay import FIRST, TERMINATED, TRUNCATED, Index, Replay
from jaxrl.struct import static, struct
from jaxrl.types import Counter, PyTree, Rollout, Spec

Network = Callable[[PyTree, PyTree, jax.Array | None], tuple[Any, PyTree]]
"""obs, memory, first -> outputs, memory: a sequence [T, N, ...] with `first`, a step without."""


def truncation_times(truncated: jax.Array, time_limit: int | None) -> jax.Array:
    """[T, N] -> [R, N]: when the episode was truncated whose true last observation is that of row
    r, r = t // L. Any time in the row's block where none was."""
    num_steps, num_envs = truncated.shape
    if time_limit is None:
        return jnp.zeros((0, num_envs), jnp.int32)
    span = min(time_limit, num_steps)
    rows = -(-num_steps // span)
    padding = jnp.zeros((rows * span - num_steps, num_envs), bool)
    blocks = jnp.concatenate([truncated, padding]).reshape(rows, span, num_envs)
    return jnp.argmax(blocks, axis=1) + span * jnp.arange(rows)[:, None]


def outputs(
    network: Network, rollout: Rollout, memory: PyTree, time_limit: int | None
) -> tuple[PyTree, PyTree, PyTree]:
    """-> a network's outputs for `rollout.obs` [T, N, ...], `last_obs` [N, ...] and `final_obs`
    [R, N, ...], each with the memory of its own time. `memory` [N, ...] is that of the beginning.

    An observation that ended an episode is seen with what was remembered of that episode: the
    memory after the step before it, and not reset.
    """
    out, memories = network(rollout.obs, memory, rollout.first)
    when = truncation_times(rollout.truncated, time_limit)  # [R, N]
    env = jnp.arange(when.shape[1])

    def then(m: jax.Array) -> jax.Array:
        return jnp.concatenate([m[-1:], m[when, env]])  # [1 + R, N, ...]

    obs = jax.tree.map(
        lambda last, final: jnp.concatenate([last[None], final]),
        rollout.last_obs,
        rollout.final_obs,
    )
    after, _ = network(obs, jax.tree.map(then, memories), None)
    last = jax.tree.map(lambda x: x[0], after)
    final = jax.tree.map(lambda x: x[1:], after)
    return out, last, final


@struct
class Sequences:
    """A replay of transitions and the memories at the beginning of each of its K rollouts. It is a
    `jaxrl.replay.Ring` of rollouts, so that samplers of transitions also draw sequences."""

    replay: Replay
    memory: PyTree  # [K + 1, N, ...]; the row at the head waits for its rollout
    head: Counter  # the row that is written next
    filled: Counter  # rows that hold a memory, at most K
    stride: int = static()
    """Steps of a rollout, hence between two beginnings."""

    stack = 1
    store = True  # for jaxrl.guard: too large to look through at every iteration

    @property
    def rows(self) -> int:
        return self.replay.rows // self.stride

    @property
    def num_envs(self) -> int:
        return self.replay.num_envs


def init(spec: Spec, capacity: int, num_envs: int, stride: int, memory: PyTree) -> Sequences:
    """Room for `capacity` transitions in all; `memory` [N, ...] is one as it is stored."""
    if capacity <= 0 or capacity % (num_envs * stride):
        fits = max(1, capacity // (num_envs * stride)) * num_envs * stride
        raise ValueError(
            f"capacity={capacity} is not a number of whole rollouts of num_envs={num_envs} x "
            f"num_steps={stride} = {num_envs * stride} steps: write for instance capacity={fits}."
        )
    rows = capacity // (num_envs * stride)
    return Sequences(
        replay=transitions.init(spec, capacity, num_envs),
        memory=jax.tree.map(lambda m: jnp.zeros((rows + 1, *m.shape), m.dtype), memory),
        head=Counter.zero(),
        filled=Counter.zero(),
        stride=stride,
    )


def add(sequences: Sequences, rollout: Rollout) -> Sequences:
    """Append a rollout, which follows the one added before."""
    if rollout.reward.shape[0] != sequences.stride:
        raise ValueError(
            f"a rollout of {rollout.reward.shape[0]} steps does not fit sequences that begin every "
            f"{sequences.stride} steps."
        )
    head, rollout = sequences.head.value, mesh.whole(rollout)

    def write(ring: jax.Array, memory: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(ring, memory, head, 0)

    return dataclasses.replace(
        sequences,
        replay=transitions.add(sequences.replay, rollout),
        memory=jax.tree.map(write, sequences.memory, rollout.memory),
        head=Counter((head + 1) % (sequences.rows + 1)),
        filled=Counter(jnp.minimum(sequences.filled.value + 1, sequences.rows)),
    )


def gather(sequences: Sequences, index: Index, steps: int, skip: int = 0) -> Rollout:
    """The `steps` steps of B sequences that follow their first `skip` ones, as a rollout of B
    environments whose `memory` is that of the beginning, before the skipped steps.

    `index.row` are rows of `Sequences`, drawn so that all the steps lie in the replay.
    """
    index = mesh.spread(index)
    replay, env = sequences.replay, index.env
    ring_rows, limit = replay.rows + 1, replay.spec.time_limit
    rollouts_ago = (sequences.head.value - index.row - 1) % (sequences.rows + 1) + 1
    age = rollouts_ago * sequences.stride - skip  # [B] of the first step; the newest has age 1
    row = (replay.head.value - age + jnp.arange(steps + 1)[:, None]) % ring_rows  # [steps + 1, B]
    flags = transitions.take(replay.flags, row[:-1], env)
    truncated = (flags & TRUNCATED) > 0
    obs = jax.tree.map(lambda ring: transitions.take(ring, row, env), replay.obs)

    when = truncation_times(truncated, limit)  # [R, B]
    block = when
    if limit is not None:
        time = replay.clock.value - age + when
        block = time % transitions.cycle(replay) // limit
    final = jax.tree.map(lambda ring: transitions.take(ring, ring_rows + block, env), replay.obs)
    action = transitions.take(replay.action, row[:-1], env)
    if not isinstance(replay.spec.action_space, spaces.Box):
        action = action.astype(jnp.int32)
    return Rollout(
        obs=jax.tree.map(lambda x: x[:-1], obs),
        action=action,
        reward=transitions.take(replay.reward, row[:-1], env),
        terminated=(flags & TERMINATED) > 0,
        truncated=truncated,
        first=(flags & FIRST) > 0,
        last_obs=jax.tree.map(lambda x: x[-1], obs),
        final_obs=final,
        extras=(),
        memory=jax.tree.map(lambda ring: ring[index.row, env], sequences.memory),
        last_memory=None,
    )


__all__ = ["Network", "Sequences", "add", "gather", "init", "outputs", "truncation_times"]
