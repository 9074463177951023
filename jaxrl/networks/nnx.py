"""Flax NNX modules as torsos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax


class FromNNX(nn.Module):
    """A linen module whose parameters are those of the NNX module that `build(rngs)` returns."""

    build: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        from flax import nnx

        def init(key: jax.Array) -> Any:
            return nnx.to_pure_dict(nnx.state(self.build(nnx.Rngs(key)), nnx.Param))

        values = self.param("nnx", init)
        graph, abstract, rest = nnx.split(self.build(nnx.Rngs(0)), nnx.Param, ...)
        nnx.replace_by_pure_dict(abstract, values)
        return nnx.merge(graph, abstract, rest)(x)


def from_nnx(build: Callable[[Any], Any]) -> FromNNX:
    """`from_nnx(lambda rngs: nnx.Sequential(nnx.Linear(4, 64, rngs=rngs), nnx.tanh))`.

    Only parameters are trained; modules with other state (batch norm, dropout) are not supported,
    because agents keep no mutable collections.
    """
    return FromNNX(build)
