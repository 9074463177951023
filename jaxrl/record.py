"""The folder of a run: what was run, with what, and its metrics as text.

    runs/x/run.json        agent, environment, key, arguments; a session for each time it was begun
                           or resumed: versions, hardware, matmul precision, git state, command
           metrics.csv     a row per point of the learning curves and run (see jaxrl.sinks)
           metrics.jsonl   the same, a line per point
           checkpoints/    when `checkpoint=` is given (see jaxrl.checkpoint)

`train(..., checkpoint="runs/x")` and `train(..., log="runs/x")` keep the same folder; the second
without checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrl import devices
from jaxrl.sinks import CSV, JSONL, Sink
from jaxrl.types import Metrics

if TYPE_CHECKING:
    from jaxrl.result import Timing

KIND, FORMAT = "jaxrl run", 1

TIMES = ("seconds", "steps_per_second")

Content = dict[str, Any]


# ------------------------------------------------------------------------------ the circumstances


def git_state(folder: str | Path = ".") -> Content | None:
    """Commit and branch of the repository that `folder` lies in, and whether files that it tracks
    were changed; None without one."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return ran.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "changed": git("status", "--porcelain", "--untracked-files=no").splitlines(),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware() -> Content:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        memory = None
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu": cpu_model(),
        "cores": devices.cores(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "backend": jax.default_backend(),
        "devices": [d.device_kind for d in jax.local_devices()],
        "processes": jax.process_count(),
    }


def matmul_precision() -> str:
    """What float32 products are computed with: accelerators round their inputs unless told."""
    chosen: str | None = jax.config.jax_default_matmul_precision  # pyright: ignore
    if chosen is not None:
        return chosen
    return "default (float32)" if jax.default_backend() == "cpu" else "default (of the device)"


def session(begun: int) -> Content:
    from jaxrl import keeper

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "from_step": begun,
        "command": sys.argv,
        "versions": keeper.versions(),
        "hardware": hardware(),
        "matmul_precision": matmul_precision(),
        "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore
        "environment": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "JAX_PLATFORMS", "NPROC", "JAXRL_CPU_DEVICES")
            if name in os.environ
        },
        "git": git_state(),
    }


# ------------------------------------------------------------------------------------- the folder


def read(folder: str | Path) -> Content:
    """`run.json` of a folder."""
    file = Path(folder) / "run.json"
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not the folder of a run: it has no run.json.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not readable: truncated or damaged.") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(f"{file} was not written by jaxrl.")
    return content


def _put(file: Path, content: Content) -> None:
    """All or nothing. Where nothing can be written the run goes on: it says so."""
    draft = file.with_name(file.name + ".saving")
    try:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        print(f"{file} is not written: {error.strerror}. The run goes on.", file=sys.stderr)


class Log:
    """The sinks of one call of `train`: those of its folders, and those it was given."""

    def __init__(self, folders: Iterable[str | Path], sinks: Sequence[Sink]) -> None:
        self.folders = list(dict.fromkeys(Path(x) for x in folders))
        self.given = list(sinks)
        self._files: list[Sink] = []

    def check(self, fresh: Sequence[Path]) -> None:
        """Nothing is written over: `fresh` are the folders that must not hold a run yet."""
        for folder in fresh:
            if (folder / "metrics.csv").exists():
                raise ValueError(
                    f"{folder} holds the metrics of a run already: give another folder, or remove "
                    "it."
                )
        for folder in self.folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"log={str(folder)!r}: nothing can be written there: {error.strerror}."
                ) from error

    def open(self, content: Content, steps: Sequence[int], metrics: Metrics | None) -> None:
        """Begin, or go on after the points `steps` with their `metrics`."""
        begun = int(steps[-1]) if len(steps) else 0
        now = session(begun)
        for folder in self.folders:
            sessions: list[Content] = []
            if len(steps):
                try:
                    sessions = read(folder)["sessions"]
                except (ValueError, KeyError):  # of a version that wrote none, or lost
                    sessions = []
            head = {"kind": KIND, "format": FORMAT, **content}
            _put(folder / "run.json", {**head, "sessions": [*sessions, now]})
            for file in (CSV(folder / "metrics.csv"), JSONL(folder / "metrics.jsonl")):
                try:
                    self._go_on(file, steps, metrics)
                except OSError as error:
                    file.fail(error)
                self._files.append(file)

    @staticmethod
    def _go_on(file: CSV | JSONL, steps: Sequence[int], metrics: Metrics | None) -> None:
        """Points after the checkpoint are made again; were others lost, all are written."""
        if len(steps) and file.cut(int(steps[-1])) == [int(s) for s in steps]:
            return
        file.path.unlink(missing_ok=True)
        for point in range(len(steps)):
            assert metrics is not None
            row = {k: np.asarray(x)[..., point] for k, x in metrics.items()}
            nothing = {f"time/{x}": np.asarray(np.nan) for x in TIMES}
            file.write(int(steps[point]), row | nothing)

    def after(self, steps: Sequence[int], metrics: Metrics, timing: Timing) -> None:
        """A chunk is over, which made the points `steps`."""
        times = {
            "time/seconds": np.asarray(timing.run_seconds),
            "time/steps_per_second": np.asarray(timing.steps_per_second),
        }
        rows = {name: np.asarray(x) for name, x in metrics.items()}
        for i, step in enumerate(steps):
            point = {name: x[..., i] for name, x in rows.items()} | times
            for sink in (*self._files, *self.given):
                sink.write(int(step), point)

    def close(self) -> None:
        """All of them, also when one of them cannot be closed."""
        with contextlib.ExitStack() as stack:
            for sink in (*self._files, *self.given):
                stack.callback(sink.close)


def parse(log: Any) -> tuple[list[Path], list[Sink]]:
    """`log=` of train: a folder, a sink, or several of them."""
    given = [] if log is None else list(log) if isinstance(log, list | tuple) else [log]
    folders = [Path(x) for x in given if isinstance(x, str | Path)]
    sinks: list[Sink] = []
    for x in given:
        if isinstance(x, str | Path):
            continue
        if isinstance(x, type) or not isinstance(x, Sink):
            raise TypeError(
                f"log={x!r} must be a folder, or an object with write(steps, metrics) and close(), "
                'such as jaxrl.sinks.TensorBoard("runs/x"), or a list of those.'
            )
        sinks.append(x)
    return folders, sinks
