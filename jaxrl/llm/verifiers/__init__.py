"""Verifiers: what a completion is worth, found by a rule.

    verifier = Numeric(extract=boxed)
    verifier(r"so it is \\boxed{1/2}.", "0.5")       # 1.0

A verifier is a callable `(completion, answer) -> float | None`. None says that this completion
cannot be scored, because of the answer or of the checker; a completion that holds no answer, or a
wrong one, is worth 0. Nothing here imports JAX.
"""

from __future__ import annotations

from jaxrl.llm.verifiers.algebra import Math
from jaxrl.llm.verifiers.expression import Refused, parse
from jaxrl.llm.verifiers.extract import after, boxed, fenced, last_line, last_number, whole
from jaxrl.llm.verifiers.isolated import Code, Pattern, Program, Symbolic
from jaxrl.llm.verifiers.numeric import Numeric, number
from jaxrl.llm.verifiers.scoring import Scores, score
from jaxrl.llm.verifiers.text import Exact, Length, Repetition, Sum
from jaxrl.llm.verifiers.verifier import Verifier
from jaxrl.llm.verifiers.workers import Unprotected, Workers

__all__ = [
    "Code",
    "Exact",
    "Length",
    "Math",
    "Numeric",
    "Pattern",
    "Program",
    "Refused",
    "Repetition",
    "Scores",
    "Sum",
    "Symbolic",
    "Unprotected",
    "Verifier",
    "Workers",
    "after",
    "boxed",
    "fenced",
    "last_line",
    "last_number",
    "number",
    "parse",
    "score",
    "whole",
]
