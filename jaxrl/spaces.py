"""Descriptions of observations and actions: hashable, so that they can be part of a program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Bound: TypeAlias = float | tuple[Any, ...]


def _bound(value: Any) -> Bound:
    """A float when all entries agree, else nested tuples: comparable and hashable."""
    array = np.asarray(value, np.float64)
    if array.size and np.all(array == array.flat[0]):
        return float(array.flat[0])
    as_list = array.tolist()

    def freeze(x: Any) -> Any:
        return tuple(freeze(y) for y in x) if isinstance(x, list) else x

    return freeze(as_list)


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One of the integers 0 .. n-1."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: Any) -> bool:
        x = np.asarray(x)
        return bool(np.issubdtype(x.dtype, np.integer) and np.all((x >= 0) & (x < self.n)))


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """A vector of integers, the i-th in 0 .. nvec[i]-1."""

    nvec: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), jnp.int32)

    def contains(self, x: Any) -> bool:
        x = np.asarray(x)
        if not np.issubdtype(x.dtype, np.integer) or x.shape[-1:] != self.shape:
            return False
        return bool(np.all((x >= 0) & (x < np.asarray(self.nvec))))


@dataclasses.dataclass(frozen=True, init=False)
class Box:
    """An array of a fixed shape with bounds, possibly infinite. bool and integer boxes are images
    and flags: networks cast them, replay stores them as they are."""

    low: Bound
    high: Bound
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(
        self, low: Any, high: Any, shape: tuple[int, ...] | None = None, dtype: Any = np.float32
    ) -> None:
        if shape is None:
            shape = np.broadcast_shapes(np.shape(low), np.shape(high))
        object.__setattr__(self, "low", _bound(low))
        object.__setattr__(self, "high", _bound(high))
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "dtype", np.dtype(dtype))

    @property
    def bounded(self) -> bool:
        return bool(np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high)))

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform between the bounds; standard normal in directions that have none."""
        if self.dtype == np.bool_:
            return jax.random.bernoulli(key, 0.5, self.shape)
        low = jnp.broadcast_to(jnp.asarray(self.low, jnp.float32), self.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high, jnp.float32), self.shape)
        finite = jnp.isfinite(low) & jnp.isfinite(high)
        uniform = jax.random.uniform(key, self.shape)
        inside = jnp.where(finite, low, 0) + uniform * jnp.where(finite, high - low, 1)
        free = jnp.clip(jax.random.normal(key, self.shape), low, high)
        return jnp.where(finite, inside, free).astype(self.dtype)

    def contains(self, x: Any) -> bool:
        x = np.asarray(x)
        if x.shape[x.ndim - len(self.shape) :] != self.shape or x.dtype != self.dtype:
            return False
        return bool(np.all((x >= np.asarray(self.low)) & (x <= np.asarray(self.high))))


@dataclasses.dataclass(frozen=True, init=False)
class Dict:
    """Named parts. `{"observation": ..., "action_mask": Box(0, 1, (n,), bool)}` tells agents which
    actions are allowed (True = allowed)."""

    items: tuple[tuple[str, Space], ...]

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        object.__setattr__(self, "items", tuple(sorted(spaces.items())))

    def __getitem__(self, name: str) -> Space:
        return dict(self.items)[name]

    def __contains__(self, name: str) -> bool:
        return name in dict(self.items)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items)

    def sample(self, key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, len(self.items))
        return {name: space.sample(k) for (name, space), k in zip(self.items, keys, strict=True)}

    def contains(self, x: Any) -> bool:
        return set(x) == set(self) and all(space.contains(x[name]) for name, space in self.items)


Space: TypeAlias = Discrete | MultiDiscrete | Box | Dict


def size(space: Space) -> int:
    """Numbers in the flat form of the space: a Discrete counts n (one-hot)."""
    match space:
        case Discrete(n):
            return n
        case MultiDiscrete(nvec):
            return sum(nvec)
        case Box():
            return math.prod(space.shape)
        case Dict():
            return sum(size(s) for _, s in space.items)


def zeros(space: Space, leading: tuple[int, ...] = ()) -> Any:
    """An all-zero element (not necessarily a member), with leading axes."""
    if isinstance(space, Dict):
        return {name: zeros(s, leading) for name, s in space.items}
    return jnp.zeros((*leading, *space.shape), space.dtype)


def flatten(space: Space, x: Any) -> jax.Array:
    """Any element as one float32 vector, Discrete parts one-hot; leading axes are kept."""
    match space:
        case Discrete(n):
            return jax.nn.one_hot(x, n, dtype=jnp.float32)
        case MultiDiscrete(nvec):
            return jnp.concatenate([jax.nn.one_hot(x[..., i], n) for i, n in enumerate(nvec)], -1)
        case Box():
            x = jnp.asarray(x, jnp.float32)
            return x.reshape(*x.shape[: x.ndim - len(space.shape)], size(space))
        case Dict():
            return jnp.concatenate([flatten(s, x[name]) for name, s in space.items], -1)


def describe(space: Space) -> str:
    """Short words for messages: `Discrete(2)`, `Box(4,) float32`."""
    match space:
        case Discrete(n):
            return f"Discrete({n})"
        case MultiDiscrete(nvec):
            return f"MultiDiscrete{nvec}"
        case Box():
            return f"Box{space.shape} {space.dtype}"
        case Dict():
            return "Dict(" + ", ".join(f"{n}: {describe(s)}" for n, s in space.items) + ")"
