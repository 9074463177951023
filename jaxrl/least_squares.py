"""Least-squares temporal differences: the linear values that satisfy the data, in one solve.

LSTD (Bradtke and Barto 1996; Boyan 2002 with traces) solves A w = b with A = sum z (x - gamma x')^T
+ ridge I and b = sum r z. LSTDQ and policy iteration with it, LSPI (Lagoudakis and Parr 2003), do
the same for action values.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.struct import struct

HIGHEST = jax.lax.Precision.HIGHEST


def sherman_morrison(inverse: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """(M + u v^T)^-1 from M^-1 [n, n], in O(n^2)."""
    left = jnp.matmul(inverse, u, precision=HIGHEST)
    right = jnp.matmul(v, inverse, precision=HIGHEST)
    return inverse - jnp.outer(left, right) / (1.0 + jnp.dot(v, left, precision=HIGHEST))


def lstd(
    x: jax.Array,
    reward: jax.Array,
    next_x: jax.Array,
    discount: jax.Array,
    ridge: Any = 1e-6,
    z: jax.Array | None = None,
    weight: jax.Array | None = None,
) -> jax.Array:
    """w [n] from B transitions: x, next_x [B, n], reward, discount [B] (gamma, or 0 after a
    termination). `z` [B, n] are traces instead of x; `weight` [B] says how much each counts."""
    z = x if z is None else z
    z = z if weight is None else weight[:, None] * z
    a = jnp.matmul(z.T, x - discount[:, None] * next_x, precision=HIGHEST)
    b = jnp.matmul(z.T, reward, precision=HIGHEST)
    return jnp.linalg.solve(a + ridge * jnp.eye(a.shape[0], dtype=a.dtype), b)


def pairs(x: jax.Array, action: jax.Array, actions: int) -> jax.Array:
    """Features of pairs, [B, A n]: those of the observation in the block of the action."""
    chosen = jax.nn.one_hot(action, actions, dtype=x.dtype)
    return (chosen[:, :, None] * x[:, None, :]).reshape(x.shape[0], -1)


def lstdq(
    x: jax.Array,
    action: jax.Array,
    reward: jax.Array,
    next_x: jax.Array,
    next_action: jax.Array,
    discount: jax.Array,
    actions: int,
    ridge: Any = 1e-6,
    weight: jax.Array | None = None,
) -> jax.Array:
    """w [A, n]: the values of a policy that takes `next_action` [B], from any data."""
    one, two = pairs(x, action, actions), pairs(next_x, next_action, actions)
    w = lstd(one, reward, two, discount, ridge, weight=weight)
    return w.reshape(actions, -1)


@struct
class Iterated:
    w: jax.Array  # [A, n]
    change: jax.Array  # of the weights in the last iteration, the largest of them
    iterations: jax.Array  # int32


def lspi(
    x: jax.Array,
    action: jax.Array,
    reward: jax.Array,
    next_x: jax.Array,
    discount: jax.Array,
    actions: int,
    *,
    ridge: Any = 1e-6,
    start: jax.Array | None = None,
    allowed: jax.Array | None = None,
    weight: jax.Array | None = None,
    iterations: int = 20,
    tolerance: Any = 1e-4,
) -> Iterated:
    """Policy iteration with LSTDQ on B transitions that are given, until the weights change by less
    than `tolerance` or `iterations` are made. `allowed` [B, A] are the next actions there are."""
    first = jnp.zeros((actions, x.shape[1]), x.dtype) if start is None else start

    def improve(carry: Iterated) -> Iterated:
        q = jnp.matmul(next_x, carry.w.T, precision=HIGHEST)
        best = jnp.argmax(q if allowed is None else jnp.where(allowed, q, -jnp.inf), axis=-1)
        w = lstdq(x, action, reward, next_x, best, discount, actions, ridge, weight)
        return Iterated(w, jnp.max(jnp.abs(w - carry.w)), carry.iterations + 1)

    def more(carry: Iterated) -> jax.Array:
        return (carry.change >= tolerance) & (carry.iterations < iterations)

    begin = Iterated(first, jnp.asarray(jnp.inf, x.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(more, improve, begin)
