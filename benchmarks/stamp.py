"""Where and with what a number was measured. No figure is written without one.

`jaxrl.record` says some of this too, but importing jaxrl sets XLA's variables in the environment,
which the processes of the peers would inherit.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "torch", "rejax", "sbx-rl", "stable-baselines3",
    "gymnasium", "gymnax", "brax", "flashbax",
)  # fmt: skip


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def revision() -> str:
    """The commit of this tree, with "+" when the library differs from it."""

    def git(*args: str) -> str:
        out = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
        return out.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "jaxrl", "envs", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Runnable processes of the last minute: a busy machine measures nothing."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


def accelerators() -> list[str]:
    """Names of the devices JAX uses, if JAX runs in this process."""
    if "jax" not in sys.modules:
        return []
    return [device.device_kind for device in sys.modules["jax"].local_devices()]


def stamp(script: str, **extra: Any) -> dict[str, Any]:
    """`extra`: seeds, settings, whatever else a reader needs to run it again."""
    return {
        "script": script,
        "command": " ".join(["python", "-m", script, *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "revision": revision(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "load_before": load(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "devices": accelerators(),
        **extra,
    }


def line(stamped: dict[str, Any]) -> str:
    """The stamp in one line, for tables and pictures."""
    versions = stamped["versions"]
    shown = " ".join(f"{name} {versions[name]}" for name in ("jax", "torch") if name in versions)
    devices = ", ".join(sorted(set(stamped["devices"]) - {"cpu"}))
    return (
        f"{stamped['cpu']}, {stamped['cores']} cores{', ' + devices if devices else ''}; "
        f"Python {stamped['python']} {shown}; {stamped['date'][:10]}; revision "
        f"{stamped['revision']}"
    )
