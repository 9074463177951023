"""Verifiers whose checks might hang, grow or do harm: they run in `Workers`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from jaxrl.llm.verifiers.confined.wire import ASSERTS, PATTERN, PROGRAM, SYMBOLIC
from jaxrl.llm.verifiers.extract import fenced, whole
from jaxrl.llm.verifiers.verifier import Extract
from jaxrl.llm.verifiers.workers import MOST_CASES, Workers

LOST = ("time", "memory", "crash", "output")
"""Ends that a completion brings upon itself"""


def _worth(verdict: dict[str, Any], partial: bool) -> float | None:
    error = verdict.get("error")
    if error is not None:
        return 0.0 if error in LOST else None
    passed, total = verdict["passed"], verdict["total"]
    return passed / total if partial else float(passed == total)


@dataclasses.dataclass(frozen=True)
class Code:
    """Python code, by tests. The answer is the source of the tests: statements with `assert`, or
    functions `test_...` with them. Worth 1 if all pass; with `partial`, the share that does.

    Tests and code run in two processes. What the tests call is called over there, and comes back
    as plain data (numbers, text, lists, dicts, sets, ...), which is compared here; an object of the
    completion's own can be called, iterated over and asked for attributes. So neither printing nor
    patching nor exiting makes a test pass. Names that the tests use and Python does not define are
    the completion's, but modules of the standard library are Python's.

    Code that takes too long or too much memory, prints too much or crashes is worth 0. Tests that
    cannot be used (no `assert`, a package that is missing, arguments that are no plain data) give
    None."""

    workers: Workers
    extract: Extract = fenced
    partial: bool = False

    def __call__(self, completion: str, answer: str) -> float | None:
        source = self.extract(completion)
        if source is None:
            return 0.0
        verdict = self.workers.run(ASSERTS, 1, {"source": source, "tests": answer})
        return _worth(verdict, self.partial)


@dataclasses.dataclass(frozen=True)
class Program:
    """A Python program, by what it prints. The answer is JSON: a list of pairs, standard input and
    standard output. Blanks at the ends of lines and empty lines at the end do not count, and the
    program must end by itself, with status 0. `Workers.seconds` is the time for all pairs."""

    workers: Workers
    extract: Extract = fenced
    partial: bool = False

    def __call__(self, completion: str, answer: str) -> float | None:
        try:
            cases: Any = json.loads(answer)
            cases = [(str(given), str(printed)) for given, printed in cases]
        except (ValueError, TypeError, RecursionError):
            return None
        if not 0 < len(cases) <= MOST_CASES:
            return None
        source = self.extract(completion)
        if source is None:
            return 0.0
        request = {"source": source, "cases": cases}
        return _worth(self.workers.run(PROGRAM, len(cases), request), self.partial)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """1 where a regular expression matches the whole completion. The search takes at most the time
    of a check (some expressions take for ever on some texts); None beyond it."""

    workers: Workers
    pattern: str
    flags: int = 0

    def __call__(self, completion: str, answer: str = "") -> float | None:
        request = {"pattern": self.pattern, "flags": int(self.flags), "text": completion}
        verdict = self.workers.run(PATTERN, 0, request)
        return None if "error" in verdict else float(verdict["passed"])


@dataclasses.dataclass(frozen=True)
class Symbolic:
    """1 where math-verify (extra `llm-math`) finds the completion's answer equal to the right one.
    None where it cannot read that one, is not installed, or takes too long."""

    workers: Workers
    extract: Extract = whole

    def __call__(self, completion: str, answer: str) -> float | None:
        found = self.extract(completion)
        if found is None:
            return 0.0
        verdict = self.workers.run(SYMBOLIC, 0, {"gold": answer, "text": found})
        return None if "error" in verdict else float(verdict["passed"])
