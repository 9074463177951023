"""What a given policy is worth: by sweeps, or by solving the linear equations.

A policy is an action for each state [S], or probabilities [S, A].
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl.mdp import MDP
from jaxrl.planning.backup import action_values, error_bound, policy_model, state_values
from jaxrl.planning.values import Solution, first_values, in_place, repeat, solved
from jaxrl.struct import Float
from jaxrl.types import Key

LARGEST = 20_000
"""States for which the dense matrix of the linear equations is still reasonable: 1.6 GB."""


@functools.partial(jax.jit, static_argnames=("max_sweeps",))
def evaluate_policy(
    mdp: MDP,
    policy: jax.Array,
    v: jax.Array | None = None,
    *,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Synchronous sweeps: every state from the values before the sweep (equation 4.5)."""
    policy = jnp.asarray(policy)
    v, sweeps, change = repeat(
        lambda v, _: state_values(action_values(mdp, v), policy),
        first_values(mdp, v),
        tolerance,
        max_sweeps,
    )
    return solved(mdp, v, sweeps, change, tolerance, policy)


@functools.partial(jax.jit, static_argnames=("max_sweeps", "block"))
def evaluate_in_place(
    mdp: MDP,
    policy: jax.Array,
    v: jax.Array | None = None,
    *,
    order: jax.Array | None = None,
    key: Key | None = None,
    block: int = 1,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Every state from the newest values; see `in_place_value_iteration`."""
    policy = jnp.asarray(policy)

    def reduce(q: jax.Array, states: jax.Array) -> jax.Array:
        return state_values(q, policy[states])

    v, sweeps, change = in_place(mdp, v, order, key, block, reduce, tolerance, max_sweeps)
    return solved(mdp, v, sweeps, change, tolerance, policy)


@functools.partial(jax.jit, static_argnames=("max_sweeps",))
def evaluate_q(
    mdp: MDP,
    policy: jax.Array,
    q: jax.Array | None = None,
    *,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Synchronous sweeps over action values."""
    policy = jnp.asarray(policy)
    q = jnp.zeros_like(mdp.R) if q is None else jnp.asarray(q, mdp.R.dtype)
    q, sweeps, change = repeat(
        lambda q, _: action_values(mdp, state_values(q, policy)), q, tolerance, max_sweeps
    )
    bound = error_bound(mdp.gamma, change)
    v = state_values(q, policy)
    return Solution(v, q, policy, sweeps, change, bound, change <= tolerance)


@jax.jit
def evaluate_linear(mdp: MDP, policy: jax.Array) -> Solution:
    """Solves (I - gamma P) v = R, at a cost of S^3. Without discount the policy must end every
    episode: from where it does not, the equations have no finite answer."""
    if mdp.num_states > LARGEST:
        size = mdp.num_states**2 * mdp.R.dtype.itemsize / 2**30
        raise ValueError(
            f"the equations of {mdp.num_states:_} states are a matrix of {size:,.1f} GiB; use "
            "evaluate_policy, which sweeps."
        )
    policy = jnp.asarray(policy)
    P, R = policy_model(mdp, policy)
    matrix = jnp.eye(mdp.num_states, dtype=R.dtype) - mdp.gamma * P
    v = jnp.linalg.solve(matrix, R)
    change = jnp.max(jnp.abs(state_values(action_values(mdp, v), policy) - v))
    one = jnp.ones((), jnp.int32)
    return solved(mdp, v, one, change, jnp.inf, policy)
