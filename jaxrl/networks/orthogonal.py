"""Orthogonal weights, also for many runs at once.

An orthogonal matrix comes from LAPACK's QR. Given a batch of matrices, JAX's CPU kernel spreads
them over XLA's thread pool and waits, and it waits *in* a thread of that pool: six layers that are
initialised side by side on each of two devices need more than twelve threads, or they wait for one
another for ever (jaxlib 0.10: 512 PPO runs, 256 at a time, stood still in every try). One matrix at
a time is not spread, so on CPU a batch becomes a loop. The numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def orthogonal(scale: float = 1.0) -> Initializer:
    """An initialiser like that of flax: all axes but the last are rows."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return (scale * _matrix(rows, columns, dtype)(key)).reshape(shape)

    return init


def _matrix(rows: int, columns: int, dtype: Any) -> Callable[[jax.Array], jax.Array]:
    """key -> an orthogonal matrix [rows, columns]."""
    flax = nn.initializers.orthogonal()

    def one(key: jax.Array) -> jax.Array:
        return flax(key, (rows, columns), dtype)

    if jax.default_backend() != "cpu":
        return one
    sequential: Callable[[jax.Array], jax.Array] = jax.custom_batching.sequential_vmap(one)
    return sequential


__all__ = ["Initializer", "orthogonal"]
