"""A given number of steps: backward induction."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl.mdp import MDP
from jaxrl.planning.backup import action_values, greedy, state_values
from jaxrl.struct import struct


@struct
class Plan:
    """Row h is with h steps left: `policy[h - 1]` says what to do then."""

    v: jax.Array  # [horizon + 1, S]
    policy: jax.Array  # [horizon, S] int32


@functools.partial(jax.jit, static_argnames=("horizon",))
def optimize_horizon(mdp: MDP, horizon: int) -> Plan:
    """The best that can be had in `horizon` steps, and how: what to do depends on the time left."""

    def step(v: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        q = action_values(mdp, v)
        v = jnp.max(q, -1)
        return v, (v, greedy(q))

    zero = jnp.zeros(mdp.num_states, mdp.R.dtype)
    _, (v, policy) = jax.lax.scan(step, zero, length=horizon)
    return Plan(jnp.concatenate([zero[None], v]), policy)


@functools.partial(jax.jit, static_argnames=("horizon",))
def evaluate_horizon(mdp: MDP, policy: jax.Array, horizon: int) -> jax.Array:
    """[horizon + 1, S]: what a policy, [S] or [S, A], collects with 0, 1, ... steps left."""
    policy = jnp.asarray(policy)

    def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        v = state_values(action_values(mdp, v), policy)
        return v, v

    zero = jnp.zeros(mdp.num_states, mdp.R.dtype)
    return jnp.concatenate([zero[None], jax.lax.scan(step, zero, length=horizon)[1]])
