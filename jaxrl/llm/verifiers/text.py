"""Verifiers that look at the text itself."""

from __future__ import annotations

import dataclasses
import unicodedata

from jaxrl.llm.verifiers.extract import whole
from jaxrl.llm.verifiers.verifier import Extract, Verifier


@dataclasses.dataclass(frozen=True)
class Exact:
    """1 where the extracted text is the answer. Runs of blanks count as one; `ignore_case` also
    ignores case, accents stay."""

    extract: Extract = whole
    ignore_case: bool = False

    def _plain(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.casefold() if self.ignore_case else text

    def __call__(self, completion: str, answer: str) -> float:
        found = self.extract(completion)
        return float(found is not None and self._plain(found) == self._plain(answer))


@dataclasses.dataclass(frozen=True)
class Length:
    """1 up to `longest` (characters, or words), then down to 0 over `buffer` more. Shorter than
    `shortest` is worth 0. For lengths in tokens see `jaxrl.llm.losses.shaping`."""

    longest: int
    buffer: int = 0
    shortest: int = 0
    words: bool = False

    def __call__(self, completion: str, answer: str = "") -> float:
        n = len(completion.split()) if self.words else len(completion)
        if n < self.shortest:
            return 0.0
        if n <= self.longest:
            return 1.0
        return max(0.0, 1 - (n - self.longest) / self.buffer) if self.buffer else 0.0


@dataclasses.dataclass(frozen=True)
class Repetition:
    """The share of distinct ones among the `n`-grams of words: 1 without repetition, near 0 for one
    phrase over and over. Texts of fewer than n words are worth 1."""

    n: int = 3

    def __call__(self, completion: str, answer: str = "") -> float:
        words = completion.split()
        grams = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0


@dataclasses.dataclass(frozen=True)
class Sum:
    """A weighted sum, such as Sum(((Numeric(), 1.0), (Length(200), 0.1))). None if one is."""

    parts: tuple[tuple[Verifier, float], ...]

    @property
    def workers(self) -> object:
        found = [getattr(verifier, "workers", None) for verifier, _ in self.parts]
        return next((w for w in found if w is not None), None)

    def __call__(self, completion: str, answer: str) -> float | None:
        total = 0.0
        for verifier, weight in self.parts:
            worth = verifier(completion, answer)
            if worth is None:
                return None
            total += weight * worth
        return total
