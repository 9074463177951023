"""What is installed, which devices are seen, what is slow about this set-up and how to mend it.

`look` gathers facts; `findings` judges them and is a pure function, so that every judgement can be
tested without the machine it is about.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "distrax", "numpy")

EXTRAS = {
    "gymnax": ("gymnax", "pip install jaxrl"),
    "brax": ("brax", "pip install jaxrl"),
    "mujoco-mjx": ("mujoco.mjx", "pip install jaxrl"),
    "playground": ("mujoco_playground", "pip install 'jaxrl[envs]'"),
    "gymnasium": ("gymnasium", "pip install 'jaxrl[envs]'"),
    "tensorboardX": ("tensorboardX", "pip install tensorboardX"),
    "wandb": ("wandb", "pip install 'jaxrl[wandb]'"),
    "matplotlib": ("matplotlib", "pip install jaxrl"),
    **{
        suite: (suite, "pip install 'jaxrl[suites]'")
        for suite in ("craftax", "jaxmarl", "jumanji", "navix", "pgx", "xminigrid")
    },
}
"""Name -> module, how to get it."""


@dataclasses.dataclass(frozen=True)
class Facts:
    backend: str
    devices: tuple[str, ...]
    cores: int
    quota: float | None = None  # cores a container may use, None for no limit
    load: float = 0.0
    threads: int | None = None  # NPROC
    free_gib: float | None = None
    nvidia: bool = False  # a driver is there
    cache: str | None = None
    debug_nans: bool = False
    jit: bool = True
    x64: bool = False
    precision: str | None = None
    preallocate: bool = True
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Finding:
    what: str
    mend: str


def findings(facts: Facts) -> Iterator[Finding]:
    """What costs speed or memory here; nothing when all is well."""
    env = facts.environment
    if facts.nvidia and facts.backend == "cpu":
        if env.get("JAX_PLATFORMS", "").lower() == "cpu":
            yield Finding(
                "an NVIDIA GPU is there, but JAX_PLATFORMS=cpu hides it", "unset JAX_PLATFORMS"
            )
        else:
            yield Finding(
                "an NVIDIA GPU is there, but this JAX cannot use it",
                "pip install 'jaxrl[cuda13]' (driver 580 or newer) or 'jaxrl[cuda12]'",
            )
    if not facts.jit:
        yield Finding(
            "jit is switched off: everything runs operation by operation", "unset JAX_DISABLE_JIT"
        )
    if facts.debug_nans:
        yield Finding(
            "jax_debug_nans looks at the result of every program and runs it again",
            "unset JAX_DEBUG_NANS; train(..., guard=True) finds NaNs at little cost",
        )
    if facts.x64:
        yield Finding(
            "64-bit numbers are switched on: slower, and very slow on GPUs", "unset JAX_ENABLE_X64"
        )
    if facts.cache is None:
        yield Finding(
            "compiled programs are not kept: each start compiles anew (5 to 30 s)",
            "unset JAXRL_CACHE; in a script call jaxrl.cache.enable()",
        )
    crowded = facts.threads is not None and facts.threads <= len(facts.devices)
    if facts.backend == "cpu" and crowded:
        yield Finding(
            f"XLA's pool has {facts.threads} threads for {len(facts.devices)} host devices: a "
            "program over many seeds can hang",
            f"unset NPROC, or set NPROC={max(4, 2 * facts.cores)}",
        )
    if facts.backend == "cpu" and len(facts.devices) < facts.cores:
        yield Finding(
            f"{len(facts.devices)} of {facts.cores} cores carry a device, so that many runs at "
            "once leave cores idle",
            "unset JAXRL_CPU_DEVICES and JAX_NUM_CPU_DEVICES",
        )
    if facts.quota is not None and facts.quota < facts.cores - 0.5:
        number = max(1, int(facts.quota))
        yield Finding(
            f"the container may use {facts.quota:g} cores, but {facts.cores} are seen",
            f"set JAXRL_CPU_DEVICES={number}, or raise the container's limit",
        )
    if facts.load > facts.cores * 0.8:
        yield Finding(
            f"the machine is busy: {facts.load:.1f} processes want {facts.cores} cores",
            "look at them with `top`; timings made now mean little",
        )
    if facts.free_gib is not None and facts.free_gib < 1:
        yield Finding(
            f"only {facts.free_gib:.1f} GiB of memory are free",
            "a smaller replay (--capacity) or fewer runs together (--lanes)",
        )
    if facts.backend == "gpu" and facts.precision == "highest":
        yield Finding(
            "matrix products are computed in full float32, without tensor cores",
            "leave --precision out if your results do not need it (compare both)",
        )
    if facts.backend == "gpu" and not facts.preallocate:
        yield Finding(
            "memory of the GPU is asked for piece by piece, which is slower and fragments",
            "unset XLA_PYTHON_CLIENT_PREALLOCATE",
        )


# ------------------------------------------------------------------------------------- gathering


def quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that a container may use: cgroup version 2, then 1."""
    try:
        most, period = (root / "cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        pass
    try:
        most = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return None if most <= 0 else most / int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def look() -> Facts:
    import jax

    from jaxrl import cache, devices

    config: Any = jax.config
    names = ("XLA_FLAGS", "JAX_PLATFORMS", "NPROC", "JAXRL_CPU_DEVICES", "JAXRL_CACHE",
             "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # fmt: skip
    environment = {name: os.environ[name] for name in names if name in os.environ}
    threads = environment.get("NPROC", "")
    folder = cache.enable()
    free = devices.memory_free()
    return Facts(
        backend=jax.default_backend(),
        devices=tuple(d.device_kind for d in jax.local_devices()),
        cores=devices.cores(),
        quota=quota(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        threads=int(threads) if threads.isdigit() else None,
        free_gib=None if free is None else free / 2**30,
        nvidia=Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists(),
        cache=None if folder is None else str(folder),
        debug_nans=bool(config.jax_debug_nans),
        jit=not config.jax_disable_jit,
        x64=bool(config.jax_enable_x64),
        precision=config.jax_default_matmul_precision,
        preallocate=environment.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true").lower()
        not in ("false", "0"),
        environment=environment,
    )


def installed() -> tuple[dict[str, str], dict[str, str]]:
    """-> versions of what is there, how to get what is not."""
    from jaxrl import __version__

    there = {"jaxrl": __version__, "python": platform.python_version()}
    missing: dict[str, str] = {}
    for name in LIBRARIES:
        there[name] = metadata.version(name)
    for name, (module, remedy) in EXTRAS.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # its package is not there
            found = False
        if found:
            there[name] = metadata.version(name)
        else:
            missing[name] = remedy
    return there, missing


def run_doctor(given: argparse.Namespace) -> int:
    """-> 0: a slow set-up is not a wrong one."""
    there, missing = installed()
    facts = look()
    found = list(findings(facts))
    if given.json:
        said = {"installed": there, "missing": missing, "facts": dataclasses.asdict(facts),
                "findings": [dataclasses.asdict(x) for x in found]}  # fmt: skip
        print(json.dumps(said))
        return 0
    print("installed   " + ", ".join(f"{name} {version}" for name, version in there.items()))
    for name, remedy in missing.items():
        print(f"missing     {name}: {remedy}")
    kinds = [f"{facts.devices.count(d)} x {d}" for d in dict.fromkeys(facts.devices)]
    print(f"devices     {', '.join(kinds)} (backend {facts.backend})")
    limit = "" if facts.quota is None else f", {facts.quota:g} allowed to this container"
    print(f"cores       {facts.cores}{limit}; load {facts.load:.1f}; XLA's threads {facts.threads}")
    if facts.free_gib is not None:
        print(f"memory      {facts.free_gib:.1f} GiB free on {facts.backend}")
    print(f"products    precision {facts.precision or 'default'}")
    print(f"compiled    programs are kept in {facts.cache}" if facts.cache else
          "compiled    programs are not kept")  # fmt: skip
    print(f"platform    {platform.platform()}, {sys.executable}")
    print()
    if not found:
        print("Nothing here is known to be slow.")
    for finding in found:
        print(f"! {finding.what}\n  mend: {finding.mend}")
    return 0
