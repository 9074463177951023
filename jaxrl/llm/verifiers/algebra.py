r"""Equality of mathematical answers, without a package for it.

Expressions are equal if their values are: at random points, where they have variables. Exact
fractions are compared exactly, so polynomials that differ are never taken for equal by rounding.
Each answer may be a value, an equation, a tuple or interval, or a set.
"""

from __future__ import annotations

import dataclasses
import random
import re
from fractions import Fraction

from jaxrl.llm.verifiers.expression import Node, Refused, Value, evaluate, parse, variables
from jaxrl.llm.verifiers.extract import boxed
from jaxrl.llm.verifiers.verifier import Extract

POINTS, FEWEST = 12, 3


@dataclasses.dataclass(frozen=True)
class _Answer:
    """`kind` is value, equation (one item: its two sides' difference), set, or the two brackets."""

    kind: str
    items: tuple[Node, ...]


def _split(text: str, mark: str) -> list[str]:
    """At `mark`, but not within brackets."""
    parts, depth, start = list[str](), 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == mark and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _read(text: str) -> _Answer:
    """Raises Refused."""
    if len(text) > 2000:
        raise Refused("too long")
    text = (
        re.sub(r"\\(?:left|right|[,;!: ])", " ", text.replace("$", "")).strip().rstrip(".").strip()
    )
    text = re.sub(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))(?![^(]*[)\]])", "", text)
    text = re.sub(r"^[a-zA-Z]\s*(?:\\in|∈)\s*", "", text)
    if text.startswith("\\{") and text.endswith("\\}"):
        return _Answer("set", _items(text[2:-2]))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and len(_split(text[1:-1], ",")) > 1:
        return _Answer(text[0] + text[-1], _items(text[1:-1]))
    if "\\pm" in text:
        both = [re.sub(r"\\pm(?![a-zA-Z])", sign, text) for sign in "+-"]
        return _Answer("set", tuple(_side(t) for t in both))
    if len(_split(text, ",")) > 1:
        return _Answer("set", _items(text))
    sides = _split(text, "=")
    if len(sides) == 2:
        left, right = (parse(side) for side in sides)
        if left[0] == "variable":
            return _Answer("value", (right,))
        return _Answer("equation", (("+", (left, ("neg", (right,), None)), None),))
    return _Answer("value", (parse(text),))


def _items(text: str) -> tuple[Node, ...]:
    return tuple(_side(part) for part in _split(text, ","))


def _side(text: str) -> Node:
    """x = 5 as an item is 5."""
    sides = _split(text, "=")
    return parse(sides[1] if len(sides) == 2 and sides[0].strip().isalpha() else text)


def _points(names: set[str]) -> list[dict[str, Value]]:
    draw = random.Random(20)  # the same for all: a verdict does not depend on chance

    def one(sign: int) -> Fraction:
        return Fraction(sign * draw.randint(1, 97), draw.randint(2, 13))

    return [
        {name: one(draw.choice((1, -1)) if i % 2 else 1) for name in sorted(names)}
        for i in range(POINTS if names else 1)
    ]


def _close(a: Value, b: Value, relative: float) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if a.denominator == b.denominator == 1 or not relative:
            return a == b
        return abs(a - b) <= Fraction(relative) * abs(b)
    x, y = (complex(float(z)) if isinstance(z, Fraction) else z for z in (a, b))
    return abs(x - y) <= max(relative, 1e-9) * max(abs(x), abs(y)) + 1e-12


def _value(node: Node, at: dict[str, Value]) -> Value | None:
    try:
        return evaluate(node, at)
    except (Refused, OverflowError):
        return None


def _equal(given: Node, right: Node, relative: float, up_to_a_factor: bool = False) -> bool | None:
    """None if there are too few points where both have a value."""
    names = variables(given) | variables(right)
    known, factor = 0, None
    for at in _points(names):
        a, b = _value(given, at), _value(right, at)
        if b is None and not names:
            return None
        if a is None or b is None:
            if not names:
                return False  # a right answer has a value, so must this
            continue
        if up_to_a_factor:
            if not a or not b:
                if bool(a) != bool(b):
                    return False
                continue
            ratio = a / b  # pyright: ignore
            if factor is None:
                factor = ratio
            a, b = ratio, factor
        if not _close(a, b, relative if not names else 0.0):
            return False
        known += 1
    return True if known >= (FEWEST if names else 1) else None


def _same(given: _Answer, right: _Answer, relative: float) -> bool | None:
    if given.kind != right.kind or len(given.items) != len(right.items):
        return False
    if right.kind == "set":
        left = list(right.items)
        for item in given.items:
            found = next((x for x in left if _equal(item, x, relative)), None)
            if found is None:
                return False
            left.remove(found)
        return True
    factor = right.kind == "equation"
    answers = [
        _equal(a, b, relative, factor) for a, b in zip(given.items, right.items, strict=True)
    ]
    return False if False in answers else None if None in answers else True


def _words(text: str) -> str | None:
    """An answer in words, such as \\text{east} or True."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}", r"\1", text.replace("$", ""))
    text = " ".join(text.strip().rstrip(".").casefold().split())
    return text if re.fullmatch(r"\(?[^\W\d_]{2,}\)?(?: [^\W\d_]+)*|\([a-z]\)", text) else None


@dataclasses.dataclass(frozen=True)
class Math:
    r"""1 where the extracted answer, by default the last `\boxed{...}`, equals the right one.

    Numbers may differ by `relative` times their size, whole numbers may not. A right answer that
    cannot be read gives None, unless the given one has the same letters."""

    extract: Extract = boxed
    relative: float = 1e-9

    def __call__(self, completion: str, answer: str) -> float | None:
        found = self.extract(completion)
        if found is None:
            return 0.0
        if "".join(found.split()) == "".join(answer.split()):
            return 1.0
        right_words = _words(answer)
        if right_words is not None and _words(found) == right_words:
            return 1.0
        try:
            right = _read(answer)
        except Refused:
            return 0.0 if right_words is not None else None
        try:
            given = _read(found)
        except Refused:
            return 0.0
        same = _same(given, right, self.relative)
        return None if same is None else float(same)
