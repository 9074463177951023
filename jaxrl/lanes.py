"""Many runs in one call: which lane is advanced where, and when.

A *lane* is one independent run. Lanes are split evenly over the devices (or rows of devices that
share their runs, see `jaxrl.mesh`); on each a group of them is advanced together (`vmap`) while the
other groups wait their turn. Accelerators want all lanes in one group, a CPU as many as its cache
holds: `jaxrl.train` says how many those are.

Counters are not split: they have one value for all lanes, so that a schedule stays a branch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl import distributed, mesh
from jaxrl.struct import map_nodes
from jaxrl.types import Counter, PyTree

CPU_GROUP = 1
"""Lanes advanced together on one CPU device, unless the caller says otherwise."""


@dataclasses.dataclass(frozen=True)
class Lanes:
    """`count` runs as `devices` x `groups` x `group` (the last ones may be padding); `envs` devices
    share each run, and `local` keeps to those of this process."""

    count: int
    devices: int
    groups: int
    group: int
    envs: int = 1
    local: bool = False

    @property
    def padded(self) -> int:
        return self.devices * self.groups * self.group


def arrange(
    count: int,
    together: int | None,
    spread: bool = True,
    wish: mesh.Mesh | None = None,
    local: bool = False,
) -> Lanes:
    """`together` lanes at a time per device; `spread=False` keeps to one device, inside a trace,
    and `local=True` to those of this process."""
    wish = wish or mesh.Mesh()
    there = (jax.local_device_count() if local else jax.device_count()) // wish.envs
    devices = wish.seeds or min(there, count)
    if jax.process_count() > 1 and not local:
        devices = wish.seeds or there  # every process takes part, if only with padding
    if not spread:
        devices = 1
    per_device = math.ceil(count / devices)
    if together is None:
        on_cpu = spread and jax.default_backend() == "cpu"
        together = CPU_GROUP if on_cpu else per_device
    fewest = math.ceil(per_device / min(together, per_device))

    def padded(groups: int) -> int:
        return groups * math.ceil(per_device / groups)

    # Up to twice as many turns where less of the work is then padding.
    groups = min(range(fewest, 2 * fewest + 1), key=padded)
    return Lanes(count, devices, groups, math.ceil(per_device / groups), wish.envs, local)


def shared_counters(tree: PyTree) -> PyTree:
    """Undo what a caller's own vmap did to the counters: they are the same in every lane."""

    def one(x: Any) -> Any:
        return Counter(x.value.ravel()[0]) if is_counter(x) else x

    return map_nodes(one, tree, Counter)


def is_counter(x: Any) -> bool:
    return isinstance(x, Counter)


def axes(tree: PyTree) -> PyTree:
    """vmap axes: None for counters, 0 for everything else."""
    return map_nodes(lambda x: None if is_counter(x) else 0, tree, Counter)


def stack_one(tree: PyTree) -> PyTree:
    """One lane as a stack of one."""
    return map_nodes(lambda x: x if is_counter(x) else x[None], tree, Counter)


def pick(tree: PyTree, index: int | slice) -> PyTree:
    """One lane of a stack, or several. Counters have no lanes, unless a caller's vmap gave them
    some."""

    def one(x: Any) -> Any:
        if is_counter(x):
            return x if jnp.ndim(x.value) == 0 else Counter(x.value[index])
        return x[index]

    return map_nodes(one, tree, Counter)


def pad(tree: PyTree, lanes: Lanes) -> PyTree:
    """[count, ...] -> [padded, ...], repeating lanes from the first on."""
    if lanes.padded == lanes.count:
        return tree
    index = jnp.arange(lanes.padded) % lanes.count
    return map_nodes(lambda x: x if is_counter(x) else x[index], tree, Counter)


def trim(tree: PyTree, lanes: Lanes) -> PyTree:
    """[padded, ...] -> [count, ...]"""
    if lanes.padded == lanes.count:
        return tree
    return map_nodes(lambda x: x if is_counter(x) else x[: lanes.count], tree, Counter)


def _mesh(lanes: Lanes) -> jax.sharding.Mesh:
    return mesh.devices(lanes.devices, lanes.envs, lanes.local)


class Placement:
    """Puts host arrays where a chunk of training leaves its results: of `lanes` (None for a single
    run), each of them shared by `envs` devices."""

    def __init__(self, lanes: Lanes | None, envs: int) -> None:
        self.lanes, self.envs = lanes, envs
        self.index = None if lanes is None else np.arange(lanes.padded) % lanes.count
        count = 1 if lanes is None else lanes.devices
        self.mesh = mesh.devices(count, envs) if count * envs > 1 else None

    def put(self, x: np.ndarray[Any, Any], counter: bool, env_axis: int | None) -> jax.Array:
        """[count, ...] -> [padded, ...], padded as by `pad`; a counter as it is. `env_axis` is the
        axis of the environments in one run, None for what has none."""
        spec: list[str | None] = []
        if self.index is not None and not counter:
            x = x[self.index]
            spec = [mesh.LANE]
        if self.mesh is None:
            return jnp.array(x)
        if env_axis is not None and self.envs > 1:
            spec += [None] * env_axis + [mesh.ENV]
        sharding = NamedSharding(self.mesh, PartitionSpec(*spec))
        if not sharding.is_fully_addressable:
            return distributed.laid(np.array(x), sharding)
        return jax.device_put(x, sharding, may_alias=False)


def each(
    function: Callable[[PyTree, PyTree], PyTree],
    shared: PyTree,
    split: PyTree,
    lanes: Lanes,
    onward: bool = False,
) -> PyTree:
    """`function(shared, one lane of split)` for every lane; `split` is padded, so is the result.

    With `onward`, `split` is (what goes on, the rest) and the result is (how it went on, the rest):
    a group that has had its turn then takes the place it had before, and no second copy is needed.
    """
    one = map_nodes(lambda x: x if is_counter(x) else x[0], split, Counter)
    shapes = jax.eval_shape(function, shared, one)

    def together(shared: PyTree, group: PyTree) -> PyTree:
        if lanes.group == 1:  # no vmap: a lane is then the very program of a single run
            return stack_one(function(shared, pick(group, 0)))
        return jax.vmap(function, (None, axes(group)), axes(shapes))(shared, group)

    def on_device(shared: PyTree, split: PyTree) -> PyTree:
        if lanes.groups == 1:
            return together(shared, split)
        if onward:
            return _in_place(together, shared, split, shapes[1], lanes)
        nodes, treedef = jax.tree.flatten(split, is_leaf=is_counter)
        shape = (lanes.groups, lanes.group)
        data = [None if is_counter(x) else x.reshape(*shape, *x.shape[1:]) for x in nodes]

        def next_group(_: None, xs: list[Any]) -> tuple[None, PyTree]:
            own = [x if is_counter(x) else y for x, y in zip(nodes, xs, strict=True)]
            return None, together(shared, jax.tree.unflatten(treedef, own))

        _, results = jax.lax.scan(next_group, None, data)

        def merge(x: Any) -> Any:
            if is_counter(x):
                return Counter(x.value[-1])
            return x.reshape(lanes.groups * lanes.group, *x.shape[2:])

        return map_nodes(merge, results, Counter)

    if lanes.devices == 1:
        return on_device(shared, split)

    def specs(tree: PyTree) -> PyTree:
        whole, lane = PartitionSpec(), PartitionSpec(mesh.LANE)
        return map_nodes(lambda x: whole if is_counter(x) else lane, tree, Counter)

    # The lanes never talk to one another, so there is nothing for the replication check to check.
    # The other axis is left to the compiler, which follows the notes of `jaxrl.mesh`.
    return jax.shard_map(
        on_device,
        mesh=_mesh(lanes),
        in_specs=(PartitionSpec(), specs(split)),
        out_specs=specs(shapes),
        axis_names={mesh.LANE, mesh.ENV} if lanes.envs == 1 else {mesh.LANE},
        check_vma=False,
    )(shared, split)


def _in_place(
    together: Callable[[PyTree, PyTree], PyTree],
    shared: PyTree,
    split: PyTree,
    shapes: PyTree,
    lanes: Lanes,
) -> PyTree:
    """Group after group, each written back to where it was read. `shapes` are those of the second
    part of one lane's result. (To see the stack as [groups, group, ...] would cost a copy of it.)
    """
    going, rest = split
    start = jax.tree.leaves(going, is_leaf=is_counter)
    treedef = jax.tree.structure(going, is_leaf=is_counter)

    def read(x: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, i * lanes.group, lanes.group)

    def write(x: jax.Array, new: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new, i * lanes.group, 0)

    def turn(i: jax.Array, carry: tuple[list[Any], PyTree]) -> tuple[list[Any], PyTree]:
        stacks, made = carry
        # Every group begins with the counters as they were before the first.
        own = [x if is_counter(x) else read(s, i) for x, s in zip(start, stacks, strict=True)]
        group = map_nodes(lambda x: x if is_counter(x) else read(x, i), rest, Counter)
        after, new = together(shared, (jax.tree.unflatten(treedef, own), group))
        after = jax.tree.leaves(after, is_leaf=is_counter)
        stacks = [
            x if is_counter(x) else write(s, x, i) for x, s in zip(after, stacks, strict=True)
        ]
        return stacks, jax.tree.map(lambda all_, x: write(all_, x, i), made, new)

    count = lanes.groups * lanes.group
    made = jax.tree.map(lambda s: jnp.zeros((count, *s.shape), s.dtype), shapes)
    stacks, made = jax.lax.fori_loop(0, lanes.groups, turn, (start, made))
    return jax.tree.unflatten(treedef, stacks), made
