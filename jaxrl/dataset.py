"""Examples to learn from: a tree of arrays, and which of them come next.

    data = jaxrl.Dataset({"tokens": tokens, "mask": mask})     # arrays [n, ...]

Every epoch goes through the examples in an order of its own. The order is computed where it is
needed, from the key and the number of the batch, and never stored: a run that is resumed, or that
is one of many, needs no cursor.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import random
from jaxrl.spaces import Space
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Spec


@struct
class Dataset:
    """n examples. Agents that also act want to know the spaces of the task."""

    arrays: PyTree  # [n, ...]
    obs_space: Space | None = static("of the task, for agents that act", default=None)
    action_space: Space | None = static("of the task, for agents that act", default=None)

    @property
    def size(self) -> int:
        return jax.tree.leaves(self.arrays)[0].shape[0]

    def spec(self, steps: int) -> Spec:
        obs, action = cast(Any, self.obs_space), cast(Any, self.action_space)
        return Spec(obs, action, None, steps)

    def batch(self, key: Key, count: jax.Array, size: int) -> PyTree:
        """Batch number `count`, [size, ...]. What does not fill a batch at the end of an epoch is
        left out; the next epoch leaves out others."""
        per_epoch = self.size // size
        epoch, position = count // per_epoch, count % per_epoch
        index = position * size + jnp.arange(size)
        order = random.permuted(jax.random.fold_in(key, epoch), self.size, index)
        return jax.tree.map(lambda x: x[order], self.arrays)

    def check(self) -> None:
        """Refuse what has no examples, or arrays of different lengths."""
        sizes = {
            jax.tree_util.keystr(path): np.shape(x)[0] if np.ndim(x) else None
            for path, x in jax.tree_util.tree_leaves_with_path(self.arrays)
        }
        given = ", ".join(f"{name}: {n}" for name, n in sizes.items())
        if not sizes or None in sizes.values() or 0 in sizes.values():
            raise ValueError(
                f"a dataset is a tree of arrays with the examples along their first axis, got "
                f"{given or 'nothing'}."
            )
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"the arrays of a dataset must have one row per example each, got {given}."
            )

    def opaque(self) -> str:
        """What tells this dataset from others: a record of a run does not repeat the examples."""
        total = hashlib.sha256()
        for path, x in jax.tree_util.tree_leaves_with_path(self.arrays):
            host = np.ascontiguousarray(x)
            total.update(f"{jax.tree_util.keystr(path)} {host.dtype} {host.shape}".encode())
            total.update(host.tobytes())
        return f"dataset of {self.size} examples, sha256 {total.hexdigest()}"
