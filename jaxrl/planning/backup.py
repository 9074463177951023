"""One look ahead in a known model: the operators all of planning is made of (Sutton & Barto,
chapter 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.mdp import MDP, Sparse
from jaxrl.struct import Float


def alive(mdp: MDP, v: jax.Array) -> jax.Array:
    """Values [S], or action values [S, A], with 0 for terminal states."""
    if mdp.terminal is None:
        return v
    return jnp.where(mdp.terminal.reshape(-1, *(1,) * (v.ndim - 1)), 0, v)


def action_values(mdp: MDP, v: jax.Array) -> jax.Array:
    """Expected reward plus discounted value of what follows: [S] -> [S, A]."""
    v = alive(mdp, v)
    if isinstance(mdp.P, Sparse):
        following = jnp.sum(mdp.P.probability * v[mdp.P.next_state], -1)
    else:
        # The default precision of accelerators keeps three digits.
        following = jnp.matmul(mdp.P, v, precision="highest")
    return alive(mdp, mdp.R + mdp.gamma * following)


def action_values_at(mdp: MDP, v: jax.Array, states: jax.Array) -> jax.Array:
    """`action_values` of some states alone: [S], [B] -> [B, A]."""
    if isinstance(mdp.P, Sparse):
        probability, next_state = mdp.P.probability[states], mdp.P.next_state[states]
        following = jnp.sum(probability * alive(mdp, v)[next_state], -1)
    else:
        following = jnp.matmul(mdp.P[states], alive(mdp, v), precision="highest")
    q = mdp.R[states] + mdp.gamma * following
    return q if mdp.terminal is None else jnp.where(mdp.terminal[states, None], 0, q)


def state_values(q: jax.Array, policy: jax.Array) -> jax.Array:
    """[S, A] -> [S], for a policy given as actions [S] or probabilities [S, A]."""
    if policy.ndim == 1:
        return jnp.take_along_axis(q, policy[:, None], -1)[:, 0]
    return jnp.sum(policy * q, -1)


def greedy(q: jax.Array) -> jax.Array:
    """The first best action of each state: [S, A] -> [S] int32."""
    return jnp.argmax(q, -1).astype(jnp.int32)


def improved(q: jax.Array, policy: jax.Array) -> jax.Array:
    """The action of `policy` [S] where it is among the best up to rounding, else the first that is.
    Policy iteration that moves between equally good actions never stops."""
    slack = 0.1 * jnp.finfo(q.dtype).eps ** 0.5 * jnp.maximum(1, jnp.max(jnp.abs(q)))
    good = q >= jnp.max(q, -1, keepdims=True) - slack  # [S, A]
    keeps = jnp.take_along_axis(good, policy[:, None], -1)[:, 0]
    return jnp.where(keeps, policy, greedy(good)).astype(jnp.int32)


def policy_model(mdp: MDP, policy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The chain a policy makes of the model: -> P [S, S], R [S]. Rows of terminal states are 0."""
    full = mdp.dense()
    assert not isinstance(full.P, Sparse)
    if policy.ndim == 1:
        chain = full.P[jnp.arange(mdp.num_states), policy]
    else:
        chain = jnp.einsum("sa,sat->st", policy, full.P, precision="highest")
    chain, reward = alive(mdp, chain), alive(mdp, state_values(mdp.R, policy))
    return chain if mdp.terminal is None else jnp.where(mdp.terminal, 0, chain), reward


def error_bound(gamma: Float, change: jax.Array) -> jax.Array:
    """How far values are at most from the answer, when the last sweep changed them by `change`:
    gamma / (1 - gamma) * change. Infinite without discount, where there is no such bound."""
    gamma = jnp.asarray(gamma, change.dtype)
    safe = jnp.where(gamma < 1, 1 - gamma, 1)
    return jnp.where(gamma < 1, gamma / safe * change, jnp.inf)
