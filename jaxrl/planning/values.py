"""Value iteration: sweeps of the optimality operator, all states at once or one after the other.

All functions stop when the largest change is at most `tolerance`, or after `max_sweeps`. In
float32 changes cannot become smaller than about 1e-7 of the largest value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.mdp import MDP
from jaxrl.planning.backup import action_values, action_values_at, error_bound, greedy
from jaxrl.struct import Float, struct
from jaxrl.types import Key

Reduce = Callable[[jax.Array, jax.Array], jax.Array]
"""Action values [B, A] of the given states [B] -> values [B]."""


@struct
class Solution:
    """`bound`: no value is further than this from the exact one, rounding apart."""

    v: jax.Array  # [S]
    q: jax.Array  # [S, A], one look ahead from v
    policy: jax.Array  # [S] int32: greedy in q; or the policy that was evaluated
    sweeps: jax.Array  # int32; rounds for policy iteration
    residual: jax.Array  # largest change in the last sweep
    bound: jax.Array
    converged: jax.Array  # bool


def best(q: jax.Array, states: jax.Array) -> jax.Array:
    del states
    return jnp.max(q, -1)


def first_values(mdp: MDP, v: jax.Array | None) -> jax.Array:
    if v is None:
        return jnp.zeros(mdp.num_states, mdp.R.dtype)
    return jnp.asarray(v, mdp.R.dtype)


def repeat(
    sweep: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    tolerance: Float,
    max_sweeps: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> values, sweeps, largest last change. `sweep` gets the values and how many went before."""

    def go_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, i, change = carry
        return (change > tolerance) & (i < max_sweeps)

    def once(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, i, _ = carry
        new = sweep(x, i)
        return new, i + 1, jnp.max(jnp.abs(new - x))

    start = (x, jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, x.dtype))
    return jax.lax.while_loop(go_on, once, start)


def solved(
    mdp: MDP,
    v: jax.Array,
    sweeps: jax.Array,
    change: jax.Array,
    tolerance: Float,
    policy: jax.Array | None = None,
) -> Solution:
    q = action_values(mdp, v)
    chosen = greedy(q) if policy is None else policy
    bound = error_bound(mdp.gamma, change)
    return Solution(v, q, chosen, sweeps, change, bound, change <= tolerance)


@functools.partial(jax.jit, static_argnames=("max_sweeps",))
def value_iteration(
    mdp: MDP,
    v: jax.Array | None = None,
    *,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Synchronous: every state from the values before the sweep (equation 4.10)."""
    v, sweeps, change = repeat(
        lambda v, _: jnp.max(action_values(mdp, v), -1),
        first_values(mdp, v),
        tolerance,
        max_sweeps,
    )
    return solved(mdp, v, sweeps, change, tolerance)


@functools.partial(jax.jit, static_argnames=("max_sweeps",))
def q_iteration(
    mdp: MDP,
    q: jax.Array | None = None,
    *,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Value iteration on action values: `q` is what is iterated."""
    q = jnp.zeros_like(mdp.R) if q is None else jnp.asarray(q, mdp.R.dtype)
    q, sweeps, change = repeat(
        lambda q, _: action_values(mdp, jnp.max(q, -1)), q, tolerance, max_sweeps
    )
    bound = error_bound(mdp.gamma, change)
    return Solution(jnp.max(q, -1), q, greedy(q), sweeps, change, bound, change <= tolerance)


def sweep_in_place(
    mdp: MDP, v: jax.Array, order: jax.Array, block: int, reduce: Reduce
) -> jax.Array:
    """Update the states of `order` [n] one after the other, `block` at a time: each block sees what
    the ones before it have changed."""
    count = order.shape[0]
    blocks = -(-count // block)
    # The last block is filled up with its last state, which gets the same value again.
    rows = order[jnp.minimum(jnp.arange(blocks * block), count - 1)].reshape(blocks, block)

    def update(i: jax.Array, v: jax.Array) -> jax.Array:
        states = rows[i]
        return v.at[states].set(reduce(action_values_at(mdp, v, states), states))

    return jax.lax.fori_loop(0, blocks, update, v)


def in_place(
    mdp: MDP,
    v: jax.Array | None,
    order: jax.Array | None,
    key: Key | None,
    block: int,
    reduce: Reduce,
    tolerance: Float,
    max_sweeps: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    states = jnp.arange(mdp.num_states) if order is None else jnp.asarray(order)

    def sweep(v: jax.Array, i: jax.Array) -> jax.Array:
        now = states if key is None else jax.random.permutation(jax.random.fold_in(key, i), states)
        return sweep_in_place(mdp, v, now, block, reduce)

    return repeat(sweep, first_values(mdp, v), tolerance, max_sweeps)


@functools.partial(jax.jit, static_argnames=("max_sweeps", "block"))
def in_place_value_iteration(
    mdp: MDP,
    v: jax.Array | None = None,
    *,
    order: jax.Array | None = None,
    key: Key | None = None,
    block: int = 1,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Gauss-Seidel: every state from the newest values. `order` [n] lists the states of a sweep,
    some more often than others if you like (all by number unless given); with `key` each sweep
    shuffles it. `block` states are updated together: faster, and nearer to the synchronous form.

    Where `order` leaves states out the bound holds for the others only if those are right."""
    v, sweeps, change = in_place(mdp, v, order, key, block, best, tolerance, max_sweeps)
    return solved(mdp, v, sweeps, change, tolerance)
