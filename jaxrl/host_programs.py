"""The compiled half of training on the host: `act`, which also keeps observation, action and extras
of step t on the device, and `learn`, one update. Each runs for one run or for every lane."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxrl import guard, lanes, replay, rollout
from jaxrl.host import Array
from jaxrl.lanes import Lanes
from jaxrl.spaces import zeros
from jaxrl.struct import map_nodes, struct
from jaxrl.types import Metrics, PyTree, Rollout, Spec

if TYPE_CHECKING:
    from jaxrl.train import Run


def _each(function: Any, shared: PyTree, own: PyTree, plan: Lanes | None) -> Any:
    """`function(shared, own)` for the one run, or for every lane."""
    return function(shared, own) if plan is None else lanes.each(function, shared, own, plan)


def _keep(store: PyTree, new: PyTree, t: jax.Array) -> PyTree:
    def write(rows: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(rows, x.astype(rows.dtype), t, 0)

    return jax.tree.map(write, store, new)


def _act(
    common: Any,
    own: PyTree,
    store: PyTree,
    obs: PyTree,
    first: Array,
    when: Array,
    plan: Lanes | None,
) -> tuple[jax.Array, PyTree, PyTree]:
    """-> actions [N, ...], memory, and `store` with step t of iteration `when` = (i, t, group)."""

    def one(shared: PyTree, own: PyTree) -> tuple[Any, ...]:
        common, when = shared
        (agent, key, state, memory), store, obs, first = own
        agent = common if agent is None else agent
        key = jax.random.split(jax.random.fold_in(key, when[0]))[0]
        key = jax.random.fold_in(jax.random.fold_in(key, when[1]), when[2])
        out = rollout.act(agent, state, obs, key, memory, first, explore=True)
        store = _keep(store, (obs, out.action, out.extras), when[1])
        return out.action, out.memory, store

    return _each(one, (common, when), (own, store, obs, first), plan)


@struct
class Played:
    """What one group of environments brought back: leaves [T, N, ...], or [lanes, T, N, ...]."""

    stored: PyTree  # obs, action, extras
    reward: Any
    terminated: Any
    truncated: Any
    first: Any
    final_obs: PyTree
    last_obs: PyTree  # [N, ...]
    memory: PyTree  # [N, ...]
    last_memory: PyTree  # [N, ...]


def _rollout(groups: list[Played]) -> Rollout:
    """The groups side by side."""

    def beside(axis: int, name: str) -> PyTree:
        parts = [getattr(group, name) for group in groups]
        if len(parts) == 1:
            return parts[0]
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis), *parts)

    obs, action, extras = beside(1, "stored")
    return Rollout(
        obs=obs,
        action=action,
        reward=beside(1, "reward"),
        terminated=beside(1, "terminated"),
        truncated=beside(1, "truncated"),
        first=beside(1, "first"),
        last_obs=beside(0, "last_obs"),
        final_obs=beside(1, "final_obs"),
        extras=extras,
        memory=beside(0, "memory"),
        last_memory=beside(0, "last_memory"),
    )


def _learn(
    common: Any, own: PyTree, run: Run, groups: list[Played], episodes: Metrics, plan: Lanes | None
) -> tuple[Run, jax.Array]:
    """One update -> the run, and its metrics as one vector in the order of their names."""

    def one(shared: PyTree, own: PyTree) -> tuple[Run, jax.Array]:
        common = shared
        (agent, key), run, groups, episodes = own
        agent = common if agent is None else agent
        count = run.iteration.value
        key = jax.random.split(jax.random.fold_in(key, count))[1]
        state, metrics = agent.update(run.state, _rollout(groups), key)
        metrics = {**metrics, **episodes}
        health = run.health
        if health is not None:
            health, metrics = guard.check(health, state, metrics, count)
        run = dataclasses.replace(run, state=state, iteration=run.iteration.add(1), health=health)
        return run, jnp.stack([metrics[name] for name in sorted(metrics)])

    return _each(one, common, (own, run, groups, episodes), plan)


EPISODE = ("episode/return", "episode/length", "episode/count")


def metrics(agent: Any, state: PyTree, spec: Spec) -> Metrics:
    """What an update of zeros would report: to be evaluated for its shape."""
    num_envs, num_steps = agent.num_envs, agent.num_steps
    obs = zeros(spec.obs_space, (num_envs,))
    memory = rollout.initial_memory(agent, num_envs)
    first = jnp.zeros(num_envs, bool)
    out = rollout.act(agent, state, obs, jax.random.key(0), memory, first, explore=True)

    def rows(x: jax.Array) -> jax.Array:
        return jnp.zeros((num_steps, *x.shape), x.dtype)

    flags = jnp.zeros((num_steps, num_envs), bool)
    played = Rollout(
        obs=jax.tree.map(rows, obs),
        action=rows(out.action),
        reward=flags.astype(jnp.float32),
        terminated=flags,
        truncated=flags,
        first=flags,
        last_obs=obs,
        final_obs=jax.tree.map(rows, obs),
        extras=jax.tree.map(rows, out.extras),
        memory=memory,
        last_memory=memory,
    )
    found = agent.update(state, played, jax.random.key(0))[1]
    return {**found, **{name: jnp.zeros(()) for name in EPISODE}}


def _close(run: Run, plan: Lanes | None) -> Run:
    def one(_: PyTree, run: Run) -> Run:
        state = map_nodes(
            lambda x: replay.close(x) if isinstance(x, replay.Replay) else x,
            run.state,
            replay.Replay,
        )
        return dataclasses.replace(run, state=state)

    return _each(one, None, run, plan)


act = jax.jit(_act, static_argnames=("plan",), donate_argnames=("store",))
learn_donating = jax.jit(_learn, static_argnames=("plan",), donate_argnames=("run",))
learn_keeping = jax.jit(_learn, static_argnames=("plan",))
close = jax.jit(_close, static_argnames=("plan",))
