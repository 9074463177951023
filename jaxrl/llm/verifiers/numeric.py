"""Numbers as people and models write them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction

from jaxrl.llm.verifiers.extract import whole
from jaxrl.llm.verifiers.verifier import Extract

LONGEST, LARGEST = 1000, 1000
"""Digits of a number, and of its power of ten, that are read: 1e999999999 is no number here."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_DECIMAL = re.compile(rf"({_PLAIN})(?:[eE]([-+]?\d+))?")
_POWER = re.compile(
    rf"({_PLAIN})\s*(?:\\times|\\cdot|×|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?([-+]?\d+)\}}?"
)
_FRACTION = re.compile(rf"([-+]?(?:{_PLAIN}))\s*/\s*([-+]?(?:{_PLAIN}))")
_LATEX = re.compile(rf"\\[dt]?frac\s*\{{([-+]?(?:{_PLAIN}))\}}\s*\{{([-+]?(?:{_PLAIN}))\}}")
_MIXED = re.compile(r"(\d+)\s+(\d+)\s*/\s*(\d+)|(\d+)\s*\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_DROPPED = re.compile(r"\\[,;!: ]|\\left|\\right|\\(?:text|mathrm|mbox)\s*(?=\{)|[$\u20ac\u00a3]")


def _decimal(text: str, power: str | None) -> Fraction | None:
    ten = int(power) if power and len(power) < 9 else 0
    if len(text) > LONGEST or abs(ten) > LARGEST or (power and len(power) >= 9):
        return None
    value = Fraction(text.replace(",", "").rstrip(".") or "0")
    return value * Fraction(10) ** ten


def _unsigned(text: str) -> Fraction | None:
    if m := _DECIMAL.fullmatch(text) or _POWER.fullmatch(text):
        return _decimal(m[1], m[2])
    if m := _MIXED.fullmatch(text):
        n, top, bottom = (x for x in m.groups() if x is not None)
        parts = [_decimal(x, None) for x in (n, top, bottom)]
        if None in parts or not parts[2]:
            return None
        return parts[0] + parts[1] / parts[2]  # pyright: ignore
    if m := _FRACTION.fullmatch(text) or _LATEX.fullmatch(text):
        top, bottom = (number(x) for x in m.groups())
        return None if top is None or not bottom else top / bottom
    return None


def number(text: str, units: Mapping[str, float] | None = None) -> Fraction | None:
    r"""The number that `text` is, exactly; None if it is none.

    Understood are 1,234.5 (commas between groups of three only), 3/4, \frac{3}{4}, 1 1/2, 1.2e-3,
    1.2 x 10^{-3}, 50% (= 0.5), $5, and a unit of `units` behind it, which says what it stands for:
    {"m": 1, "km": 1000} reads "2 km" as 2000. Any other word behind a number makes it none."""
    text = _DROPPED.sub("", text.strip().replace("\u2212", "-").replace("{,}", ","))
    text = text.strip().rstrip(".").strip()
    if len(text) > 2 * LONGEST:
        return None
    factor = Fraction(1)
    for unit in sorted(units or (), key=len, reverse=True):
        for written in (unit, "{" + unit + "}"):
            head = text.removesuffix(written)
            if head != text and not head[-1:].isalpha():
                text, factor = head.strip(), Fraction(str((units or {})[unit]))
                break
        else:
            continue
        break
    if text.endswith("%"):
        text, factor = text[:-1].rstrip("\\ "), factor / 100
    sign = 1
    if text[:1] in ("-", "+"):
        sign, text = (-1 if text[0] == "-" else 1), text[1:].strip()
    value = _unsigned(text)
    return None if value is None else sign * value * factor


@dataclasses.dataclass(frozen=True)
class Numeric:
    """1 where the extracted number is within the tolerance of the answer: no further from it than
    `absolute`, or than `relative` times its size. An answer that is no number gives None. `units`
    are pairs, such as (("m", 1.0), ("km", 1000.0)); see `number` for what is understood."""

    extract: Extract = whole
    relative: float = 1e-6
    absolute: float = 1e-9
    units: tuple[tuple[str, float], ...] = ()

    def __call__(self, completion: str, answer: str) -> float | None:
        right = number(answer, dict(self.units))
        if right is None:
            return None
        found = self.extract(completion)
        given = None if found is None else number(found, dict(self.units))
        if given is None:
            return 0.0
        bound = max(Fraction(self.absolute), Fraction(self.relative) * abs(right))
        return float(abs(given - right) <= bound)
