"""Many completions at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxrl.llm.verifiers.verifier import Verifier


class Scores:
    """Counts of one verifier in use: `scored`, `unscored` (None) and `raised`, those of the latter
    that were an exception."""

    def __init__(self) -> None:
        self.scored = self.unscored = self.raised = 0
        self._lock = threading.Lock()

    def __call__(self, verifier: Verifier, completion: str, answer: str) -> float | None:
        raised = False
        try:
            worth = verifier(completion, answer)
            worth = None if worth is None or not math.isfinite(worth) else float(worth)
        except Exception:  # one bad completion is no reason to stop training
            worth, raised = None, True
        with self._lock:
            self.scored += worth is not None
            self.unscored += worth is None
            self.raised += raised
        return worth


def score(
    verifier: Verifier,
    completions: Sequence[str],
    answers: Sequence[str],
    scores: Scores | None = None,
) -> list[float | None]:
    """What each completion is worth; in as many threads as the verifier has workers."""
    counts = Scores() if scores is None else scores
    pairs = list(zip(completions, answers, strict=True))
    threads = getattr(getattr(verifier, "workers", None), "count", 1)
    if threads == 1 or len(pairs) == 1:
        return [counts(verifier, *pair) for pair in pairs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: counts(verifier, *pair), pairs))
