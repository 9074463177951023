"""Several feature maps side by side."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl import spaces
from jaxrl.features.vectors import Active, FeatureMap, Vector, dense
from jaxrl.types import PyTree


@dataclasses.dataclass(frozen=True)
class Union:
    """The features of all `parts`; `Active` where all of them are."""

    parts: tuple[FeatureMap, ...]

    def check(self, space: spaces.Space) -> None:
        if not self.parts:
            raise ValueError("Union(parts=()) has no features: give one feature map or more.")
        for part in self.parts:
            part.check(space)

    def size(self, space: spaces.Space) -> int:
        return sum(part.size(space) for part in self.parts)

    def active(self, space: spaces.Space) -> int | None:
        total = 0
        for part in self.parts:
            active = part.active(space)
            if active is None:
                return None
            total += active
        return total

    def rates(self, space: spaces.Space) -> jax.Array | None:
        rates = [part.rates(space) for part in self.parts]
        if all(x is None for x in rates):
            return None
        sizes = [part.size(space) for part in self.parts]
        each = [jnp.ones(n) if x is None else x for x, n in zip(rates, sizes, strict=True)]
        return jnp.concatenate(each)

    def __call__(self, space: spaces.Space, obs: PyTree) -> Vector:
        sizes = [part.size(space) for part in self.parts]
        found = [part(space, obs) for part in self.parts]
        if self.active(space) is None:
            each = [dense(x, n) for x, n in zip(found, sizes, strict=True)]
            return jnp.concatenate(each, axis=-1)
        index, before = list[jax.Array](), 0
        for x, n in zip(found, sizes, strict=True):
            assert isinstance(x, Active)
            index.append(x.index + before)
            before += n
        return Active(jnp.concatenate(index, axis=-1))
