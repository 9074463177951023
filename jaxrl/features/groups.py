"""Features that number observations or groups of them, the observation as it is, and any table."""

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


@dataclasses.dataclass(frozen=True)
class OneHot:
    """One feature for each integer of a Discrete or MultiDiscrete observation: with Discrete ones
    a linear method is the one with a table."""

    def _counts(self, space: spaces.Space) -> tuple[int, ...]:
        match space:
            case spaces.Discrete(n):
                return (n,)
            case spaces.MultiDiscrete(nvec):
                return nvec
            case _:
                raise TypeError(
                    "OneHot needs observations that are Discrete or MultiDiscrete, not "
                    f"{spaces.describe(space)}: use features.TileCoding() or features.Fourier()."
                )

    def check(self, space: spaces.Space) -> None:
        self._counts(space)

    def size(self, space: spaces.Space) -> int:
        return sum(self._counts(space))

    def active(self, space: spaces.Space) -> int:
        return len(self._counts(space))

    def rates(self, space: spaces.Space) -> None:
        return None

    def __call__(self, space: spaces.Space, obs: PyTree) -> Active:
        counts = self._counts(space)
        before = np.cumsum((0, *counts[:-1])).astype(np.int32)
        x = obs[..., None] if isinstance(space, spaces.Discrete) else obs
        return Active(jnp.asarray(x, jnp.int32) + before)


@dataclasses.dataclass(frozen=True)
class StateAggregation:
    """The range of each number is cut into `groups` of equal length, and observations of one group
    are one. Integers from low to high are shared out evenly, as far as that goes."""

    groups: int | tuple[int, ...] = 10
    low: Bound | None = None
    high: Bound | None = None

    def _groups(self, space: spaces.Space) -> tuple[int, ...]:
        d = ranges.dimensions("StateAggregation", space)
        groups: Any = ranges.per_dimension("StateAggregation", "groups", self.groups, d)
        return groups

    def check(self, space: spaces.Space) -> None:
        ranges.resolved("StateAggregation", space, self.low, self.high)
        if min(self._groups(space)) < 1:
            raise ValueError(f"StateAggregation(groups={self.groups}) must be at least 1.")

    def size(self, space: spaces.Space) -> int:
        return math.prod(self._groups(space))

    def active(self, space: spaces.Space) -> int:
        return 1

    def rates(self, space: spaces.Space) -> None:
        return None

    def __call__(self, space: spaces.Space, obs: PyTree) -> Active:
        low, high = ranges.resolved("StateAggregation", space, self.low, self.high)
        groups = self._groups(space)
        x = ranges.numbers(space, obs)
        if not isinstance(space, spaces.Box):
            high = high + 1  # an integer is a place of length 1; its middle is in no two groups
            x = x + 0.5
        part = (x - low.astype(np.float32)) / (high - low).astype(np.float32)
        index = jnp.zeros(x.shape[:-1], jnp.int32)
        for i, n in enumerate(groups):
            place = jnp.floor(part[..., i] * n).astype(jnp.int32)
            index = index * n + jnp.clip(place, 0, n - 1)
        return Active(index[..., None])


@dataclasses.dataclass(frozen=True)
class Raw:
    """The numbers of the observation as they are, and a 1 behind them unless `bias` is False."""

    bias: bool = True

    def check(self, space: spaces.Space) -> None:
        ranges.dimensions("Raw", space)

    def size(self, space: spaces.Space) -> int:
        return ranges.dimensions("Raw", space) + self.bias

    def active(self, space: spaces.Space) -> None:
        return None

    def rates(self, space: spaces.Space) -> None:
        return None

    def __call__(self, space: spaces.Space, obs: PyTree) -> jax.Array:
        x = ranges.numbers(space, obs)
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) if self.bias else x


@dataclasses.dataclass(frozen=True)
class Given:
    """Row s of a table [S, n] for the Discrete observation s; `given` makes it from an array."""

    rows: tuple[tuple[float, ...], ...]

    def check(self, space: spaces.Space) -> None:
        if not (isinstance(space, spaces.Discrete) and space.n == len(self.rows)):
            raise TypeError(
                f"Given has features of {len(self.rows)} observations, but they are "
                f"{spaces.describe(space)}: give a row for each of Discrete(n)."
            )

    def size(self, space: spaces.Space) -> int:
        return len(self.rows[0])

    def active(self, space: spaces.Space) -> None:
        return None

    def rates(self, space: spaces.Space) -> None:
        return None

    def __call__(self, space: spaces.Space, obs: PyTree) -> jax.Array:
        return jnp.asarray(self.rows, jnp.float32)[obs]


def given(table: Any) -> Given:
    """From an array [S, n]."""
    return Given(tuple(tuple(float(x) for x in row) for row in np.asarray(table)))
