"""Losses and targets for action values: pure functions of arrays.

Leading axis B everywhere; a `[B, 1]` where `[B]` belongs is refused, because broadcasting would
turn it into `[B, B]` without a word.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.struct import Float


def same_shape(a: jax.Array, b: jax.Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} must be equal: broadcasting hides bugs.")


def squared(error: jax.Array) -> jax.Array:
    """Half the square, element by element."""
    return 0.5 * jnp.square(error)


def huber(error: jax.Array, kappa: float = 1.0) -> jax.Array:
    """Half the square up to `kappa`, then a line: the gradient is the error, clipped."""
    size = jnp.abs(error)
    near = jnp.minimum(size, kappa)
    return 0.5 * jnp.square(near) + kappa * (size - near)


def chosen(q: jax.Array, action: jax.Array) -> jax.Array:
    """Q(s, a): q [B, A], action [B] -> [B]. By comparison: its gradient needs no scatter."""
    hit = action[..., None] == jnp.arange(q.shape[-1])
    return jnp.sum(jnp.where(hit, q, 0.0), axis=-1)


def _allowed(q: jax.Array, mask: jax.Array | None) -> jax.Array:
    return q if mask is None else jnp.where(mask, q, -jnp.inf)


def greedy(q: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The best allowed action: q [B, A] -> [B]."""
    return jnp.argmax(_allowed(q, mask), axis=-1).astype(jnp.int32)


def max_value(online: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Q-learning's value of the next state, max_a Q'(s', a) of the target network (Mnih et al.
    2015). `online` and `target` are [B, A]."""
    del online
    return jnp.max(_allowed(target, mask), axis=-1)


def double_value(online: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Double Q-learning: the online network chooses, the target network evaluates (van Hasselt et
    al. 2016, eq. 4)."""
    return chosen(target, greedy(online, mask))


def td_target(reward: jax.Array, discount: jax.Array, next_value: jax.Array) -> jax.Array:
    """r + discount * V(s'), [B], through which no gradient flows. `discount` is gamma to the steps
    used, and zero after a termination."""
    same_shape(reward, next_value)
    same_shape(discount, next_value)
    return jax.lax.stop_gradient(reward + discount * next_value)


def weighted_mean(loss: jax.Array, weight: jax.Array) -> jax.Array:
    """Each sample's loss times its importance weight, then the mean."""
    same_shape(loss, weight)
    return jnp.mean(weight * loss)


def dueling(value: jax.Array, advantage: jax.Array) -> jax.Array:
    """Q = V + A - mean_a A (Wang et al. 2016, eq. 9): value [..., 1], advantage [..., A]."""
    return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


def soft_value(q: jax.Array, log_prob: jax.Array, temperature: Float | jax.Array) -> jax.Array:
    """SAC's value of the next state: the least of the ensemble's [K, B] less the cost of
    predictability, min_k Q_k - temperature * log pi [B] (Haarnoja et al. 2018b, eq. 3)."""
    same_shape(q[0], log_prob)
    return jnp.min(q, axis=0) - temperature * log_prob


def temperature_loss(
    log_temperature: jax.Array, log_prob: jax.Array, target_entropy: Float | jax.Array
) -> jax.Array:
    """-log(temperature) * (log pi + target entropy), averaged: the temperature falls while the
    policy is more random than it has to be (Haarnoja et al. 2018b, section 5)."""
    gap = jax.lax.stop_gradient(log_prob + target_entropy)
    return -log_temperature * jnp.mean(gap)


def polyak(target: jax.Array, online: jax.Array, tau: Float) -> jax.Array:
    """(1 - tau) * target + tau * online."""
    return target + tau * (online - target)
