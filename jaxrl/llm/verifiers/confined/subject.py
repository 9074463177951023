"""The process in which a completion runs."""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import io
import os
import signal
import sys
import tempfile
import threading
import time
from typing import Any

from . import sandbox
from .wire import PROGRAM, decode, encode, receive, send

NO_MEMORY = 2
"""Status of a process that says it had too little"""


def run_program(source: str, given: str, fd: int) -> None:
    """As a script, with `given` on its standard input."""
    os.write(fd, given.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    sys.argv = ["program.py"]
    status = 0
    try:
        space = {"__name__": "__main__", "__builtins__": builtins}
        exec(compile(source, "program.py", "exec"), space)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit as stop:
        status = 0 if stop.code in (None, 0) else 1
    except MemoryError:
        status = NO_MEMORY
    except BaseException:
        status = 1
    try:
        sys.stdout.flush()
    except BaseException:
        status = 1
    os._exit(status)


def answer_calls(source: str, reading: int, writing: int) -> None:
    """Define what the completion defines, then do what the examiner asks for."""
    space: dict[str, Any] = {"__name__": "solution", "__builtins__": builtins}
    known: list[Any] = []

    def number(x: Any) -> int:
        known.append(x)
        return len(known) - 1

    # Names that the completion may change are fetched before it runs.
    getter, asker, teller, codes, decodes = getattr, receive, send, encode, decode
    tell_error = _error_name
    exec(compile(source, "solution.py", "exec"), space)
    teller(writing, ["ready"])
    while True:
        what, target, *rest = asker(reading)
        try:
            if what == "name":
                if target not in space:
                    raise NameError(target)
                result = space[target]
            elif what == "get":
                result = getter(known[target], rest[0])
            elif what == "ask":  # a function of Python, such as len, of something of ours
                function: Any = {"len": len, "iter": iter, "next": next, "str": str}[rest[0]]
                result = function(known[target])
            elif what == "item":
                result = known[target][decodes(rest[0], known.__getitem__)]
            else:
                given = [decodes(x, known.__getitem__) for x in rest[0]]
                names = {k: decodes(v, known.__getitem__) for k, v in rest[1].items()}
                result = known[target](*given, **names)
                changed = [x if type(x) in (list, dict, set) else None for x in given]
                teller(writing, ["value", codes(result, number), codes(changed, number)])
                continue
            teller(writing, ["value", codes(result, number), None])
        except BaseException as error:
            teller(writing, ["raised", tell_error(error), None])


def _error_name(error: BaseException) -> str:
    """The nearest of Python's own exceptions."""
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            return kind.__name__
    return "RuntimeError"


def _temporary() -> int:
    """A file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stdin")
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


class Subject:
    """A forked process that waits for its task, seen from the examiner."""

    def __init__(self, options: dict[str, Any], ruleset: int | None) -> None:
        asked, self.asking = os.pipe()
        self.answers, answering = os.pipe()
        self.out, out = os.pipe()
        # Standard input of a program: filled later, when no file can be opened any more.
        given = _temporary()
        examiner = os.getpid()
        self.pid = os.fork()
        if self.pid:
            for fd in (asked, answering, out, given):
                os.close(fd)
            return
        try:
            sandbox.die_with(examiner)
            null = os.open(os.devnull, os.O_WRONLY)
            # Above the numbers they go to, then down: none is overwritten before it is used.
            mine = [given, out, null, asked, answering]
            mine += [] if ruleset is None else [ruleset]
            for i, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 500) for fd in mine]):
                os.dup2(fd, i)
            os.closerange(len(mine), 1 << 16)
            lock = None if ruleset is None else len(mine) - 1
            safe = sandbox.confine(options["memory"], options["cpu"], lock)
            if not safe and not options["unprotected"]:
                os._exit(1)
            for number in range(1, signal.NSIG):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    with contextlib.suppress(OSError, ValueError):
                        signal.signal(number, signal.SIG_DFL)
            task = receive(3)
            if task["kind"] == PROGRAM:
                os.close(3)
                os.close(4)
                run_program(task["source"], task["given"], 0)
            else:
                os.dup2(2, 1)
                answer_calls(task["source"], 3, 4)
        except MemoryError:
            os._exit(NO_MEMORY)
        finally:
            os._exit(1)

    def collect(self, most: int) -> tuple[bytes, bool, int]:
        """-> standard output until it ends, whether it went beyond `most` bytes, and the status."""
        parts, total = [], 0
        while True:
            part = os.read(self.out, 1 << 16)
            total += len(part)
            if total > most:
                return b"", True, 0
            if not part:
                return b"".join(parts), False, os.waitpid(self.pid, 0)[1]
            parts.append(part)


def ended(subject: Subject) -> str | None:
    """Why a subject that is silent has gone: "time", "memory", "crash"; None for its own wish."""
    for _ in range(50):
        pid, status = os.waitpid(subject.pid, os.WNOHANG)
        if pid:
            return reason(status)
        time.sleep(0.002)
    return None


def reason(status: int) -> str | None:
    if os.WIFEXITED(status):
        return "memory" if os.WEXITSTATUS(status) == NO_MEMORY else None
    return "time" if os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU) else "crash"
