"""Feature vectors, few ones among zeros or all numbers, and the arithmetic that needs them."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxrl import spaces
from jaxrl.struct import struct
from jaxrl.types import PyTree


@struct
class Active:
    """The features that are 1; all others are 0. One that is named twice is 2."""

    index: jax.Array  # [..., K] int32


Vector: TypeAlias = Active | jax.Array
"""`Active`, or all n numbers [..., n]."""


class FeatureMap(Protocol):
    """What agents with linear values ask of `features`."""

    def check(self, space: spaces.Space) -> None:
        """Refuse a space that does not suit, with what to type instead."""
        ...

    def size(self, space: spaces.Space) -> int:
        """n"""
        ...

    def active(self, space: spaces.Space) -> int | None:
        """K of `Active`, None for arrays."""
        ...

    def rates(self, space: spaces.Space) -> jax.Array | None:
        """[n]: factor on the step size of each feature; None where it is 1."""
        ...

    def __call__(self, space: spaces.Space, obs: PyTree) -> Vector: ...


def dot(w: jax.Array, x: Vector) -> jax.Array:
    """w [n] -> [...]; w [A, n] -> [..., A]."""
    if isinstance(x, Active):
        total = jnp.sum(w[..., x.index], axis=-1)
        return total if w.ndim == 1 else jnp.moveaxis(total, 0, -1)
    return jnp.matmul(x, w if w.ndim == 1 else w.T, precision=jax.lax.Precision.HIGHEST)


def value(w: jax.Array, x: Vector, action: jax.Array) -> jax.Array:
    """w[action] . x, of a single x; w [A, n] -> []."""
    if isinstance(x, Active):
        return jnp.sum(w[action, x.index])
    return dot(w[action], x)


def add(
    w: jax.Array,
    x: Vector,
    amount: Any,
    rates: jax.Array | None = None,
    action: jax.Array | None = None,
) -> jax.Array:
    """w [n] + amount * rates * x, of a single x; w [A, n] in the row of the action."""
    if isinstance(x, Active):
        amount = amount if rates is None else amount * rates[x.index]
        return w.at[x.index if action is None else (action, x.index)].add(amount)
    moved = amount * times(x, rates)
    return w + moved if action is None else w.at[action].add(moved)


def times(x: jax.Array, rates: jax.Array | None) -> jax.Array:
    return x if rates is None else rates * x


def dense(x: Vector, size: int) -> jax.Array:
    """All n numbers, [..., n]."""
    if not isinstance(x, Active):
        return x
    return jnp.sum(jax.nn.one_hot(x.index, size, dtype=jnp.float32), axis=-2)
