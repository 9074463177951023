"""Bases of functions on a range: all features count everywhere."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.features import ranges
from jaxrl.features.ranges import Bound
from jaxrl.types import PyTree

MOST = 2**20


def _exponents(order: int, d: int) -> np.ndarray:
    """[n, d]: all vectors of integers 0 .. order; the first one is all zeros."""
    grid = np.indices((order + 1,) * d)
    return grid.reshape(d, -1).T


def _check(
    name: str, order: int, space: spaces.Space, low: Bound | None, high: Bound | None
) -> None:
    ranges.resolved(name, space, low, high)
    if order < 0:
        raise ValueError(f"{name}(order={order}) must be at least 0.")
    size = (order + 1) ** ranges.dimensions(name, space)
    if size > MOST:
        raise ValueError(
            f"{name}(order={order}) has {size:_} features for "
            f"{ranges.dimensions(name, space)} numbers: write a lower order, or use "
            "features.TileCoding(hashed=65_536)."
        )


@dataclasses.dataclass(frozen=True)
class Fourier:
    """cos(pi c . x) for all vectors c of integers 0 .. order, with x scaled to [0, 1] (Konidaris et
    al. 2011). The step size of a feature is lr / |c|: waves of high frequency move slowly."""

    order: int = 3
    low: Bound | None = None
    high: Bound | None = None

    def check(self, space: spaces.Space) -> None:
        _check("Fourier", self.order, space, self.low, self.high)

    def size(self, space: spaces.Space) -> int:
        return (self.order + 1) ** ranges.dimensions("Fourier", space)

    def active(self, space: spaces.Space) -> None:
        return None

    def _frequencies(self, space: spaces.Space) -> np.ndarray:
        return _exponents(self.order, ranges.dimensions("Fourier", space))

    def rates(self, space: spaces.Space) -> jax.Array:
        length = np.linalg.norm(self._frequencies(space), axis=-1)
        return jnp.asarray(1.0 / np.where(length == 0, 1.0, length), jnp.float32)

    def __call__(self, space: spaces.Space, obs: PyTree) -> jax.Array:
        x = ranges.unit("Fourier", space, obs, self.low, self.high)
        c = self._frequencies(space).T.astype(np.float32)  # [d, n]
        return jnp.cos(np.float32(np.pi) * jnp.matmul(x, c, precision=jax.lax.Precision.HIGHEST))


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """All products of powers 0 .. order of the numbers of an observation, scaled to [0, 1]."""

    order: int = 3
    low: Bound | None = None
    high: Bound | None = None

    def check(self, space: spaces.Space) -> None:
        _check("Polynomial", self.order, space, self.low, self.high)

    def size(self, space: spaces.Space) -> int:
        return (self.order + 1) ** ranges.dimensions("Polynomial", space)

    def active(self, space: spaces.Space) -> None:
        return None

    def rates(self, space: spaces.Space) -> None:
        return None

    def __call__(self, space: spaces.Space, obs: PyTree) -> jax.Array:
        x = ranges.unit("Polynomial", space, obs, self.low, self.high)
        powers = [jnp.ones_like(x)]
        for _ in range(self.order):
            powers.append(powers[-1] * x)
        table = jnp.stack(powers, axis=-1)  # [..., d, order + 1]
        c = _exponents(self.order, x.shape[-1])  # [n, d]
        product = jnp.ones((*x.shape[:-1], len(c)))
        for i in range(x.shape[-1]):
            product = product * table[..., i, :][..., c[:, i]]
        return product
