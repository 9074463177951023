"""Checks in processes that can be killed.

    with Workers(count=4, seconds=2.0, memory=512) as workers:
        verifier = Code(workers)
        verifier("def double(x): return 2 * x", "assert double(4) == 8")     # 1.0
        workers.counts                                                        # {"checks": 1, ...}

Nothing here uses signals or needs the main thread. The package `confined` tells how a check goes.
"""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

from jaxrl.llm.verifiers.confined.wire import HEADER, LENGTH, PACKAGES, PROBE

HERE = str(Path(__file__).parent)
START = (
    "import sys; sys.path.insert(0, %r); from confined.server import main; del sys.path[0]; main()"
)
"""By itself, so that jaxrl is not imported over there"""

SLACK = 10.0
"""Seconds a server may be late with its verdict, and a minute more while it imports a package"""

COUNTED = ("checks", "time", "memory", "crash", "output", "tests", "missing", "worker")

MOST_CASES = 50
"""Programs are run at most so many times in one check"""


class Unprotected(RuntimeError):
    """This machine cannot keep hostile programs away from it."""


class _Server:
    """One process that waits for checks."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.folder = tempfile.mkdtemp(prefix="jaxrl-")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", START % HERE, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env={"PYTHONHASHSEED": "0", "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the trainer
        )
        self._end = weakref.finalize(self, _stop, self.process, self.folder)

    def ask(self, kind: int, count: int, request: Any, seconds: float) -> dict[str, Any]:
        """Raises OSError, EOFError or ValueError where the server is of no more use."""
        data = json.dumps(request).encode()
        assert self.process.stdin is not None
        left = memoryview(HEADER.pack(kind, count) + LENGTH.pack(len(data)) + data)
        while left:
            left = left[self.process.stdin.write(left) or 0 :]
        deadline = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        return json.loads(self._read(length, deadline))

    def _read(self, count: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        fd, data = self.process.stdout.fileno(), b""
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLHUP)
        while len(data) < count:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise EOFError("no answer in time")
            part = os.read(fd, count - len(data))
            if not part:
                raise EOFError("the server has gone")
            data += part
        return data

    def close(self) -> None:
        self._end()


def _stop(process: subprocess.Popen[bytes], folder: str) -> None:
    process.kill()  # what it forked dies with it
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    shutil.rmtree(folder, ignore_errors=True)


class Workers:
    """`count` checks at a time, each with at most `seconds` of time, `cpu` seconds of computing (as
    many, if None), `memory` MiB of address space for each process, and `output` bytes printed.

    Processes start with the first check and stay until `close`, the end of a `with`, or the end of
    the program. `counts` says how checks went; an entry never stops anything:

    checks   all of them
    time     ended because their time was up
    memory   had too little
    crash    were killed by a signal
    output   printed too much
    tests    could not be scored because the tests are no good
    missing  could not be scored because a package is not installed
    worker   could not be scored because a server failed; a new one takes its place

    Raises `Unprotected` with the first check where a machine cannot confine processes (anything but
    Linux on x86-64 and arm64), unless `unprotected` says that completions may do what you may do.
    """

    def __init__(
        self,
        count: int = 2,
        *,
        seconds: float = 5.0,
        memory: int = 512,
        cpu: int | None = None,
        output: int = 1 << 20,
        unprotected: bool = False,
    ) -> None:
        for name, value, least in (
            ("count", count, 1),
            ("seconds", seconds, 0.01),
            ("memory", memory, 64),
            ("cpu", 1 if cpu is None else cpu, 1),
            ("output", output, 1),
        ):
            if not value >= least:
                raise ValueError(f"Workers({name}={value}) must be at least {least}.")
        self.count, self.seconds, self.unprotected = count, seconds, unprotected
        self.options = {
            "memory": memory << 20,
            "cpu": int(seconds + 0.999) if cpu is None else cpu,
            "seconds": seconds,
            "output": output,
            "unprotected": unprotected,
            "landlock": True,
        }
        self._free: queue.LifoQueue[_Server | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)
        self._lock = threading.Lock()
        self._guarantees: dict[str, bool] | None = None
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))

    @property
    def counts(self) -> dict[str, int]:
        with self._lock:
            return {name: self._counts[name] for name in COUNTED}

    @property
    def guarantees(self) -> dict[str, bool]:
        """What is kept from completions on this machine, as a confined process found by trying:
        the network, new processes, signals to others, writing files, and reading other files than
        Python's."""
        with self._lock:
            if self._guarantees is None:
                self._guarantees = self._probe()
            return self._guarantees

    def _probe(self) -> dict[str, bool]:
        server = _Server(self.options)
        try:
            found = server.ask(PROBE, 0, None, self.seconds + SLACK)
        finally:
            server.close()
        needed = ("network", "processes", "signals", "writing")
        missing = [name for name in needed if not found.get(name)]
        if missing and not self.unprotected:
            raise Unprotected(
                f"On this machine completions cannot be kept from {', '.join(missing)}: run on "
                "Linux (x86-64 or arm64), or write Workers(unprotected=True) if they may do "
                "whatever you may do."
            )
        return found

    def run(self, kind: int, count: int, request: Any) -> dict[str, Any]:
        """A verdict: {"passed", "total"} or {"error"}, from any thread."""
        _ = self.guarantees
        server = self._free.get()
        try:
            verdict = self._ask(server, kind, count, request)
        except BaseException:
            self._free.put(None)
            raise
        with self._lock:
            self._counts["checks"] += 1
            what = verdict.get("error") or verdict.get("note")
            if what:
                self._counts[what if what in COUNTED else "worker"] += 1
        return verdict

    def _ask(self, server: _Server | None, kind: int, count: int, request: Any) -> dict[str, Any]:
        seconds = self.seconds + SLACK + (60.0 if kind in PACKAGES else 0.0)
        for fresh in (False, True):  # a server that has gone while it was idle is no reason to fail
            if server is None:
                server, fresh = _Server(self.options), True
            try:
                verdict = server.ask(kind, count, request, seconds)
                self._free.put(server)
                return verdict
            except (OSError, EOFError, ValueError):
                server.close()
                server = None
                if fresh:
                    break
        self._free.put(None)
        return {"error": "worker"}

    def close(self) -> None:
        """Ends the processes; the next check would start new ones."""
        for _ in range(self.count):
            server = self._free.get()
            if server is not None:
                server.close()
        for _ in range(self.count):
            self._free.put(None)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
