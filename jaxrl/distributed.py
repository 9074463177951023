"""Several processes as one: who writes, and what all of them must agree on.

Start the same script once per host (or per GPU), call `jax.distributed.initialize()` in its first
lines, and `jaxrl.train` spreads its runs over the devices of all processes. Each of them executes
the same program in the same order; what depends on the time or on the outside (how long a chunk is,
whether somebody asked to stop, what is on the disk) is decided by one process and told to the
others. The first process alone writes: checkpoints, metrics, progress. Results are gathered, so
that every process has all of them. With a single process nothing here does anything.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl.types import PyTree

T = TypeVar("T")


def several() -> bool:
    return jax.process_count() > 1


def index() -> int:
    return jax.process_index()


def first() -> bool:
    """Whether this process is the one that writes."""
    return index() == 0


# ------------------------------------------------------------------------------------- arrays


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Host values that are the same in every process, as arrays on all devices of `mesh`."""
    if not several():
        return tree

    def one(x: Any) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return laid(host, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(one, tree)


def laid(x: np.ndarray[Any, Any], sharding: NamedSharding) -> jax.Array:
    """A host array, the same in every process, in a layout that may reach beyond this process."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


@functools.cache
def _replicate(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def fetch(x: Any) -> np.ndarray[Any, Any]:
    """All of an array, wherever its parts are. Every process must ask for it."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        assert isinstance(x.sharding, NamedSharding)
        x = _replicate(x.sharding.mesh)(x)
    return np.asarray(x)


def gathered(tree: PyTree) -> PyTree:
    """What lies on the devices of all processes, as arrays of this one."""
    if not several():
        return tree
    return jax.tree.map(lambda x: jnp.asarray(fetch(x)), tree)


# ---------------------------------------------------------------------------------- agreement


def exchange(*numbers: int) -> np.ndarray[Any, Any]:
    """-> [processes, numbers]: what each process gave."""
    mine = np.array(numbers, np.int32)
    return np.asarray(multihost_utils.process_allgather(mine)) if several() else mine[None]


def _texts(text: str) -> list[str]:
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = exchange(mine.size)[:, 0]
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: mine.size] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


class ProcessFailed(RuntimeError):
    """Another process could not do its part; the message says which and why."""


def together(function: Callable[[], T]) -> T:
    """`function()` in every process; where it raises in one of them, all stop."""
    if not several():
        return function()
    error, value = None, None
    try:
        value = function()
    except Exception as raised:
        error = raised
    said = _texts("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for process, text in enumerate(said):
        if text:
            raise ProcessFailed(f"process {process} stopped: {text}")
    return value  # pyright: ignore


def by_first(function: Callable[[], T]) -> T:
    """`function()` in the first process, and what it gave (as JSON can hold it) in all."""
    if not several():
        return function()
    value = together(lambda: function() if first() else None)
    return json.loads(_texts(json.dumps(value) if first() else "")[0])
