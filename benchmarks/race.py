"""Several sides measured in one run: each in its own processes, taking turns.

A side is prepared (imported, compiled, warmed) once and then waits without using the machine while
the others are measured, so the rounds of all sides lie within the same minutes. A side that says
nothing for too long is ended and reported, never waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import Options
from benchmarks.settings import Task

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Measured:
    task: Task
    options: Options
    compile_seconds: float = 0.0
    prepare_seconds: float = 0.0
    rates: list[float] = dataclasses.field(default_factory=list)  # steps/s of each round, all seeds
    peak_mib: float = 0.0
    device_mib: float = 0.0
    devices: list[str] = dataclasses.field(default_factory=list)
    curve: dict[str, Any] | None = None
    error: str | None = None

    @property
    def rate(self) -> float:
        return statistics.median(self.rates) if self.rates else float("nan")

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "rate": self.rate, "label": self.options.label}


def environment(options: Options) -> dict[str, str]:
    """NPROC: XLA's thread pool of one thread per core can wait for itself for ever on few cores."""
    threads = str(options.threads or 1)
    return {
        **os.environ,
        "NPROC": os.environ.get("NPROC", str(max(4, 2 * (os.cpu_count() or 1)))),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONWARNINGS": "ignore",
    }


class Worker:
    def __init__(self, task: Task, options: Options, python: str, limit: float) -> None:
        self.limit = limit
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by `stop`)
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", task.to_json(),
             json.dumps(dataclasses.asdict(options))],
            cwd=ROOT, env=environment(options), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors,
        )  # fmt: skip
        self.waiting = b""

    def tell(self, line: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self.last_words()) from None

    def hear(self) -> dict[str, Any]:
        """The next line; an error when the process ended or the limit passed."""
        assert self.process.stdout
        deadline = time.monotonic() + self.limit
        while b"\n" not in self.waiting:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError(f"no answer within {self.limit:.0f} s")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                self.process.wait()
                raise RuntimeError(self.last_words())
            self.waiting += data
        line, self.waiting = self.waiting.split(b"\n", 1)
        return json.loads(line)

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"ended with {self.process.returncode}"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Entry:
    """One line of the table: a task and how it is run, in one process or several at once."""

    def __init__(self, task: Task, options: Options, python: str, limit: float) -> None:
        self.measured = Measured(task, options)
        self.workers: list[Worker] = []
        try:
            for _ in range(options.processes):
                self.workers.append(Worker(task, options, python, limit))
            heard = [worker.hear() for worker in self.workers]
        except (RuntimeError, TimeoutError, OSError) as error:
            self.fail(error)
            return
        self.measured.compile_seconds = max(x["compile_seconds"] for x in heard)
        self.measured.prepare_seconds = max(x["prepare_seconds"] for x in heard)
        self.measured.devices = heard[0]["devices"]

    def fail(self, error: BaseException) -> None:
        self.measured.error = f"{error}"
        for worker in self.workers:
            worker.stop()
        self.workers = []

    def ask(self, line: str) -> list[dict[str, Any]]:
        """All processes of the entry at once."""
        if not self.workers:
            return []
        try:
            for worker in self.workers:
                worker.tell(line)
            return [worker.hear() for worker in self.workers]
        except (RuntimeError, TimeoutError) as error:
            self.fail(error)
            return []

    def round(self, seconds: float) -> None:
        answers = self.ask(f"run {seconds}")
        if answers:
            self.measured.rates.append(sum(x["steps"] / x["seconds"] for x in answers))

    def learn(self) -> None:
        answers = self.ask("curve")
        if answers:
            self.measured.curve = answers[0]

    def close(self) -> None:
        answers = self.ask("quit")
        self.measured.peak_mib = sum(x["peak_mib"] for x in answers)
        self.measured.device_mib = sum(x["device_mib"] for x in answers)
        for worker in self.workers:
            worker.stop()
        self.workers = []


def race(
    entries: Sequence[tuple[Task, Options]],
    *,
    rounds: int = 3,
    seconds: float = 1.5,
    limit: float = 120.0,
    pythons: dict[str, str] | None = None,
    thresholds: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """`pythons`: interpreter of a side that does not live in this environment."""
    pythons = pythons or {}
    running: list[Entry] = []
    try:
        for task, options in entries:
            say(f"preparing {options.label}, {task.name}, {task.seeds} seeds")
            python = pythons.get(options.side, sys.executable)
            running.append(Entry(task, options, python, limit))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            # Back and forth, so that a slow drift of the machine favours no side.
            for entry in running if number % 2 == 0 else running[::-1]:
                entry.round(seconds)
        if thresholds:
            for side in dict.fromkeys(options.side for _, options in entries):
                single = [
                    e
                    for e in running
                    if e.measured.options.side == side
                    and e.measured.options.processes == e.measured.task.seeds == 1
                    and e.measured.rates
                ]
                if single:
                    fastest = max(single, key=lambda e: e.measured.rate)
                    say(f"learning {fastest.measured.options.label}")
                    fastest.learn()
    finally:
        for entry in running:
            entry.close()
    return [entry.measured for entry in running]
