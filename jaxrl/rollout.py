"""Collecting experience: a scan of batched `act` and vmapped `step`, with resets off the hot path.

Starts are not computed at every step. Each environment owns a few *spare* starts, drawn afresh
every `reset_every` steps in one batch; when an episode ends, the next spare is used. A spare is
used twice only where an environment ends more often than once per `reset_every` steps; with
`reset_every=1` there is one spare per step and every start is fresh.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.struct import struct
from jaxrl.types import ActOut, Agent, Env, Key, PyTree, Rollout, Spec

RESET_EVERY = 16


@struct
class Streams:
    """The N environments of one run, as they stand between two rollouts."""

    env_state: PyTree  # [N, ...]
    obs: PyTree  # [N, ...]
    first: jax.Array  # [N] bool: obs begins an episode
    memory: PyTree  # [N, ...] or None
    spares: PyTree  # (env_state, obs), [K, N, ...]
    used: jax.Array  # [N] int32: spares used since they were drawn
    episode_return: jax.Array  # [N]
    episode_length: jax.Array  # [N] int32


@struct
class Episodes:
    """Sums over the episodes that ended."""

    returns: jax.Array
    lengths: jax.Array
    count: jax.Array


def select(condition: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """`where` over trees; `condition` [N] is broadcast over the trailing axes of each leaf."""

    def choose(x: jax.Array, y: jax.Array) -> jax.Array:
        mask = condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim))
        return jnp.where(mask, x, y)

    return jax.tree.map(choose, on_true, on_false)


def initial_memory(agent: Any, num_envs: int) -> PyTree:
    """The memory of an agent that remembers, None for all others."""
    return agent.initial_memory(num_envs) if hasattr(agent, "initial_memory") else None


def act(
    agent: Any, state: Any, obs: PyTree, key: Key, memory: PyTree, first: jax.Array, explore: bool
) -> ActOut:
    """`agent.act`; the only place where a memory is reset, where an episode begins."""
    if memory is None:
        return agent.act(state, obs, key, explore)
    memory = select(first, agent.initial_memory(first.shape[0]), memory)
    return agent.act(state, obs, key, explore, memory)


def _draw_spares(env: Env, key: Key, count: int, num_envs: int) -> PyTree:
    keys = jax.random.split(key, (count, num_envs))
    return jax.vmap(jax.vmap(env.reset))(keys)


def start(agent: Agent, env: Env, key: Key, reset_every: int = RESET_EVERY) -> Streams:
    num_envs = agent.num_envs
    first_key, spare_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(first_key, num_envs))
    return Streams(
        env_state=env_state,
        obs=obs,
        first=jnp.ones(num_envs, bool),
        memory=initial_memory(agent, num_envs),
        spares=_draw_spares(env, spare_key, max(1, agent.num_steps // reset_every), num_envs),
        used=jnp.zeros(num_envs, jnp.int32),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )


def _refill(
    env: Env, streams: Streams, key: Key, iteration: jax.Array, num_steps: int, reset_every: int
) -> Streams:
    """Draw new spares, every iteration or, for rollouts shorter than `reset_every`, once in so
    many. `iteration` is a counter, hence the same for all runs, hence the branch stays one."""
    num_envs = streams.used.shape[0]
    period = max(1, reset_every // num_steps)

    def draw(_: PyTree) -> tuple[PyTree, jax.Array]:
        count = max(1, num_steps // reset_every)
        return _draw_spares(env, key, count, num_envs), jnp.zeros(num_envs, jnp.int32)

    if period == 1:
        spares, used = draw(None)
    else:
        kept = (streams.spares, streams.used)
        spares, used = jax.lax.cond(iteration % period == 0, draw, lambda kept: kept, kept)
    return dataclasses.replace(streams, spares=spares, used=used)


def _next_spare(streams_spares: PyTree, used: jax.Array) -> PyTree:
    """-> [N, ...]: the spare whose turn it is in each environment."""

    def pick(x: jax.Array) -> jax.Array:
        if x.shape[0] == 1:
            return x[0]
        return jax.vmap(lambda column, i: column[i], in_axes=(1, 0))(x, used % x.shape[0])

    return jax.tree.map(pick, streams_spares)


def collect(
    agent: Agent,
    env: Env,
    spec: Spec,
    state: Any,
    streams: Streams,
    key: Key,
    iteration: jax.Array | int = 0,
    reset_every: int = RESET_EVERY,
) -> tuple[Streams, Rollout, Episodes]:
    """Play `num_steps` steps in every environment."""
    num_envs, num_steps = agent.num_envs, agent.num_steps
    spare_key, act_key, env_key = jax.random.split(key, 3)
    iteration = jnp.asarray(iteration, jnp.int32)
    streams = _refill(env, streams, spare_key, iteration, num_steps, reset_every)
    act_keys = jax.random.split(act_key, num_steps)
    env_keys = jax.random.split(env_key, (num_steps, num_envs))

    limit = spec.time_limit
    rows = 0 if limit is None else math.ceil(num_steps / limit)
    final_obs = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), streams.obs)
    none = jnp.zeros(num_envs)

    def play(carry: tuple[Any, ...], x: tuple[Any, ...]) -> tuple[tuple[Any, ...], PyTree]:
        env_state, obs, first, memory, used, ret, length, final_obs, sums = carry
        t, act_key, env_keys = x
        out = act(agent, state, obs, act_key, memory, first, explore=True)
        env_state, step = jax.vmap(env.step)(env_state, out.action, env_keys)
        terminated = step.terminated
        truncated = step.truncated & ~terminated
        ended = terminated | truncated

        if rows:
            row = t // limit

            def keep(kept: jax.Array, new: jax.Array) -> jax.Array:
                return kept.at[row].set(select(truncated, new, kept[row]))

            final_obs = jax.tree.map(keep, final_obs, step.obs)

        spare_state, spare_obs = _next_spare(streams.spares, used)
        env_state = select(ended, spare_state, env_state)
        next_obs = select(ended, spare_obs, step.obs)
        ret = ret + step.reward
        length = length + 1
        sums = (
            sums[0] + jnp.where(ended, ret, 0),
            sums[1] + jnp.where(ended, length, 0),
            sums[2] + ended,
        )
        ret = jnp.where(ended, 0, ret)
        length = jnp.where(ended, 0, length)
        stored = (obs, out.action, step.reward, terminated, truncated, first, out.extras)
        memory = out.memory
        carry = (env_state, next_obs, ended, memory, used + ended, ret, length, final_obs, sums)
        return carry, stored

    carry = (
        streams.env_state,
        streams.obs,
        streams.first,
        streams.memory,
        streams.used,
        streams.episode_return,
        streams.episode_length,
        final_obs,
        (none, none, none),
    )
    carry, stored = jax.lax.scan(play, carry, (jnp.arange(num_steps), act_keys, env_keys))
    env_state, last_obs, first, memory, used, ret, length, final_obs, sums = carry
    obs, action, reward, terminated, truncated, firsts, extras = stored
    rollout = Rollout(
        obs=obs,
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        first=firsts,
        last_obs=last_obs,
        final_obs=final_obs,
        extras=extras,
        memory=streams.memory,
        last_memory=memory,
    )
    streams = Streams(
        env_state=env_state,
        obs=last_obs,
        first=first,
        memory=memory,
        spares=streams.spares,
        used=used,
        episode_return=ret,
        episode_length=length,
    )
    episodes = Episodes(sums[0].sum(), sums[1].sum(), sums[2].sum())
    return streams, rollout, episodes
