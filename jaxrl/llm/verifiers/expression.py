r"""A small language of mathematics: parsed without `eval`, evaluated within limits.

Numbers, one-letter variables, + - * / ^, products without a sign, roots, fractions, powers, |x|,
x!, percent and the usual functions, in plain text or in LaTeX. Values are exact fractions as long
as that is possible and small enough, else complex floats. `9^9^9` is refused instead of computed.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import TypeAlias

Node: TypeAlias = tuple[str, "tuple[Node, ...]", Fraction | str | None]
Value: TypeAlias = Fraction | complex

LONGEST, DEEPEST, BITS = 2000, 60, 4096


class Refused(ValueError):
    """What cannot be read or computed here."""


FUNCTIONS = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "arcsin": cmath.asin,
    "arccos": cmath.acos, "arctan": cmath.atan, "asin": cmath.asin, "acos": cmath.acos,
    "atan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "ln": cmath.log, "log": cmath.log, "exp": cmath.exp, "sqrt": cmath.sqrt,
    "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z),
    "cot": lambda z: cmath.cos(z) / cmath.sin(z), "abs": abs,
}  # fmt: skip

GREEK = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda",
    "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega",
]  # fmt: skip

# Left to right: LaTeX that means something else here, or nothing.
_REWRITTEN = [
    (re.compile(p), r)
    for p, r in (
        (r"\\(?:left|right|displaystyle|quad|qquad|[,;!: ])", " "),
        (r"\\[dt]frac", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\\(?:cdot|times|ast)(?![a-zA-Z])|×|·", "*"),
        (r"\\div(?![a-zA-Z])|÷", "/"),
        (r"\\pi(?![a-zA-Z])|π", " pi "),
        (r"\\(?:operatorname|mathrm|text)\s*\{\s*([a-z]+)\s*\}", r"\\\1 "),
        (r"\\[lr]?vert(?![a-zA-Z])", "|"),
        (r"\\%", "%"),
        (r"√", r"\\sqrt"),
        (r"−", "-"),
        (r"²", "^2"),
        (r"³", "^3"),
        (r"\^\s*\{?\s*\\circ\s*\}?|°", ""),
        (r"\$", ""),
        (r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))", ""),
    )
]
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][-+]?\d{1,4}(?![\d.]))?|\.\d+)|(?P<command>\\[a-zA-Z]+)"
    r"|(?P<word>[a-zA-Z]+)|(?P<sign>\*\*|[-+*/^(){}\[\]|!%_]))"
)
_CALLS = tuple("\\" + name for name in FUNCTIONS)
_WORDS = sorted([*FUNCTIONS, "pi"], key=len, reverse=True)


def tokens(text: str) -> list[str]:
    """Numbers as they are, functions and Greek letters with a backslash, variables by letter."""
    if len(text) > LONGEST:
        raise Refused("too long")
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    text, found, at = text.strip(), list[str](), 0
    while at < len(text):
        m = _TOKEN.match(text, at)
        if m is None:
            raise Refused(f"{text[at]!r} is not understood")
        at, piece = m.end(), m.group().strip()
        if m["command"]:
            known = piece[1:] in FUNCTIONS or piece[1:] in GREEK or piece == "\\frac"
            if not known:
                raise Refused(f"{piece} is not understood")
        if not m["word"]:
            found.append("^" if piece == "**" else piece)
            continue
        while piece:  # xy is a product, sin x is not
            name = next((w for w in _WORDS if piece.startswith(w)), piece[0])
            found.append("\\" + name if len(name) > 1 else name)
            piece = piece[len(name) :]
    return found


def parse(text: str) -> Node:
    """Raises Refused."""
    parser = _Parser(tokens(text))
    node = parser.sum()
    if parser.next is not None:
        raise Refused(f"{parser.next!r} is one too many")
    return node


def _n(value: int | Fraction) -> Node:
    return ("number", (), Fraction(value))


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth, self.bars = tokens, 0, 0, 0

    @property
    def next(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, wanted: str | None = None) -> str:
        token = self.next
        if token is None or wanted not in (None, token):
            raise Refused(f"{wanted or 'something'} is missing")
        self.at += 1
        return token

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Refused("too deep")
        node = self.product()
        while self.next in ("+", "-"):
            sign, right = self.take(), self.product()
            node = ("+", (node, right if sign == "+" else ("neg", (right,), None)), None)
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            if self.next in ("*", "/"):
                sign = self.take()
                node = (sign, (node, self.signed()), None)
            elif self.begins():
                whole = node[0] == "number" and self.next == "\\frac"
                right = self.power()
                mixed = whole and right[0] == "/" and all(x[0] == "number" for x in right[1])
                node = ("+" if mixed else "*", (node, right), None)
            else:
                return node

    def begins(self) -> bool:
        """Whether a factor follows without a sign. A number never does: 2 3 is no product."""
        token = self.next
        if token is None or (token == "|" and self.bars):
            return False
        return token[0].isalpha() or token[0] == "\\" or token in "({[|"

    def signed(self) -> Node:
        negative = False
        while self.next in ("-", "+"):
            negative ^= self.take() == "-"
        node = self.power()
        return ("neg", (node,), None) if negative else node

    def power(self) -> Node:
        node = self.postfix(self.factor())
        if self.next == "^":
            self.take()
            self.depth += 1
            if self.depth > DEEPEST:
                raise Refused("too deep")
            node = ("^", (node, self.signed()), None)
            self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while self.next in ("!", "%"):
            kind = self.take()
            node = ("!", (node,), None) if kind == "!" else ("/", (node, _n(100)), None)
        return node

    def group(self) -> Node:
        close = {"(": ")", "{": "}", "[": "]"}.get(self.take())
        if close is None:
            raise Refused("a bracket is missing")
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.bars = bars
        self.take(close)
        return node

    def factor(self) -> Node:
        token = self.next
        if token is None:
            raise Refused("something is missing")
        if token[0].isdigit() or token[0] == ".":
            return ("number", (), Fraction(self.take().rstrip(".")))
        if token in "({[":
            return self.group()
        if token == "|":
            self.take()
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.take("|")
            return ("call", (node,), "abs")
        self.take()
        if token == "\\frac":
            return ("/", (self.group(), self.group()), None)
        if token == "\\pi":
            return ("constant", (), "pi")
        if token[0] == "\\" and token[1:] in FUNCTIONS:
            return self.call(token[1:])
        if token[0] == "\\" or token.isalpha():
            name = token.lstrip("\\")
            if self.next == "_":  # an index is part of the name
                self.take()
                index = self.take()
                if index == "{":
                    index = self.take()
                    self.take("}")
                name += "_" + index
            return ("constant", (), name) if name in ("e", "i") else ("variable", (), name)
        raise Refused(f"{token!r} stands at the wrong place")

    def index(self) -> Node:
        return self.group() if self.next == "{" else self.factor()

    def call(self, name: str) -> Node:
        base = power = None
        if name == "sqrt" and self.next == "[":
            base = self.group()
        while self.next in ("_", "^"):
            if self.take() == "_":
                base = self.index()
            else:
                power = self.signed()
        if self.next in ("(", "{"):
            inner = self.group()
        else:  # sin 2x: all factors up to the next sign, bracket or function
            self.depth += 1
            if self.depth > DEEPEST:
                raise Refused("too deep")
            inner = self.power()
            while self.begins() and self.next not in ("(", "[", "{", *_CALLS):
                inner = ("*", (inner, self.power()), None)
            self.depth -= 1
        node: Node = ("call", (inner,), name)
        if base is not None and name == "sqrt":
            node = ("^", (inner, ("/", (_n(1), base), None)), None)
        elif base is not None and name == "log":
            node = ("/", (node, ("call", (base,), "log")), None)
        elif base is not None:
            raise Refused(f"{name} has no index")
        return node if power is None else ("^", (node, power), None)


def variables(node: Node) -> set[str]:
    found = {str(node[2])} if node[0] == "variable" else set[str]()
    return found.union(*(variables(child) for child in node[1]))


def _floating(x: Value) -> complex:
    return complex(float(x)) if isinstance(x, Fraction) else x


def _small(x: Value) -> Value:
    if isinstance(x, Fraction):
        bits = max(x.numerator.bit_length(), x.denominator.bit_length())
        return x if bits <= BITS else _floating(x)
    if not cmath.isfinite(x):
        raise Refused("not finite")
    return x


def _root(x: Fraction, n: int) -> Fraction | None:
    """The exact n-th root of a non-negative fraction, where there is one."""

    def whole(k: int) -> int | None:
        guess = math.isqrt(k) if n == 2 else round(float(k) ** (1 / n))
        return guess if guess**n == k else None

    top, bottom = whole(x.numerator), whole(x.denominator)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _power(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        bits = max(a.numerator.bit_length(), a.denominator.bit_length())
        if b.denominator == 1 and bits * abs(b.numerator) <= BITS:
            return a ** int(b)
        if b.numerator == 1 and b.denominator < 10 and a >= 0 and bits < 500:
            found = _root(a, b.denominator)
            if found is not None:
                return found
        if a < 0 and b.denominator % 2 == 1 and b.denominator > 1:
            found = _power(-a, b)  # the real root, as (-8)^(1/3) = -2
            return -found if b.numerator % 2 else found
    return _floating(a) ** _floating(b)


def evaluate(node: Node, at: Mapping[str, Value]) -> Value:
    """Raises Refused where there is no value, or none that is small enough."""
    try:
        return _small(_evaluate(node, at))
    except (ArithmeticError, ValueError, RecursionError) as error:
        raise Refused(str(error)) from None


def _evaluate(node: Node, at: Mapping[str, Value]) -> Value:
    kind, children, what = node
    if kind == "number":
        assert isinstance(what, Fraction)
        return what
    if kind == "variable":
        return at[str(what)]
    if kind == "constant":
        return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[str(what)]
    values = [evaluate(child, at) for child in children]
    a, b = values[0], values[-1]
    if kind == "neg":
        return -a
    if kind == "!":
        if not isinstance(a, Fraction) or a.denominator != 1 or not 0 <= a <= 300:
            raise Refused("no factorial")
        return Fraction(math.factorial(int(a)))
    if kind == "call":
        if isinstance(a, Fraction) and what == "abs":
            return abs(a)
        if isinstance(a, Fraction) and what == "sqrt":
            return _power(a, Fraction(1, 2))
        return complex(FUNCTIONS[str(what)](_floating(a)))
    if kind == "^":
        return _power(a, b)
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = _floating(a), _floating(b)
    return a + b if kind == "+" else a * b if kind == "*" else a / b  # pyright: ignore
