"""Policy iteration: evaluate, improve, until nothing is left to improve."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl.mdp import MDP
from jaxrl.planning.backup import action_values, error_bound, greedy, improved, state_values
from jaxrl.planning.evaluation import evaluate_linear
from jaxrl.planning.values import Solution, first_values, solved
from jaxrl.struct import Float


@functools.partial(jax.jit, static_argnames=("max_rounds",))
def policy_iteration(
    mdp: MDP, policy: jax.Array | None = None, *, max_rounds: int = 1000
) -> Solution:
    """Howard's: exact evaluation by linear solve, then the greedy policy, keeping an action that is
    as good as the best one. Starts from `policy` (actions [S] or probabilities [S, A]; action 0
    everywhere unless given). `sweeps` counts rounds, the last of which changes nothing. Without
    discount every policy on the way must end all episodes: begin with one that does."""
    if policy is None:
        policy = jnp.zeros(mdp.num_states, jnp.int32)
    policy = jnp.asarray(policy)
    rounds = jnp.zeros((), jnp.int32)
    if policy.ndim == 2:
        policy, rounds = greedy(evaluate_linear(mdp, policy).q), rounds + 1

    def go_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return carry[1] & (carry[2] < max_rounds)

    def once(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        policy, _, rounds = carry
        better = improved(evaluate_linear(mdp, policy).q, policy)
        return better, jnp.any(better != policy), rounds + 1

    start = (policy.astype(jnp.int32), jnp.ones((), bool), rounds)
    policy, changed, rounds = jax.lax.while_loop(go_on, once, start)
    found = evaluate_linear(mdp, policy)
    change = jnp.max(jnp.abs(jnp.max(found.q, -1) - found.v))
    # The values are not the result of the sweep whose change this is: one more factor 1 / gamma.
    bound = error_bound(mdp.gamma, change) + change
    return Solution(found.v, found.q, policy, rounds, change, bound, ~changed)


@functools.partial(jax.jit, static_argnames=("evaluations", "max_sweeps"))
def modified_policy_iteration(
    mdp: MDP,
    v: jax.Array | None = None,
    *,
    evaluations: int = 10,
    tolerance: Float = 1e-6,
    max_sweeps: int = 10_000,
) -> Solution:
    """Puterman & Shin's: the greedy policy, then `evaluations` more sweeps with it instead of an
    exact evaluation; 0 is value iteration. `sweeps` counts rounds of both."""

    def improve(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        q = action_values(mdp, v)
        return jnp.max(q, -1), greedy(q)

    def go_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return (carry[2] > tolerance) & (carry[1] < max_sweeps)

    def once(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        v, rounds, _ = carry
        new, policy = improve(v)
        change = jnp.max(jnp.abs(new - v))
        after = jax.lax.fori_loop(
            0, evaluations, lambda _, v: state_values(action_values(mdp, v), policy), new
        )
        # The last change is that of the greedy sweep, and its result is what is returned.
        return jnp.where(change > tolerance, after, new), rounds + 1, change

    start = first_values(mdp, v)
    inf = jnp.asarray(jnp.inf, start.dtype)
    v, rounds, change = jax.lax.while_loop(go_on, once, (start, jnp.zeros((), jnp.int32), inf))
    return solved(mdp, v, rounds, change, tolerance)
