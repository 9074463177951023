"""Frozen dataclasses that are pytrees: the one way this library groups values.

A field is either *data* (traced: an array, a float, another struct) or *static* (part of the
program: a shape, a loop length, a function, a linen module). Changing data never recompiles;
changing a static field does.

    @struct
    class QLearning:
        lr: Float = param("step size", default=0.1, above=0.0)
        num_envs: int = static("parallel environments", default=1, low=1)

The bounds are stored with the field and checked by `jaxrl.checks` before anything is traced. The
constructor itself only stores, because JAX also calls it with tracers and placeholders. `default=`
is spelled out because type checkers look for that word.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")

Float = float | jax.Array
"""A hyperparameter: a Python float, a traced scalar, or one value per lane of a stack of agents."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a field accepts. `low`/`high` are inclusive, `above`/`below` exclusive."""

    doc: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: float) -> str | None:
        """Why `value` is refused, as "at least 0", or None when it is fine. NaN is never fine."""
        if math.isnan(value):
            return "a number, not NaN"
        if self.low is not None and value < self.low:
            return f"at least {self.low:g}"
        if self.high is not None and value > self.high:
            return f"at most {self.high:g}"
        if self.above is not None and value <= self.above:
            return f"above {self.above:g}"
        if self.below is not None and value >= self.below:
            return f"below {self.below:g}"
        return None


def param(
    doc: str = "",
    *,
    default: Any = dataclasses.MISSING,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A traced hyperparameter with its meaning and its range."""
    bounds = Bounds(doc, low, high, above, below)
    return dataclasses.field(default=default, metadata={"static": False, "bounds": bounds})


def static(
    doc: str = "",
    *,
    default: Any = dataclasses.MISSING,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field that is part of the program: it must be hashable, and a new value recompiles."""
    bounds = Bounds(doc, low, high)
    return dataclasses.field(default=default, metadata={"static": True, "bounds": bounds})


def is_static(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("static", False))


def _register(cls: type[Any]) -> None:
    """Register `cls` as a pytree whose structure knows its class.

    `jax.tree_util.register_dataclass` is shorter, but to it two classes with as many data fields
    and equal static values have the same structure (jaxlib 0.10). Only their hashes differ, which
    a hash table need not look at in full: now and then `jit` runs the program of another class.
    """
    fields = dataclasses.fields(cls)
    data = tuple(f.name for f in fields if not is_static(f))
    meta = tuple(f.name for f in fields if is_static(f))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def static_part(x: Any) -> tuple[Any, ...]:
        return (cls, *(getattr(x, name) for name in meta))

    def flatten(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(x, name) for name in data), static_part(x)

    def flatten_with_keys(x: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children = tuple(getattr(x, name) for name in data)
        return tuple(zip(keys, children, strict=True)), static_part(x)

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        x = object.__new__(cls)
        for name, value in zip(meta, aux[1:], strict=True):
            object.__setattr__(x, name, value)
        for name, value in zip(data, children, strict=True):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


@dataclass_transform(frozen_default=True, field_specifiers=(param, static, dataclasses.field))
def struct(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-friendly dataclass and register it as a pytree."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    _register(cls)
    return cls


def map_nodes(function: Callable[[Any], Any], tree: Any, node: type) -> Any:
    """`jax.tree.map` that also stops at nodes of one type."""
    return jax.tree.map(function, tree, is_leaf=lambda x: isinstance(x, node))
