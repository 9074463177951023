"""What must be settled before JAX starts: enough host threads, and one host device per core.

XLA sizes the thread pool of its CPU client by the number of cores. On one or two cores a program
with nested parallelism (a batched matmul inside a vmapped run, or several host devices) can then
wait for itself for ever, at zero CPU. The pool's size is read from the environment variable NPROC
when the first device is used, so importing jaxrl before that is enough.
"""

from __future__ import annotations

import functools
import os
import warnings

import jax

MIN_POOL = 8
"""Threads that are always enough (measured: 1, 4 and 8 never hang on two cores, 2 does)."""


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare() -> None:
    """Called once by `import jaxrl`. Whatever the user has set is left alone.

    JAXRL_CPU_DEVICES=1 keeps JAX at a single host device; any other number asks for as many.
    """
    few_threads = "NPROC" not in os.environ and cores() < MIN_POOL
    wanted = int(os.environ.get("JAXRL_CPU_DEVICES", cores()))
    flags = os.environ.get("XLA_FLAGS", "")
    if few_threads:
        os.environ["NPROC"] = str(MIN_POOL)
    chosen: int = jax.config.jax_num_cpu_devices  # pyright: ignore
    if "xla_force_host_platform_device_count" in flags or chosen > 0:
        return
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # raised when the first device was used before we were imported
        if few_threads:
            warnings.warn(
                "jaxrl was imported after JAX had already started, so it could not enlarge XLA's "
                f"thread pool; with {cores()} cores a program over many seeds can hang. Import "
                "jaxrl before the first JAX computation, or set the environment variable NPROC=8.",
                RuntimeWarning,
                stacklevel=3,
            )


@functools.cache
def compiler_options() -> dict[str, bool]:
    """What `train` asks of the compiler. On CPUs, operations one after the other: by default XLA
    hands small ones to its pool, which keeps two host devices from running side by side (DQN, 8
    runs on two cores: 171k steps/s with the hand-over, 254k to 300k without)."""
    options = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # a version that does not know the option
        return {}
    return options


def memory_free() -> int | None:
    """Bytes that the local accelerator (or the host, for CPU) can still give; None if unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) * jax.local_device_count()
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
