"""A model of a finite environment, learned from what was seen: K outcomes of every pair.

With K = 1 it is the book's deterministic model: what happened last is what will happen. With more,
outcomes are drawn as often as they were seen, each with the mean of its rewards; when a pair has
shown more than K, the rarest makes room. Termination is part of an outcome, not of a state.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl import behaviour
from jaxrl.struct import struct
from jaxrl.tables import Move


@struct
class Outcomes:
    next: jax.Array  # [S, A, K] int32; an untried pair leads back to its own state
    reward: jax.Array  # [S, A, K]
    terminated: jax.Array  # [S, A, K] bool
    count: jax.Array  # [S, A, K]
    seen: jax.Array  # [S] int32: the states in the order in which they were first left
    known: jax.Array  # int32: how many those are
    last: jax.Array  # [S, A] int32: when each pair was last tried, 0 for never
    time: jax.Array  # int32: transitions so far


@struct
class Drawn:
    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array


def init(states: int, actions: int, outcomes: int) -> Outcomes:
    shape = (states, actions, outcomes)
    own = jnp.broadcast_to(jnp.arange(states, dtype=jnp.int32)[:, None, None], shape)
    return Outcomes(
        next=own,
        reward=jnp.zeros(shape),
        terminated=jnp.zeros(shape, bool),
        count=jnp.zeros(shape),
        seen=jnp.zeros(states, jnp.int32),
        known=jnp.zeros((), jnp.int32),
        last=jnp.zeros((states, actions), jnp.int32),
        time=jnp.zeros((), jnp.int32),
    )


def observe(model: Outcomes, move: Move) -> Outcomes:
    s, a = move.obs, move.action
    to = jnp.where(move.terminated, s, move.next_obs)  # where the next episode starts says nothing
    count = model.count[s, a]  # [K]
    same = (model.next[s, a] == to) & (model.terminated[s, a] == move.terminated)
    same &= (count > 0) & (count.shape[0] > 1)  # a single outcome is always the newest one
    old = jnp.any(same)
    k = jnp.where(old, jnp.argmax(same), jnp.argmin(count))
    n = jnp.where(old, count[k], 0.0) + 1.0
    before = model.reward[s, a, k]
    new_state = ~jnp.any(count > 0) & ~jnp.any(model.count[s] > 0)
    place = jnp.minimum(model.known, model.seen.shape[0] - 1)
    return Outcomes(
        next=model.next.at[s, a, k].set(to),
        reward=model.reward.at[s, a, k].set(
            jnp.where(old, before + (move.reward - before) / n, move.reward)
        ),
        terminated=model.terminated.at[s, a, k].set(move.terminated),
        count=model.count.at[s, a, k].set(n),
        seen=model.seen.at[place].set(jnp.where(new_state, s, model.seen[place])),
        known=model.known + new_state.astype(jnp.int32),
        last=model.last.at[s, a].set(model.time + 1),
        time=model.time + 1,
    )


def draw(model: Outcomes, u: jax.Array, untried: bool = False) -> Drawn:
    """A state that was left before, one of the actions tried there (or any of them, if `untried`),
    and what the model says of it; u [3] in [0, 1)."""
    s = model.seen[(u[0] * model.known).astype(jnp.int32)]
    tried = jnp.any(model.count[s] > 0, axis=-1).astype(jnp.float32)  # [A]
    a = behaviour.pick(u[1], jnp.ones_like(tried) if untried else tried)
    k = behaviour.pick(u[2], model.count[s, a])
    return Drawn(s, a, model.reward[s, a, k], model.next[s, a, k], model.terminated[s, a, k])


def targets(model: Outcomes, values: jax.Array, gamma: jax.Array | float) -> jax.Array:
    """The mean of r + gamma V(s') over the outcomes of every pair, [S, A]; 0 for untried ones."""
    after = jnp.where(model.terminated, 0.0, values[model.next])
    total = jnp.sum(model.count, axis=-1)
    sums = jnp.sum(model.count * (model.reward + gamma * after), axis=-1)
    return jnp.where(total > 0, sums / jnp.maximum(total, 1.0), 0.0)


def target(
    model: Outcomes, s: jax.Array, a: jax.Array, q: jax.Array, gamma: jax.Array | float
) -> jax.Array:
    """The same of one pair, with V the best of q [S, A]."""
    count = model.count[s, a]
    value = jnp.max(q[model.next[s, a]], axis=-1)  # [K]
    after = jnp.where(model.terminated[s, a], 0.0, value)
    return jnp.dot(count, model.reward[s, a] + gamma * after) / jnp.maximum(jnp.sum(count), 1.0)


def predecessors(model: Outcomes, s: jax.Array) -> jax.Array:
    """The pairs that have led to s, [S, A] bool."""
    led = (model.next == s) & ~model.terminated & (model.count > 0)
    return jnp.any(led, axis=-1)


def since(model: Outcomes, s: jax.Array, a: jax.Array) -> jax.Array:
    """Transitions since a pair was tried, float32."""
    return (model.time - model.last[s, a]).astype(jnp.float32)
