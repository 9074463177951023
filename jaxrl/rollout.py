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

from jaxrl import mesh
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


ENV_AXES = {field.name: 0 for field in dataclasses.fields(Streams)} | {"spares": 1}
"""Where N is in each part of the streams."""


def spread(streams: Streams) -> Streams:
    """The environments of a run that devices share lie across them."""
    return Streams(**{k: mesh.spread(getattr(streams, k), x) for k, x in ENV_AXES.items()})


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


def _keys(agent: Agent, key: Key, count: int) -> Key:
    """[count, N] keys of starts. An agent with `group=G` gets G environments in a row that begin
    alike: a language model that compares several answers to one question."""
    group = getattr(agent, "group", 1)
    keys = jax.random.split(key, (count, agent.num_envs // group))
    return keys if group == 1 else jnp.repeat(keys, group, axis=1)


def _draw_spares(agent: Agent, env: Env, key: Key, count: int) -> PyTree:
    return jax.vmap(jax.vmap(env.reset))(_keys(agent, key, count))


def start(agent: Agent, env: Env, key: Key, reset_every: int = RESET_EVERY) -> Streams:
    num_envs = agent.num_envs
    first_key, spare_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(_keys(agent, first_key, 1)[0])
    streams = Streams(
        env_state=env_state,
        obs=obs,
        first=jnp.ones(num_envs, bool),
        memory=initial_memory(agent, num_envs),
        spares=_draw_spares(agent, env, spare_key, max(1, agent.num_steps // reset_every)),
        used=jnp.zeros(num_envs, jnp.int32),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
    )
    return spread(streams)


def _refill(
    agent: Agent, env: Env, streams: Streams, key: Key, iteration: jax.Array, reset_every: int
) -> Streams:
    """Draw new spares, every iteration or, for rollouts shorter than `reset_every`, once in so
    many. `iteration` is a counter, hence the same for all runs, hence the branch stays one."""
    num_envs, num_steps = agent.num_envs, agent.num_steps
    period = max(1, reset_every // num_steps)

    def draw(_: PyTree) -> tuple[PyTree, jax.Array]:
        count = max(1, num_steps // reset_every)
        return _draw_spares(agent, env, key, count), jnp.zeros(num_envs, jnp.int32)

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


def inherit(env: Any, state: PyTree, fresh: PyTree) -> PyTree:
    """The start `fresh` after an episode that ended in `state`. Nearly always the two have nothing
    to do with one another; where a world outlives its episodes, as a maze that changes does, the
    environment's own `inherit` hands over what goes on."""
    own = getattr(env, "inherit", None)
    return fresh if own is None else own(state, fresh)


def _keep(final_obs: PyTree, obs: PyTree, truncated: jax.Array, row: jax.Array) -> PyTree:
    """Write the observations of truncated episodes to their row."""

    def write(rows: jax.Array, new: jax.Array) -> jax.Array:
        if rows.shape[0] == 1:
            return select(truncated, new, rows[0])[None]
        old = jax.lax.dynamic_index_in_dim(rows, row, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(rows, select(truncated, new, old), row, 0)

    return jax.tree.map(write, final_obs, obs)


def _count(
    streams: Streams, reward: jax.Array, ended: jax.Array
) -> tuple[jax.Array, jax.Array, Episodes]:
    """-> return and length so far of the running episodes, and sums over those that ended.

    The returns of the finished episodes of one environment add up to all its rewards until the
    last end: no need to look at each episode.
    """
    num_steps = reward.shape[0]
    t = jnp.arange(1, num_steps + 1)[:, None]  # [T, 1]
    last = jnp.max(jnp.where(ended, t, 0), axis=0)  # [N]: steps until the last end, 0 for none
    some = last > 0
    finished = jnp.sum(jnp.where(t <= last, reward, 0), axis=0)
    running = jnp.sum(jnp.where(t > last, reward, 0), axis=0)
    episodes = Episodes(
        returns=jnp.sum(jnp.where(some, streams.episode_return + finished, 0)),
        lengths=jnp.sum(jnp.where(some, streams.episode_length + last, 0)).astype(jnp.float32),
        count=jnp.sum(ended).astype(jnp.float32),
    )
    returns = running + jnp.where(some, 0, streams.episode_return)
    lengths = num_steps - last + jnp.where(some, 0, streams.episode_length)
    return returns, lengths, episodes


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
    streams = spread(_refill(agent, env, streams, spare_key, iteration, reset_every))
    act_keys = jax.random.split(act_key, num_steps)
    env_keys = mesh.spread(jax.random.split(env_key, (num_steps, num_envs)), axis=1)

    limit = spec.time_limit
    rows = 0 if limit is None else math.ceil(num_steps / limit)
    final_obs = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), streams.obs)
    final_obs = mesh.spread(final_obs, axis=1)

    def play(carry: tuple[Any, ...], x: tuple[Any, ...]) -> tuple[tuple[Any, ...], PyTree]:
        env_state, obs, first, memory, used, final_obs = carry
        t, act_key, env_keys = x
        out = act(agent, state, obs, act_key, memory, first, explore=True)
        env_state, step = jax.vmap(env.step)(env_state, out.action, env_keys)
        terminated = step.terminated
        truncated = step.truncated & ~terminated
        ended = terminated | truncated

        if rows:
            final_obs = _keep(final_obs, step.obs, truncated, t // limit)

        spare_state, spare_obs = _next_spare(streams.spares, used)
        spare_state = jax.vmap(inherit, (None, 0, 0))(env, env_state, spare_state)
        env_state = select(ended, spare_state, env_state)
        next_obs = select(ended, spare_obs, step.obs)
        stored = (obs, out.action, step.reward, terminated, truncated, out.extras, step.measures)
        following = (env_state, next_obs, ended, out.memory, used + ended)
        return (*mesh.spread(following), mesh.spread(final_obs, axis=1)), mesh.spread(stored)

    carry = (
        streams.env_state, streams.obs, streams.first, streams.memory, streams.used, final_obs
    )  # fmt: skip
    carry, stored = jax.lax.scan(play, carry, (jnp.arange(num_steps), act_keys, env_keys))
    env_state, last_obs, first, memory, used, final_obs = carry
    stored = mesh.spread(stored, axis=1)
    obs, action, reward, terminated, truncated, extras, measures = stored
    ended: Any = terminated | truncated
    returns, lengths, episodes = _count(streams, reward, ended)
    rollout = Rollout(
        obs=obs,
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        first=jnp.concatenate([streams.first[None], ended[:-1]]),
        last_obs=last_obs,
        final_obs=final_obs,
        extras=extras,
        memory=streams.memory,
        last_memory=memory,
        measures=measures,
    )
    streams = Streams(
        env_state=env_state,
        obs=last_obs,
        first=first,
        memory=memory,
        spares=streams.spares,
        used=used,
        episode_return=returns,
        episode_length=lengths,
    )
    return spread(streams), rollout, episodes
