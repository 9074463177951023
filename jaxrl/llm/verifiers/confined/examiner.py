"""The process that finds the verdict on one completion."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import math
import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Any

from . import sandbox
from .landlock import landlock
from .remote import Died, Talk, Unsuitable
from .subject import Subject, ended, reason
from .tests import prepared
from .wire import ASSERTS, PATTERN, PROBE, PROGRAM, SYMBOLIC, receive, send

READ = b"R"
"""Written before the verdict: the request was read"""


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
        return {"passed": 0, "total": total, "note": ended(subject)}
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
    note = ended(subject) if talk.dead else talk.note
    return {"passed": passed, "total": total, "note": note}


def examine_programs(subjects: list[Subject], request: dict[str, Any], most: int) -> dict[str, Any]:
    passed, note = 0, None
    for subject, (given, expected) in zip(subjects, request["cases"], strict=True):
        send(subject.asking, {"kind": PROGRAM, "source": request["source"], "given": given})
        printed, too_much, status = subject.collect(most)
        if too_much:
            note = "output"
            continue
        note = note or reason(status)
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
        import math_verify  # pyright: ignore
    except ImportError:
        return {"error": "missing"}
    import logging

    logging.disable(logging.CRITICAL)

    def parsed(text: str, fallback: bool) -> Any:
        found = math_verify.parse(text, parsing_timeout=None)
        if fallback and not found:
            found = math_verify.parse(f"${text}$", parsing_timeout=None)
        return found

    gold = parsed(request["gold"], True)
    if not gold:
        return {"error": "tests"}
    given = parsed(request["text"], False)
    same = bool(given) and math_verify.verify(gold, given, timeout_seconds=None)
    return {"passed": int(same), "total": 1}


def examine_gym(request: dict[str, Any]) -> dict[str, Any]:
    """Questions of reasoning-gym, or by its scorer the worth of an answer to one of them, which the
    same seed gives again."""
    try:
        import reasoning_gym  # pyright: ignore
    except ImportError:
        return {"error": "missing"}
    data: Any = reasoning_gym.create_dataset(request["name"], **request["config"])
    if "ask" in request:
        return {"questions": [str(data[i]["question"]) for i in request["ask"]]}
    worth = float(data.score_answer(request["text"], data[request["index"]]))
    return {"passed": worth, "total": 1} if math.isfinite(worth) else {"error": "tests"}


def probe(options: dict[str, Any], ruleset: int | None) -> dict[str, Any]:
    """What holds for a confined process on this machine, tried rather than believed."""

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


def examine(kind: int, count: int, options: dict[str, Any], result: int) -> None:
    """In the examiner: fork subjects, read the request, find the verdict."""
    rulesets = [landlock(alone) if options["landlock"] else None for alone in (True, False)]
    subjects = [Subject(options, rulesets[0]) for _ in range(count)]
    request = receive(0)
    os.write(result, READ)
    if kind == PROBE:
        verdict = probe(options, rulesets[0])
    else:
        sandbox.confine(options["memory"], options["cpu"], rulesets[1])
        most = options["output"]
        if kind == ASSERTS:
            verdict = examine_asserts(subjects[0], request, most)
        elif kind == PROGRAM:
            verdict = examine_programs(subjects, request, most)
        elif kind == PATTERN:
            verdict = examine_pattern(request)
        elif kind == SYMBOLIC:
            verdict = examine_symbolic(request)
        else:
            verdict = examine_gym(request)
    os.write(result, json.dumps(verdict).encode())
