"""Prioritised sweeping with a known model: states whose values are most wrong come first (Moore &
Atkeson 1993)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.mdp import MDP, Sparse
from jaxrl.planning.backup import action_values, action_values_at, error_bound, greedy
from jaxrl.planning.values import Solution, first_values
from jaxrl.struct import Float


def predecessors(mdp: MDP) -> jax.Array:
    """[S, D] int32: from which states each one can be reached in a step; rows are filled up with
    S, which is no state. Needs numbers, not tracers: compute it outside of `jit` and `vmap`."""
    S = mdp.num_states
    if isinstance(mdp.P, Sparse):
        s, a, k = np.nonzero(np.asarray(mdp.P.probability))
        to = np.asarray(mdp.P.next_state)[s, a, k]
    else:
        s, _, to = np.nonzero(np.asarray(mdp.P))
    pairs = np.unique(to.astype(np.int64) * S + s)
    to, s = pairs // S, pairs % S
    count = np.bincount(to, minlength=S)
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((S, max(1, int(count.max(initial=0)))), S, np.int32)
    table[to, place] = s
    return jnp.asarray(table)


def prioritized_sweeping(
    mdp: MDP,
    v: jax.Array | None = None,
    *,
    before: jax.Array | None = None,
    tolerance: Float = 1e-6,
    max_updates: int = 1_000_000,
    batch: int = 1,
) -> Solution:
    """Update the `batch` states with the largest Bellman errors, then the errors of the states
    before them, until no error is larger than `tolerance`. `sweeps` counts updated states.

    `before` is `predecessors(mdp)`, which must be given inside `jit` or `vmap`."""
    before = predecessors(mdp) if before is None else before
    return _sweep(mdp, v, before, tolerance, max_updates, min(batch, mdp.num_states))


@functools.partial(jax.jit, static_argnames=("max_updates", "batch"))
def _sweep(
    mdp: MDP,
    v: jax.Array | None,
    before: jax.Array,
    tolerance: Float,
    max_updates: int,
    batch: int,
) -> Solution:
    v = first_values(mdp, v)
    error = jnp.abs(jnp.max(action_values(mdp, v), -1) - v)

    def go_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, error, updates = carry
        return (jnp.max(error) > tolerance) & (updates < max_updates)

    def once(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        v, error, updates = carry
        if batch == 1:
            states = jnp.argmax(error)[None]
        else:
            states = jax.lax.top_k(error, batch)[1]
        v = v.at[states].set(jnp.max(action_values_at(mdp, v, states), -1))
        # Row S of `before` is no state: reading it is clipped, writing it is dropped.
        touched = jnp.concatenate([states, before[states].ravel()])
        wrong = jnp.abs(jnp.max(action_values_at(mdp, v, touched), -1) - v[touched])
        return v, error.at[touched].set(wrong, mode="drop"), updates + batch

    v, error, updates = jax.lax.while_loop(go_on, once, (v, error, jnp.zeros((), jnp.int32)))
    q = action_values(mdp, v)
    new = jnp.max(q, -1)
    change = jnp.max(jnp.abs(new - v))
    bound = error_bound(mdp.gamma, change) + change
    return Solution(v, q, greedy(q), updates, change, bound, jnp.max(error) <= tolerance)
