"""Linear maps in eight bits: a quarter of the memory of float32, for models that only run, or that
adapters are trained on (Dettmers et al. 2022 and 2023).

    small = quantise(lm.params)
    tuned = lora.adapt(key, small, rank=8)

Each output has a scale of its own, the largest of its weights over 127, so a weight is off by half
of that at most. Embeddings, heads, routers, norms and biases stay what they are. Products are those
of `x @ values`, multiplied by the scale afterwards; activations are never rounded.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm.layout import flatten, nest
from jaxrl.struct import struct


@struct
class Int8:
    """[.., in, out], where a kernel was."""

    values: jax.Array
    scale: jax.Array
    """[.., out] float32"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> Any:
        """Of the kernel that it stands for"""
        return self.scale.dtype

    def astype(self, dtype: Any) -> jax.Array:
        """The kernel itself"""
        return (self.values * self.scale[..., None, :]).astype(dtype)


def quantise(params: Any) -> Any:
    """The same parameters with all linear maps, those of experts too, as `Int8`."""
    flat = flatten(params)
    return nest({p: _rounded(x) if _linear(p) else x for p, x in flat.items()})


def memory(params: Any) -> int:
    """Bytes"""
    return sum(x.nbytes for x in jax.tree.leaves(params))


def _linear(path: str) -> bool:
    *_, place, name = ("", *path.split("/"))
    return (name == "kernel" and place != "router") or place == "experts"


def _rounded(x: Any) -> Int8:
    if isinstance(x, Int8):
        return x
    x = jnp.asarray(x, jnp.float32)
    most = jnp.abs(x).max(axis=-2)
    scale = jnp.where(most > 0, most / 127, 1.0)
    return Int8(jnp.round(x / scale[..., None, :]).astype(jnp.int8), scale)
