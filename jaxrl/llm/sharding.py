"""A model spread over devices: its matrices cut along two axes of a mesh, its rows along one.

    shards = Shards(data=4, tensor=2)                     # of the first eight devices
    lm = jaxrl.llm.load("folder", place=shards.place)     # no device ever holds all of it
    run = jaxrl.train(GRPO(lm.network, shards=shards), task, key, steps=..., start=lm.params)

`data` devices keep a part each of every matrix, optimiser states included, and a part of the rows
(FSDP, Rajbhandari et al. 2020); along `tensor` heads and hidden units are shared out (Shoeybi et
al. 2019). Nothing of what is computed changes: these are notes to the compiler, which inserts what
must be exchanged. `Shards()` is no note at all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrl.types import PyTree

DATA, TENSOR = "jaxrl-data", "jaxrl-tensor"

AXES = {
    "query": (DATA, TENSOR),
    "key": (DATA, TENSOR),
    "value": (DATA, TENSOR),
    "gate": (DATA, TENSOR),
    "up": (DATA, TENSOR),
    "out": (TENSOR, DATA),
    "down": (TENSOR, DATA),
    "embedding": (TENSOR, DATA),
    "output": (DATA, TENSOR),
    "positions": (None, DATA),
}
"""How the last two axes of a matrix are cut; everything else is whole everywhere."""


@dataclasses.dataclass(frozen=True)
class Shards:
    """`data` x `tensor` devices that share one model."""

    data: int = 1
    tensor: int = 1

    @property
    def count(self) -> int:
        return self.data * self.tensor

    @property
    def mesh(self) -> jax.sharding.Mesh:
        there = jax.devices()
        if self.count > len(there):
            remedy = ""
            if jax.default_backend() == "cpu":
                remedy = f", or set JAXRL_CPU_DEVICES={self.count} in the environment"
            raise ValueError(
                f"{self} needs {self.count} devices and JAX sees {len(there)}: write a smaller "
                f"one{remedy}."
            )
        grid = np.array(there[: self.count]).reshape(self.data, self.tensor)
        return jax.sharding.Mesh(grid, (DATA, TENSOR), axis_types=(AxisType.Auto,) * 2)

    def spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Of the parameter "blocks_0/attention/query/kernel", or of what is kept for it."""
        words = [word for word in path.split("/") if word in AXES]
        if not words or len(shape) < 2 or "bias" in path.split("/"):
            return PartitionSpec()
        sizes = {DATA: self.data, TENSOR: self.tensor, None: 1}
        axes = [
            axis if size % sizes[axis] == 0 else None
            for axis, size in zip(AXES[words[-1]], shape[-2:], strict=True)
        ]
        return PartitionSpec(*(None,) * (len(shape) - 2), *axes)

    def place(self, path: str, shape: tuple[int, ...]) -> Any:
        """For `jaxrl.llm.load`: where a parameter goes."""
        return NamedSharding(self.mesh, self.spec(path, shape))

    def state(self, tree: PyTree) -> PyTree:
        """Notes for parameters, and for whatever has their paths: optimiser states, references."""
        if self.count == 1:
            return tree

        def note(path: Any, x: jax.Array) -> jax.Array:
            name = "/".join(str(getattr(k, "key", getattr(k, "name", ""))) for k in path)
            return jax.lax.with_sharding_constraint(x, self.place(name, x.shape))

        return jax.tree_util.tree_map_with_path(note, tree)

    def rows(self, tree: PyTree) -> PyTree:
        """Notes that rows lie across the devices along `data`."""
        if self.data == 1:
            return tree

        def note(x: jax.Array) -> jax.Array:
            if x.ndim == 0 or x.shape[0] % self.data:
                return x
            return jax.lax.with_sharding_constraint(
                x, NamedSharding(self.mesh, PartitionSpec(DATA))
            )

        return jax.tree.map(note, tree)


WHOLE = Shards()
