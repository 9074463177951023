"""The sides of a comparison. Each module has `prepare(task, options) -> Prepared`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import numpy as np

from benchmarks.settings import Task

MODULES = {
    "jaxrl": "benchmarks.peers.jaxrl_side",
    "host": "benchmarks.peers.host_side",
    "host-vector": "benchmarks.peers.host_side",
    "rejax": "benchmarks.peers.rejax_side",
    "sbx": "benchmarks.peers.sb3_side",
    "sb3": "benchmarks.peers.sb3_side",
    "torch": "benchmarks.peers.torch_side",
    "brax": "benchmarks.peers.brax_side",
}

Curve = tuple[np.ndarray, np.ndarray]
"""Environment steps [points] and mean return [seeds, points]."""

LEARNERS = 8
"""Seeds of a learning run of a compiled side; a Python loop makes one run."""


@dataclasses.dataclass
class Prepared:
    """A side that is compiled and warm.

    `run(seconds)` does some work and returns the environment steps made, of all seeds together: a
    compiled side runs its whole program (`task.steps` per seed), a Python loop goes on for about
    that long. `curve()` is a complete learning run of `task.threshold_steps` steps.
    """

    compile_seconds: float
    run: Callable[[float], int]
    curve: Callable[[], Curve] | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """How a side is run, apart from its task."""

    side: str = "jaxrl"
    threads: int = 0  # of PyTorch
    processes: int = 1  # independent runs side by side
    compiled: bool = False  # torch.compile
    devices: int = 1  # host devices over which a JAX peer's seeds are split

    @property
    def label(self) -> str:
        parts = [self.side]
        if self.threads:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        if self.processes > 1:
            parts.append(f"{self.processes} processes")
        if self.compiled:
            parts.append("compiled")
        if self.devices > 1:
            parts.append(f"{self.devices} devices")
        return ", ".join(parts)


def prepare(task: Task, options: Options) -> Prepared:
    if options.side not in MODULES:
        raise ValueError(f"side={options.side!r} is unknown; there are {', '.join(MODULES)}.")
    return importlib.import_module(MODULES[options.side]).prepare(task, options)
