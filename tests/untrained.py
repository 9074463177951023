"""Policies that were never trained, and random observations for them; nothing is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.result import Policy
from jaxrl.types import Spec


def filled(agent: Any, spec: Spec) -> Policy:
    """With random parameters."""
    shapes = jax.eval_shape(lambda key: agent.init(key, spec), jax.random.key(0))
    chance = np.random.default_rng(1)

    def fill(x: Any) -> jax.Array:
        if x.dtype != np.float32:
            return jnp.full(x.shape, 3 if x.shape == () else 0, x.dtype)
        values = chance.normal(size=x.shape) / np.sqrt(x.shape[-2] if len(x.shape) > 1 else 4)
        return jnp.asarray(values if len(x.shape) > 1 else np.abs(values), np.float32)

    return Policy(agent, jax.tree.map(fill, shapes), spec)


def draw(space: spaces.Space, batch: int, chance: np.random.Generator) -> Any:
    """Random elements."""
    match space:
        case spaces.Dict():
            return {name: draw(part, batch, chance) for name, part in space.items}
        case spaces.Discrete(n):
            return chance.integers(0, n, batch, np.int32)
        case spaces.MultiDiscrete(nvec):
            return chance.integers(0, nvec, (batch, len(nvec)), np.int32)
        case spaces.Box() if space.dtype == np.float32:
            return chance.normal(size=(batch, *space.shape)).astype(np.float32)
        case spaces.Box():
            high = int(np.max(space.high)) + 1
            return chance.integers(0, high, (batch, *space.shape)).astype(space.dtype)
