"""How devices are shared out: seeds beside one another, the environments of a run split, or both.

A mesh is a rectangle of devices, `seeds` x `envs`. Runs are spread over its rows and never talk to
one another. The devices of a row share the runs of that row: each steps its part of the
environments and works on its part of every minibatch, and parameters, optimiser and replay are the
same on all of them.

Splitting a run changes nothing of what is computed. The program stays that of one device, with
notes on which axis of an array lies across the devices (`spread`) and which array each of them
needs all of (`whole`); the compiler inserts the sums over devices that follow, those of gradients
among them. An agent without notes learns the same, only no faster. Outside of a split run the notes
are no operation at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from jaxrl.types import PyTree

LANE, ENV = "jaxrl-runs", "jaxrl-envs"  # names that no mesh of the caller has


@dataclasses.dataclass(frozen=True)
class Mesh:
    """`seeds` x `envs` devices. `seeds=None` takes as many as there are and as can be used; with
    `envs=1` a run stays on one device."""

    seeds: int | None = None
    envs: int = 1

    def check(self, num_envs: int, runs: int | None) -> None:
        """Refuse what cannot work: `runs` with `num_envs` environments each (None for one run)."""
        from jaxrl import checks

        checks.positive_int(self.envs, "Mesh.envs")
        if self.seeds is not None:
            checks.positive_int(self.seeds, "Mesh.seeds")
        needed, there = (self.seeds or 1) * self.envs, jax.device_count()
        if needed > there:
            remedy = ""
            if jax.default_backend() == "cpu":
                remedy = f", or set JAXRL_CPU_DEVICES={needed} in the environment"
            raise ValueError(
                f"mesh={self} needs {needed} devices and JAX sees {there}: write a smaller "
                f"mesh{remedy}."
            )
        if jax.process_count() > 1 and (runs is not None or self.envs > 1):
            used = self.envs * (self.seeds or (1 if runs is None else there // self.envs))
            if used != there:
                raise ValueError(
                    f"mesh={self} uses {used} of the {there} devices of {jax.process_count()} "
                    "processes, but every process must take part: let seeds x envs be all devices."
                )
        if num_envs % self.envs:
            fits = max(1, num_envs // self.envs) * self.envs
            raise ValueError(
                f"num_envs={num_envs} environments cannot be shared evenly by {self}: write "
                f"num_envs={fits}, or a number of devices that divides {num_envs}."
            )
        if self.seeds is not None and self.seeds > (runs or 1):
            what = "one run" if runs is None else f"{runs} runs"
            raise ValueError(
                f"mesh={self} spreads runs over {self.seeds} devices, but there is only {what}: "
                f"give jax.random.split(key, {self.seeds}) or more keys, or a smaller seeds."
            )


def parse(mesh: Any, num_envs: int, runs: int | None) -> Mesh:
    """`mesh=` of train."""
    if mesh is None:
        return Mesh()
    if not isinstance(mesh, Mesh):
        hint = f"jaxrl.Mesh(envs={mesh})" if isinstance(mesh, int) else "jaxrl.Mesh(envs=2)"
        raise TypeError(f"mesh={mesh!r} must be a jaxrl.Mesh: write mesh={hint}.")
    mesh.check(num_envs, runs)
    return mesh


def devices(seeds: int, envs: int = 1, local: bool = False) -> jax.sharding.Mesh:
    """The first `seeds` x `envs` devices, of this process alone or of all. Those that share a run
    lie next to one another, hence on one host where they can."""
    chosen = (jax.local_devices() if local else jax.devices())[: seeds * envs]
    grid = np.array(chosen).reshape(seeds, envs)
    return jax.sharding.Mesh(grid, (LANE, ENV), axis_types=(AxisType.Auto,) * 2)


def scope(seeds: int, envs: int) -> contextlib.AbstractContextManager[Any]:
    """While entered, `spread` and `whole` mean the devices that share a run."""
    return contextlib.nullcontext() if envs == 1 else jax.set_mesh(devices(seeds, envs))


def sharing() -> int:
    """How many devices share the run whose program is being traced."""
    shape: Any = jax.sharding.get_abstract_mesh().shape
    return shape.get(ENV, 1)


def spread(tree: PyTree, axis: int = 0) -> PyTree:
    """Note that `axis` of every leaf lies across the devices that share this run."""
    count = sharing()
    if count == 1:
        return tree

    def one(x: jax.Array) -> jax.Array:
        if x.ndim <= axis or x.shape[axis] % count:
            return x
        spec = PartitionSpec(*(ENV if i == axis else None for i in range(x.ndim)))
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree.map(one, tree)


def whole(tree: PyTree) -> PyTree:
    """Note that each of the devices that share this run holds all of every leaf."""
    if sharing() == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree)
