"""What learning with tables needs: transitions one by one, and entries that are moved.

An agent with a table learns from one transition of one environment at a time. `fold` leads it
through a rollout, step by step and within a step environment by environment, so that every
transition meets the newest table: several environments are several streams of one learner, not a
batch. With one environment and `num_steps=1` each action is chosen with the newest table too, which
is the algorithm as books have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import spaces
from jaxrl.rollout import select
from jaxrl.struct import struct
from jaxrl.types import Key, PyTree, Rollout, Spec

DENSE = 512
"""Up to this many entries a table is rewritten as a whole: quicker than a scatter on every kind of
processor, as soon as many runs share a program."""


@struct
class Move:
    """One transition. `next_obs` is where it really led, also where the episode was cut."""

    obs: jax.Array  # int32, the row of the table
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    first: jax.Array
    extras: PyTree
    key: Key
    allowed: PyTree = None  # masks of the actions here and there, where there are masks

    @property
    def ended(self) -> jax.Array:
        return self.terminated | self.truncated


def sizes(name: str, spec: Spec) -> tuple[int, int]:
    """Numbers of states and actions, or a TypeError that says what to do."""
    if not isinstance(spec.action_space, spaces.Discrete):
        raise TypeError(
            f"{name} needs a Discrete action space, not {spaces.describe(spec.action_space)}: use "
            "jaxrl.SAC() or jaxrl.PPO() for continuous actions."
        )
    space = spec.obs_space
    if isinstance(space, spaces.Dict) and set(space) == {"observation", "action_mask"}:
        space = space["observation"]
    if isinstance(space, spaces.Discrete):
        return space.n, spec.action_space.n
    if isinstance(space, spaces.MultiDiscrete):
        count = 1
        for n in space.nvec:
            count *= n
        return count, spec.action_space.n
    raise TypeError(
        f"{name} keeps a table and needs observations that are Discrete or MultiDiscrete, not "
        f"{spaces.describe(spec.obs_space)}: use jaxrl.DQN() or jaxrl.PPO(), or a "
        "wrapper that numbers the observations."
    )


def row(space: spaces.Space, obs: PyTree) -> jax.Array:
    """The number of an observation: itself, or its place in the lexicographic order."""
    if isinstance(space, spaces.Dict):
        return row(space["observation"], obs["observation"])
    if isinstance(space, spaces.MultiDiscrete):
        index = jnp.zeros(obs.shape[:-1], jnp.int32)
        for i, n in enumerate(space.nvec):
            index = index * n + obs[..., i]
        return index
    return obs


def mask(space: spaces.Space, obs: PyTree) -> jax.Array | None:
    """Which actions are allowed, [..., A], where observations say so."""
    return obs["action_mask"] if isinstance(space, spaces.Dict) else None


def following(rollout: Rollout, spec: Spec) -> PyTree:
    """Where each transition really led, [T, N, ...], also where the episode was cut."""
    parts = (rollout.obs, rollout.last_obs)
    after = jax.tree.map(lambda x, last: jnp.concatenate([x[1:], last[None]]), *parts)
    if spec.time_limit is None:
        return after
    rows = jnp.arange(rollout.reward.shape[0]) // spec.time_limit
    final = jax.tree.map(lambda x: x[rows], rollout.final_obs)
    return select(rollout.truncated, final, after)


def moves(rollout: Rollout, spec: Spec, key: Key) -> Move:
    """The transitions of a rollout, all [T, N]."""
    num_steps, num_envs = rollout.reward.shape
    space, after = spec.obs_space, following(rollout, spec)
    allowed, next_allowed = mask(space, rollout.obs), mask(space, after)
    alone = num_steps == num_envs == 1
    keys = key[None, None] if alone else jax.random.split(key, (num_steps, num_envs))
    return Move(
        obs=row(space, rollout.obs),
        action=rollout.action,
        reward=rollout.reward,
        next_obs=row(space, after),
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        first=rollout.first,
        extras=rollout.extras,
        key=keys,
        allowed=None if allowed is None else (allowed, next_allowed),
    )


Learn = Callable[[Any, Any, Move], tuple[Any, Any, jax.Array]]


def fold(learn: Learn, table: PyTree, memory: PyTree, moves: Move) -> tuple[PyTree, PyTree, Any]:
    """`learn(table, memory of one environment, its move) -> table, memory, error`, for all moves
    [T, N] in order; -> the errors [T, N]."""

    def env(table: PyTree, x: tuple[PyTree, Move]) -> tuple[PyTree, tuple[PyTree, jax.Array]]:
        table, memory, error = learn(table, *x)
        return table, (memory, error)

    def time(carry: tuple[PyTree, PyTree], now: Move) -> tuple[tuple[PyTree, PyTree], jax.Array]:
        table, memory = carry
        table, (memory, error) = scan(env, table, (memory, now))
        return (table, memory), error

    (table, memory), errors = scan(time, (table, memory), moves)
    return table, memory, errors


def scan(function: Callable[..., Any], carry: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan`, without a loop where there is one step."""
    if jax.tree.leaves(xs)[0].shape[0] > 1:
        return jax.lax.scan(function, carry, xs)
    carry, y = function(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda x: x[None], y)


def add(table: jax.Array, index: tuple[jax.Array, ...], amount: jax.Array) -> jax.Array:
    """`table` with `amount` added to one entry."""
    if table.size > DENSE:
        return table.at[index].add(amount.astype(table.dtype))
    flat: Any = 0
    for n, i in zip(table.shape, index, strict=True):
        flat = flat * n + i
    hit = jnp.arange(table.size).reshape(table.shape) == flat
    return table + jnp.where(hit, amount, 0).astype(table.dtype)


def mean_squared(errors: jax.Array) -> jax.Array:
    """Over those that are not NaN; NaN where none is."""
    learned = ~jnp.isnan(errors)
    squares = jnp.where(learned, jnp.square(errors), 0.0)
    return jnp.sum(squares) / jnp.sum(learned)


def push(window: PyTree, new: PyTree) -> PyTree:
    """The oldest entry leaves at the front, the new one comes to the end."""
    return jax.tree.map(lambda w, x: jnp.concatenate([w[1:], jnp.asarray(x)[None]]), window, new)
