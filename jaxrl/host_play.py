"""Playing episodes in environments that run on the host, without learning.

E episodes are shared out over n environments beforehand. Were each environment to take the next one
when it is free, the first E to end would be counted, and short episodes end first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrl import lanes, rollout
from jaxrl.evaluate import MAX_STEPS, Played
from jaxrl.host import EVALUATION, HostEnv, Pool, seeds
from jaxrl.lanes import Lanes
from jaxrl.types import PyTree

__all__ = ["MAX_STEPS", "play"]

TOGETHER = 8
"""Environments played in at a time, for each run, where the environment does not say."""


def _decide(
    common: Any, own: PyTree, memory: PyTree, obs: PyTree, first: Any, when: Any, *,
    explore: bool, plan: Lanes,
) -> tuple[jax.Array, PyTree]:  # fmt: skip
    def one(shared: PyTree, own: PyTree) -> tuple[jax.Array, PyTree]:
        common, when = shared
        (agent, state, key), memory, obs, first = own
        agent = common if agent is None else agent
        key = jax.random.fold_in(key, when)
        out = rollout.act(agent, state, obs, key, memory, first, explore)
        return out.action, out.memory

    return lanes.each(one, (common, when), (own, memory, obs, first), plan)


_decide_jit = jax.jit(_decide, static_argnames=("explore", "plan"))


def play(
    common: Any,
    own: PyTree,
    env: HostEnv,
    episodes: int,
    max_steps: int,
    plan: Lanes,
    function: Callable[[PyTree], Any] | None = None,
    pools: list[Pool] | None = None,
    explore: bool = False,
) -> Played:
    """`episodes` episodes of every lane: `own` is (agent or None, state, key), each with an axis of
    lanes. `function` acts in the place of an agent. `pools` keeps what was opened for next time."""
    agent, _, keys = own
    each = min(episodes, env.num_envs or TOGETHER)
    pool = pools[0] if pools else env.open(plan.count * each)
    try:
        return _play(common, own, agent, keys, pool, each, episodes, max_steps, plan,
                     function, explore)  # fmt: skip
    finally:
        if pools is None:
            pool.close()
        elif not pools:
            pools.append(pool)


def _play(
    common: Any,
    own: PyTree,
    agent: Any,
    keys: Any,
    pool: Pool,
    each: int,
    episodes: int,
    max_steps: int,
    plan: Lanes,
    function: Callable[[PyTree], Any] | None,
    explore: bool,
) -> Played:
    count = plan.count
    lead = (count, each)
    shared = np.array([(episodes + i) // each for i in range(each)])  # sums up to episodes
    begin = np.cumsum(shared) - shared
    returns, lengths = np.zeros((count, episodes), np.float32), np.zeros((count, episodes), int)
    finished = np.zeros((count, episodes), np.bool_)
    made = np.zeros(lead, int)
    total, length = np.zeros(lead), np.zeros(lead, int)
    first = np.ones(lead, np.bool_)
    starts = np.stack([seeds(k, (each,), EVALUATION) for k in keys])
    memory = None if function else rollout.initial_memory(common or _first(agent), each)
    memory = jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape)), memory)

    def shaped(obs: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), obs)

    obs, t = pool.reset(starts.ravel()), 0
    while (made < shared).any():
        if function is not None:
            action = np.asarray(function(obs))
        else:
            when = np.int32(t)
            chosen, memory = _decide_jit(
                common, own, memory, shaped(obs), first, when, explore=explore, plan=plan
            )
            action = np.asarray(chosen)
            action = action.reshape(math.prod(lead), *action.shape[2:])
        moved = pool.step(action)
        obs = moved.obs
        first = (moved.terminated | moved.truncated).reshape(lead)
        total += moved.reward.reshape(lead)
        length += 1
        t += 1
        for lane, i in np.argwhere(first | (length >= max_steps)):
            if made[lane, i] < shared[i]:
                # One that does not end is given up: what is left of its episodes is as this one.
                ended = bool(first[lane, i])
                so_far = made[lane, i] + 1 if ended else shared[i]
                places = lane, slice(begin[i] + made[lane, i], begin[i] + so_far)
                returns[places], lengths[places] = total[lane, i], length[lane, i]
                finished[places] = ended
                made[lane, i] = so_far
        total[first], length[first] = 0, 0
    return Played(returns, lengths, finished)  # pyright: ignore


def _first(agent: Any) -> Any:
    """One of a stack of settings: only its shapes matter."""
    return jax.tree.map(lambda x: x[0], agent)
