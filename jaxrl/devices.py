"""What must be settled before JAX starts: enough host threads, and one host device per core.

XLA sizes the thread pool of its CPU client by the number of cores. On one or two cores a program
with nested parallelism (a batched matmul inside a vmapped run, or several host devices) can then
wait for itself for ever, at zero CPU. The pool's size is read from the environment variable NPROC
when the first device is used, so importing jaxrl before that is enough.

XLA also hands small operations of one program to that pool, to run them side by side. For networks
of reinforcement learning's size that costs more than it saves, and with a device per core the
cores are busy anyway: two DQN runs on two cores made 319k steps/s without it, 166k with it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(devices: int = 1) -> int:
    """Of XLA's pool: each device may block one while it waits for another, so there must be more
    than devices. Measured on two cores: 2 hangs; of 3, 4 and 8, 4 is the fastest that never did
    (8 runs of SAC: 1,217 steps/s with 4 threads, 900 with 8). No such number is enough for LAPACK's
    batches, which are avoided instead: see jaxrl.networks.orthogonal."""
    return max(4, 2 * cores(), 2 * devices)


def prepare() -> None:
    """Called once by `import jaxrl`: settles everything at once if JAX is loaded, and else in the
    moment it is. Importing jaxrl alone is therefore cheap: the command line answers questions
    about itself without waiting for JAX."""
    if "jax" in sys.modules:
        settle(stacklevel=4)
    else:
        sys.meta_path.insert(0, _WhenLoaded())


class _WhenLoaded(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `jax` as everybody else would, and calls `settle` after it was loaded."""

    _loader: Any = None

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        del path, target
        if fullname != "jax":
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec("jax")
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = self._loader  # as if we had never been there
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        settle(stacklevel=2)


def settle(stacklevel: int) -> None:
    """Whatever the user has set is left alone.

    JAXRL_CPU_DEVICES=1 keeps JAX at a single host device; any other number asks for as many.
    """
    import jax

    new_pool = "NPROC" not in os.environ
    wanted = int(os.environ.get("JAXRL_CPU_DEVICES", cores()))
    flags = os.environ.get("XLA_FLAGS", "")
    chosen: int = jax.config.jax_num_cpu_devices  # pyright: ignore
    forced = re.search(r"xla_force_host_platform_device_count=(\d+)", flags)
    host_devices = int(forced[1]) if forced else chosen if chosen > 0 else wanted
    if new_pool:
        os.environ["NPROC"] = str(threads(host_devices))
    if SCHEDULER not in flags and jax.__version_info__ < (0, 12):  # an unknown flag is fatal
        os.environ["XLA_FLAGS"] = f"{flags} {SCHEDULER}=false".strip()
    if forced or chosen > 0:
        return
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # raised when the first device was used before we were imported
        if new_pool:
            warnings.warn(
                "jaxrl was imported after JAX had already started, so it could not enlarge XLA's "
                f"thread pool; with {cores()} cores a program over many seeds can hang. Import "
                f"jaxrl before the first JAX computation, or set the environment variable "
                f"NPROC={threads(host_devices)}.",
                RuntimeWarning,
                stacklevel=stacklevel,
            )


def memory_free() -> int | None:
    """Bytes that the local accelerator (or the host, for CPU) can still give; None if unknown."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) * jax.local_device_count()
    try:  # Linux counts what it would take back from its file cache
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
