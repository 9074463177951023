"""Observations as numbers, and the range they lie in."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.types import PyTree

Bound: TypeAlias = float | tuple[float, ...]
"""One number for all dimensions, or one for each."""


def dimensions(name: str, space: spaces.Space) -> int:
    match space:
        case spaces.Discrete():
            return 1
        case spaces.MultiDiscrete(nvec):
            return len(nvec)
        case spaces.Box():
            return spaces.size(space)
        case spaces.Dict():
            raise TypeError(
                f"{name} needs observations that are Box, Discrete or MultiDiscrete, not "
                f"{spaces.describe(space)}: choose a part with jaxrl.envs.SelectObs, or "
                "jaxrl.envs.Flatten the environment."
            )


def numbers(space: spaces.Space, obs: PyTree) -> jax.Array:
    """[..., d] float32; an integer is one number."""
    x = jnp.asarray(obs, jnp.float32)
    if isinstance(space, spaces.Box):
        return x.reshape(*x.shape[: x.ndim - len(space.shape)], spaces.size(space))
    return x[..., None] if isinstance(space, spaces.Discrete) else x


def per_dimension(name: str, field: str, value: object, d: int) -> tuple[object, ...]:
    """One value for all dimensions as one for each."""
    if not isinstance(value, tuple):
        return (value,) * d
    if len(value) != d:
        raise ValueError(
            f"{name}({field}={value}) has {len(value)} entries, but observations have {d} "
            f"numbers: give one for each, or a single one for all."
        )
    return value


def resolved(
    name: str, space: spaces.Space, low: Bound | None, high: Bound | None
) -> tuple[np.ndarray, np.ndarray]:
    """[d], [d]: what was given, or the range of the space."""
    d = dimensions(name, space)
    match space:
        case spaces.Discrete(n):
            own: tuple[object, object] = 0.0, float(n - 1)
        case spaces.MultiDiscrete(nvec):
            own = 0.0, np.asarray(nvec) - 1.0
        case spaces.Box():
            shape = space.shape
            own = tuple(
                np.broadcast_to(np.asarray(x, np.float64), shape).ravel()
                for x in (space.low, space.high)
            )  # pyright: ignore[reportAssignmentType]
        case spaces.Dict():
            raise AssertionError

    def bound(field: str, given: Bound | None, default: object) -> np.ndarray:
        value = default if given is None else per_dimension(name, field, given, d)
        return np.broadcast_to(np.asarray(value, np.float64), (d,))

    bottom, top = bound("low", low, own[0]), bound("high", high, own[1])
    for i in range(d):
        if not (np.isfinite(bottom[i]) and np.isfinite(top[i])):
            raise ValueError(
                f"{name} needs a finite range, but number {i} of the observation lies between "
                f"{bottom[i]:g} and {top[i]:g}: write low=(...), high=(...) with what occurs."
            )
        if bottom[i] >= top[i]:
            raise ValueError(
                f"{name}: number {i} of the observation lies between {bottom[i]:g} and "
                f"{top[i]:g}; low must be less than high."
            )
    return bottom, top


def unit(
    name: str, space: spaces.Space, obs: PyTree, low: Bound | None, high: Bound | None
) -> jax.Array:
    """[..., d]: 0 at the low end and 1 at the high one."""
    bottom, top = resolved(name, space, low, high)
    x = numbers(space, obs)
    return (x - bottom.astype(np.float32)) / (top - bottom).astype(np.float32)
