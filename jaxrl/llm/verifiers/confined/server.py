"""The process that waits for requests, keeps their time and cleans up after them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from . import sandbox
from .examiner import READ, examine
from .subject import NO_MEMORY, reason
from .wire import HEADER, PACKAGES, read_exactly, send


def _until_closed(fd: int, deadline: float, most: int) -> tuple[bytes, bool]:
    """-> what was written to the pipe, and whether it was closed in time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return data, False
        part = os.read(fd, 4096)
        if not part or len(data) > most:
            return data, True
        data += part


def _children() -> Iterator[int]:
    """Processes whose parent is this one (nothing where there is no /proc)."""
    me = os.getpid()
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == me:
                        yield int(name)
            except (OSError, ValueError, IndexError):
                continue


def _end(examiner: int) -> int:
    """Kill the examiner and all that came from it. -> its status"""
    with contextlib.suppress(OSError):
        os.killpg(examiner, signal.SIGKILL)
    status = os.waitpid(examiner, 0)[1]
    for attempt in range(1000):  # those it left behind have become ours
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                for child in _children() if attempt % 10 == 5 else ():
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.001)
        except ChildProcessError:
            break
        except OSError:
            continue
    return status


def serve(options: dict[str, Any]) -> None:
    sandbox.adopt()
    sandbox.closed_to_others()
    server = os.getpid()
    while True:
        try:
            kind, count = HEADER.unpack(read_exactly(0, HEADER.size))
        except EOFError:
            return
        if kind in PACKAGES:
            with contextlib.suppress(ImportError):  # once, and not within the time of a check
                importlib.import_module(PACKAGES[kind])
        reading, writing = os.pipe()
        examiner = os.fork()
        if not examiner:
            status = 1
            try:
                sandbox.die_with(server)
                sandbox.closed_to_others()
                os.setpgid(0, 0)
                os.close(reading)
                os.dup2(2, 1)
                examine(kind, count, options, writing)
                status = 0
            except MemoryError:
                status = NO_MEMORY
            finally:
                os._exit(status)
        os.close(writing)
        with contextlib.suppress(OSError):  # it was faster, or has gone
            os.setpgid(examiner, examiner)
        began = time.monotonic()
        data, closed = _until_closed(reading, began + options["seconds"], 1 << 24)
        os.close(reading)
        status = _end(examiner)
        verdict: dict[str, Any] = {}
        try:
            verdict = json.loads(data[1:])
        except ValueError:
            verdict = {"error": (reason(status) or "crash") if closed else "time"}
        for name in os.listdir("."):  # possible without protection only
            tree = os.path.isdir(name) and not os.path.islink(name)
            (shutil.rmtree if tree else os.unlink)(name)
        send(1, verdict)
        if not data.startswith(READ):
            return  # its request lies unread: a new server begins anew


def main() -> None:
    serve(json.loads(sys.argv[1]))
