"""The process in which completions are run: a program of its own, without jaxrl.

    python -P -s worker.py '{"memory": ..., "cpu": ..., "seconds": ..., "output": ...}'

Four kinds of processes, each watching the next:

    the trainer  >  server  >  examiner  >  subject

The *server* waits for requests and forks an examiner for each; it kills the examiner and all that
came from it when time is up. It never reads a request itself, and neither does anything that it
forks later find old answers in its memory. The *examiner* forks its subjects first, and reads the
request afterwards: what a subject would like to know, the tests and the right answers, has never
been in its memory. The *subject* runs the completion. All that it can do is answer the examiner's
questions, with plain data. The verdict is the examiner's: nothing a subject prints, patches or
exits with makes one.

A request is a kind and a number of subjects (`HEADER`), then a frame for the examiner. Frames are a
length and JSON.
"""

from __future__ import annotations

import ast
import builtins
import decimal
import fcntl
import fractions
import importlib
import importlib.util
import io
import json
import os
import re
import select
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

HEADER = struct.Struct("<BH")
LENGTH = struct.Struct("<I")
PROBE, ASSERTS, PROGRAM, PATTERN, SYMBOLIC = range(5)
READ = b"R"
NO_MEMORY = 2
"""Status of a process that says it had too little"""


def _load_sandbox() -> Any:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox.py")
    spec = importlib.util.spec_from_file_location("sandbox", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------- frames


def read_exactly(fd: int, count: int) -> bytes:
    """Raises EOFError where the other side has gone."""
    parts: list[bytes] = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(fd: int, most: int = 1 << 30) -> Any:
    (length,) = LENGTH.unpack(read_exactly(fd, LENGTH.size))
    if length > most:
        raise ValueError("a frame is too long")
    return json.loads(read_exactly(fd, length))


def send(fd: int, value: Any) -> None:
    data = json.dumps(value).encode()
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


# -------------------------------------------------------------------------------- values as data

Handle = Callable[[Any], int]


def encode(x: Any, handle: Handle) -> Any:
    """Plain data with its types; anything else by its number."""
    if type(x) is int and abs(x) >> 64:
        return ["x", hex(x)]  # reading long decimals takes long
    if x is None or type(x) in (bool, int, float, str):
        return x
    if hasattr(type(x), "tolist"):  # arrays and their numbers
        return encode(x.tolist(), handle)
    for kind, name in ((bool, "o"), (int, "i"), (float, "r"), (str, "a")):
        if isinstance(x, kind):
            return [name, kind(x)]
    for kind, name in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "f")):
        if isinstance(x, kind):
            return [name, *(encode(item, handle) for item in x)]
    if isinstance(x, dict):
        return ["d", *([encode(k, handle), encode(v, handle)] for k, v in x.items())]
    if isinstance(x, bytes | bytearray):
        return ["b", x.decode("latin-1")]
    if isinstance(x, complex):
        return ["c", x.real, x.imag]
    if isinstance(x, fractions.Fraction):
        return ["q", encode(x.numerator, handle), encode(x.denominator, handle)]
    if isinstance(x, decimal.Decimal):
        return ["m", str(x)]
    return ["h", handle(x)]


def decode(x: Any, handle: Callable[[int], Any]) -> Any:
    if not isinstance(x, list):
        if isinstance(x, dict):
            raise ValueError("no such value")
        return x
    name, *rest = x
    if name == "h":
        return handle(int(rest[0]))
    if name == "d":
        return {decode(k, handle): decode(v, handle) for k, v in rest}
    if name == "b":
        return str(rest[0]).encode("latin-1")
    if name == "c":
        return complex(float(rest[0]), float(rest[1]))
    if name == "x":
        return int(str(rest[0]), 16)
    if name == "q":
        return fractions.Fraction(decode(rest[0], handle), decode(rest[1], handle))
    if name == "m":
        return decimal.Decimal(str(rest[0]))
    if name in "oira":
        return {"o": bool, "i": int, "r": float, "a": str}[name](rest[0])
    return {"l": list, "t": tuple, "s": set, "f": frozenset}[name](decode(y, handle) for y in rest)


# --------------------------------------------------------------------------------------- subject


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
                result = {"len": len, "iter": iter, "next": next, "str": str}[rest[0]](known[target])
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


# -------------------------------------------------------------------------------------- examiner


def _temporary() -> int:
    """A file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stdin")
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


class Subject:
    """A forked process that waits for its task, seen from the examiner."""

    def __init__(self, options: dict[str, Any], ruleset: int | None, sandbox: Any) -> None:
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
            if not sandbox.confine(options["memory"], options["cpu"], lock):
                if not options["unprotected"]:
                    os._exit(1)
            for number in range(1, signal.NSIG):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    try:
                        signal.signal(number, signal.SIG_DFL)
                    except (OSError, ValueError):
                        pass
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


class Died(BaseException):
    """The subject has gone, or says what nobody asked for."""


class Unsuitable(BaseException):
    """The tests cannot be used with a completion in another process."""


class Remote:
    """Something of the completion that is no plain data. It can be called, and asked for
    attributes, items, its length, its text and what it iterates over. Whether it is true or equal
    to something cannot be asked: no test passes because of what it pretends to be."""

    __slots__ = ("_talk", "_number")
    __hash__ = None  # pyright: ignore

    def __init__(self, talk: Talk, number: int) -> None:
        self._talk, self._number = talk, number

    def __call__(self, *given: Any, **names: Any) -> Any:
        return self._talk.call(self._number, given, names)

    def __getattr__(self, name: str) -> Any:
        return self._talk.ask("get", self._number, name)

    def __getitem__(self, key: Any) -> Any:
        return self._talk.ask("item", self._number, self._talk.encode(key))

    def __len__(self) -> int:
        return self._plain("len", int)

    def __str__(self) -> str:
        return self._plain("str", str)

    def __iter__(self) -> Any:
        found = self._talk.ask("ask", self._number, "iter")
        return found if isinstance(found, Remote) else iter(found)

    def __next__(self) -> Any:
        return self._talk.ask("ask", self._number, "next")

    def __bool__(self) -> bool:
        raise TypeError("only plain data is true or false")

    def __eq__(self, other: object) -> bool:
        raise TypeError("only plain data can be compared")

    def _plain(self, what: str, kind: type) -> Any:
        found = self._talk.ask("ask", self._number, what)
        if type(found) is not kind:
            raise TypeError(f"{what} is no {kind.__name__}")
        return found


class Talk:
    """Questions to a subject."""

    def __init__(self, subject: Subject, most: int) -> None:
        self.subject, self.most = subject, most
        self.dead = False
        self.note: str | None = None

    def encode(self, x: Any) -> Any:
        def number(x: Any) -> int:
            if isinstance(x, Remote):
                return x._number  # pyright: ignore
            raise Unsuitable(f"a {type(x).__name__} cannot be given to the completion")

        return encode(x, number)

    def decode(self, x: Any) -> Any:
        return decode(x, lambda number: Remote(self, number))

    def ask(self, *question: Any) -> Any:
        return self._exchange(list(question))[0]

    def call(self, number: int, given: tuple[Any, ...], names: dict[str, Any]) -> Any:
        coded = [self.encode(x) for x in given], {k: self.encode(v) for k, v in names.items()}
        result, changed = self._exchange(["call", number, *coded])
        for mine, theirs in zip(given, changed or [], strict=False):
            if type(mine) is type(theirs):  # a list sorted in place is sorted here, too
                if isinstance(mine, list):
                    mine[:] = theirs
                elif isinstance(mine, dict | set):
                    mine.clear()
                    mine.update(theirs)
        return result

    def _exchange(self, question: list[Any]) -> tuple[Any, Any]:
        try:
            send(self.subject.asking, question)
            what, value, changed = receive(self.subject.answers, self.most)
            if what == "value":
                return self.decode(value), self.decode(changed)
            kind = getattr(builtins, value)
        except (Exception, RecursionError) as error:
            self.dead = True
            raise Died from error
        if value == "MemoryError":
            self.note = "memory"
        # It may raise what a program may expect, not what would end the examiner.
        raise (kind if issubclass(kind, Exception) else RuntimeError)("raised by the completion")


def free_names(tree: ast.Module) -> set[str]:
    """Names that the tests use and neither define nor have from Python: the completion's."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return used - made - set(dir(builtins))


def prepared(source: str) -> tuple[list[tuple[ast.stmt, bool]], set[str]] | None:
    """-> the statements of the tests and whether each is a test, and the names of the completion
    that they use. None for what cannot be used as tests: without an `assert` everything passes."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names = free_names(tree)
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    body = list(tree.body)
    for s in tree.body:  # functions that pytest would call
        if isinstance(s, ast.FunctionDef) and s.name.startswith("test") and s.name not in called:
            body += ast.parse(f"{s.name}()").body
    calls = [isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) for s in body]
    kinds = (ast.Assert, ast.For, ast.While, ast.If, ast.With, ast.Try)
    tests = [
        call or isinstance(s, kinds) and any(isinstance(n, ast.Assert) for n in ast.walk(s))
        for s, call in zip(body, calls, strict=True)
    ]
    if not any(tests) or not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return None
    return list(zip(body, tests, strict=True)), names


def examine_asserts(subject: Subject, request: dict[str, Any], most: int) -> dict[str, Any]:
    """Run the tests here, the completion there."""
    found = prepared(request["tests"])
    if found is None:
        return {"error": "tests"}
    statements, names = found
    total = sum(test for _, test in statements)
    passed, note = 0, None
    talk = Talk(subject, most)
    try:
        send(subject.asking, {"kind": ASSERTS, "source": request["source"]})
        if receive(subject.answers, most) != ["ready"]:
            return {"passed": 0, "total": total}
    except (OSError, EOFError, ValueError, RecursionError):
        return {"passed": 0, "total": total, "note": _ended(subject)}
    space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    try:
        for name in sorted(names):
            if name in sys.stdlib_module_names:  # not the completion's idea of it
                space[name] = importlib.import_module(name)
                continue
            try:
                space[name] = talk.ask("name", name)
            except Exception:
                continue  # the tests that use it fail
        for statement, test in statements:
            code = compile(ast.Module([statement], []), "tests.py", "exec")
            try:
                exec(code, space)
            except (Died, Unsuitable):
                raise
            except BaseException:
                used = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
                if not test and not used & names:
                    return {"error": "tests"}  # they fail by themselves
                continue
            if talk.dead:
                break
            passed += test
    except Died:
        pass
    except Unsuitable:
        return {"error": "tests"}
    note = _ended(subject) if talk.dead else talk.note
    return {"passed": passed, "total": total, "note": note}


def _ended(subject: Subject) -> str | None:
    """Why a subject that said no more has gone: "time", "memory", "crash", or None for its own wish."""
    for _ in range(50):
        pid, status = os.waitpid(subject.pid, os.WNOHANG)
        if pid:
            return _reason(status)
        time.sleep(0.002)
    return None


def _reason(status: int) -> str | None:
    if os.WIFEXITED(status):
        return "memory" if os.WEXITSTATUS(status) == NO_MEMORY else None
    return "time" if os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU) else "crash"


def examine_programs(
    subjects: list[Subject], request: dict[str, Any], most: int
) -> dict[str, Any]:
    passed, note = 0, None
    for subject, (given, expected) in zip(subjects, request["cases"], strict=True):
        send(subject.asking, {"kind": PROGRAM, "source": request["source"], "given": given})
        printed, too_much, status = subject.collect(most)
        if too_much:
            note = "output"
            continue
        note = note or _reason(status)
        passed += status == 0 and _lines(printed.decode(errors="replace")) == _lines(expected)
    return {"passed": passed, "total": len(subjects), "note": note}


def _lines(text: str) -> list[str]:
    """What counts of an output: neither blanks at the ends of lines nor empty lines at its end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def examine_pattern(request: dict[str, Any]) -> dict[str, Any]:
    try:
        pattern = re.compile(request["pattern"], request["flags"])
    except (re.error, RecursionError, OverflowError):
        return {"error": "tests"}
    return {"passed": int(pattern.fullmatch(request["text"]) is not None), "total": 1}


def examine_symbolic(request: dict[str, Any]) -> dict[str, Any]:
    """With math-verify, without its own time limits, which need signals."""
    try:
        import math_verify
    except ImportError:
        return {"error": "missing"}
    import logging

    logging.disable(logging.CRITICAL)

    def parsed(text: str, fallback: bool) -> Any:
        found = math_verify.parse(text, parsing_timeout=None)
        return math_verify.parse(f"${text}$", parsing_timeout=None) if fallback and not found else found

    gold = parsed(request["gold"], True)
    if not gold:
        return {"error": "tests"}
    given = parsed(request["text"], False)
    same = bool(given) and math_verify.verify(gold, given, timeout_seconds=None)
    return {"passed": int(same), "total": 1}


def probe(options: dict[str, Any], ruleset: int | None, sandbox: Any) -> dict[str, Any]:
    """What holds for a confined process on this machine, tried rather than believed."""
    import socket

    filtered = sandbox.confine(options["memory"], options["cpu"], ruleset)

    def refused(action: Callable[[], Any]) -> bool:
        try:
            action()
        except OSError:
            return True
        return False

    return {
        "network": refused(socket.socket) if filtered else False,
        "processes": refused(lambda: os.fork() or os._exit(0)),
        "signals": refused(lambda: os.kill(os.getppid(), 0)),
        "writing": refused(lambda: os.close(os.open("x", os.O_WRONLY | os.O_CREAT))),
        "reading": refused(lambda: os.listdir("/")),
    }


def examine(kind: int, count: int, options: dict[str, Any], result: int, sandbox: Any) -> None:
    """In the examiner: fork subjects, read the request, find the verdict."""
    ruleset = sandbox.landlock() if options["landlock"] else None
    subjects = [Subject(options, ruleset, sandbox) for _ in range(count)]
    request = receive(0)
    os.write(result, READ)
    if kind == PROBE:
        verdict = probe(options, ruleset, sandbox)
    else:
        sandbox.confine(options["memory"], options["cpu"], ruleset)
        most = options["output"]
        if kind == ASSERTS:
            verdict = examine_asserts(subjects[0], request, most)
        elif kind == PROGRAM:
            verdict = examine_programs(subjects, request, most)
        elif kind == PATTERN:
            verdict = examine_pattern(request)
        else:
            verdict = examine_symbolic(request)
    os.write(result, json.dumps(verdict).encode())


# ---------------------------------------------------------------------------------------- server


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
    try:
        os.killpg(examiner, signal.SIGKILL)
    except OSError:
        pass
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


def serve(options: dict[str, Any], sandbox: Any) -> None:
    sandbox.adopt()
    sandbox.closed_to_others()
    server = os.getpid()
    while True:
        try:
            kind, count = HEADER.unpack(read_exactly(0, HEADER.size))
        except EOFError:
            return
        if kind == SYMBOLIC:
            try:
                import math_verify  # noqa: F401  # once, and not within the time of a check
            except ImportError:
                pass
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
                examine(kind, count, options, writing, sandbox)
                status = 0
            except MemoryError:
                status = NO_MEMORY
            finally:
                os._exit(status)
        os.close(writing)
        try:
            os.setpgid(examiner, examiner)
        except OSError:
            pass  # it was faster, or has gone
        began = time.monotonic()
        data, closed = _until_closed(reading, began + options["seconds"], 1 << 16)
        os.close(reading)
        status = _end(examiner)
        verdict: dict[str, Any] = {}
        try:
            verdict = json.loads(data[1:])
        except ValueError:
            verdict = {"error": (_reason(status) or "crash") if closed else "time"}
        for name in os.listdir("."):  # possible without protection only
            tree = os.path.isdir(name) and not os.path.islink(name)
            (shutil.rmtree if tree else os.unlink)(name)
        send(1, verdict)
        if not data.startswith(READ):
            return  # its request lies unread: a new server begins anew


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), _load_sandbox())
