"""Tile coding: several grids laid over one another, each a little shifted.

A grid (tiling) has one active tile, so there are as many active features as tilings: close
observations share most of them, and far ones none. Tiling t is shifted by t (1, 3, 5, ...) /
tilings of a tile, which avoids the diagonals of even shifts (Sutton and Barto 2018, section 9.5.4).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.features import ranges
from jaxrl.features.ranges import Bound
from jaxrl.features.vectors import Active
from jaxrl.types import PyTree

MOST = 2**26
"""Tiles that are numbered one by one; beyond that they are hashed."""


def mixed(numbers: jax.Array) -> jax.Array:
    """A hash of the last axis, uint32: every bit of every number changes half of the result (the
    finaliser of MurmurHash3, number after number)."""
    h = jnp.full(numbers.shape[:-1], 0x9E3779B9, jnp.uint32)
    for i in range(numbers.shape[-1]):
        h = (h ^ numbers[..., i].astype(jnp.uint32)) * jnp.uint32(0xCC9E2D51)
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return h


@dataclasses.dataclass(frozen=True)
class TileCoding:
    """`tiles` across the range of each dimension. Observations beyond the range are in the
    outermost tile; a dimension in `wrap` is a circle. `hashed` is the number of features that all
    tiles share by chance, for grids too large to be kept; tiles then go on beyond the range."""

    tilings: int = 8
    tiles: int | tuple[int, ...] = 8
    low: Bound | None = None
    high: Bound | None = None
    wrap: bool | tuple[bool, ...] = False
    hashed: int | None = None
    offsets: tuple[int, ...] | None = None
    """Shift of each dimension per tiling, in parts of 1 / tilings; None is (1, 3, 5, ...)."""

    def _settings(self, space: spaces.Space) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> tiles [d], wrap [d], shift [tilings, d] in tiles."""
        d = ranges.dimensions("TileCoding", space)
        tiles: Any = ranges.per_dimension("TileCoding", "tiles", self.tiles, d)
        wrap: Any = ranges.per_dimension("TileCoding", "wrap", self.wrap, d)
        odd = tuple(range(1, 2 * d, 2))
        offsets: Any = ranges.per_dimension("TileCoding", "offsets", self.offsets or odd, d)
        steps = np.arange(self.tilings)[:, None] * np.asarray(offsets) % self.tilings
        return np.asarray(tiles), np.asarray(wrap), steps / self.tilings

    def _widths(self, space: spaces.Space) -> np.ndarray:
        """Tiles per dimension of one tiling: a shifted grid needs one more to cover the range."""
        tiles, wrap, _ = self._settings(space)
        return tiles + ~wrap

    def check(self, space: spaces.Space) -> None:
        ranges.resolved("TileCoding", space, self.low, self.high)
        tiles, _, _ = self._settings(space)
        for field, value in (("tilings", self.tilings), ("tiles", int(tiles.min()))):
            if value < 1:
                raise ValueError(f"TileCoding({field}={value}) must be at least 1.")
        if self.hashed is not None and self.hashed < 1:
            raise ValueError(f"TileCoding(hashed={self.hashed}) must be at least 1.")
        if self.size(space) > MOST:
            raise ValueError(
                f"TileCoding has {self.tilings} tilings of {self._widths(space).tolist()} tiles, "
                f"{self.size(space):_} features: write hashed=65_536, or fewer tiles."
            )

    def size(self, space: spaces.Space) -> int:
        if self.hashed is not None:
            return self.hashed
        return self.tilings * math.prod(int(n) for n in self._widths(space))

    def active(self, space: spaces.Space) -> int:
        return self.tilings

    def rates(self, space: spaces.Space) -> None:
        return None

    def __call__(self, space: spaces.Space, obs: PyTree) -> Active:
        tiles, wrap, shift = self._settings(space)
        x = ranges.unit("TileCoding", space, obs, self.low, self.high)  # [..., d]
        if self.hashed is None:
            x = jnp.where(wrap, x - jnp.floor(x), jnp.clip(x, 0.0, 1.0))
        x = x * tiles.astype(np.float32)
        place = jnp.floor(x[..., None, :] + shift.astype(np.float32)).astype(jnp.int32)
        place = jnp.where(wrap, place % tiles.astype(np.int32), place)  # [..., tilings, d]
        if self.hashed is not None:
            number = jnp.broadcast_to(jnp.arange(self.tilings)[:, None], (*place.shape[:-1], 1))
            h = mixed(jnp.concatenate([number, place], axis=-1))
            return Active((h % jnp.uint32(self.hashed)).astype(jnp.int32))
        index: jax.Array = jnp.arange(self.tilings, dtype=jnp.int32)
        for i, width in enumerate(self._widths(space)):
            index = index * int(width) + jnp.minimum(place[..., i], int(width) - 1)
        return Active(index)
