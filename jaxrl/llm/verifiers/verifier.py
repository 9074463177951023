"""What a verifier is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias


class Verifier(Protocol):
    """How good a completion is, or None where that cannot be said. One that has `workers` is called
    from as many threads at a time as there are."""

    def __call__(self, completion: str, answer: str) -> float | None: ...


Extract: TypeAlias = Callable[[str], str | None]
"""The answer within a completion, None where there is none."""
