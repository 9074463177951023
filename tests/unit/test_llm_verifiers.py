"""Verifiers of numbers, mathematics, text and code: what they take for right, and what not."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from jaxrl.llm.verifiers import (
    Code,
    Exact,
    Length,
    Math,
    Numeric,
    Pattern,
    Program,
    Refused,
    Repetition,
    Scores,
    Sum,
    Symbolic,
    Workers,
    after,
    boxed,
    fenced,
    last_line,
    last_number,
    number,
    parse,
    score,
    whole,
)
from jaxrl.llm.verifiers.expression import evaluate


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2, seconds=5.0) as workers:
        yield workers


def test_no_verifier_imports_jax() -> None:
    program = "import sys, jaxrl.llm.verifiers; assert 'jax' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)


# Finding the answer.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a}_{b_{c}}} {}", r"\text{a}_{b_{c}}"),
        (r"\fbox {x}", "x"),
        (r"\boxed{\left\{ x \right.} and {}", r"\left\{ x \right."),
        (r"\boxed{}", ""),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed 5", None),
        ("42", None),
    ],
)
def test_boxed(text: str, found: str | None) -> None:
    assert boxed(text) == found


def test_a_long_text_of_braces_is_read_once() -> None:
    assert boxed("\\boxed{" * 100_000) is None
    assert boxed("\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}") is not None


def test_other_places_of_answers() -> None:
    assert after("####")("a #### 1\n#### 72 \nb") == "72"
    assert after("####")("72") is None
    assert last_line("a\n\n 72 \n \n") == "72" and last_line(" ") is None
    assert whole(" a\n") == "a"
    assert fenced("x\n```python\na = 1\n```\n```\nb\n```") == "b\n"
    assert fenced("a = 1") == "a = 1" and fenced("```python\na") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from 3 to 5", "5"),
        ("3-5", "5"),
        ("it is -5.", "-5"),
        ("-3.25e-2 m", "-3.25e-2"),
        ("1,234,567.5", "1,234,567.5"),
        ("50%", "50%"),
        (".5", ".5"),
        ("none", None),
    ],
)
def test_last_number(text: str, found: str | None) -> None:
    assert last_number(text) == found


# Numbers.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-3", -3),
        ("\u22123", -3),
        ("+7.", 7),
        ("1,234.5", Fraction("1234.5")),
        ("12,34", None),
        ("1,23", None),
        ("1{,}234", 1234),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("3/-4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        ("1/0", None),
        ("1.2e-3", Fraction(12, 10_000)),
        (r"1.2\times10^{-3}", Fraction(12, 10_000)),
        ("3 x 10^8", 300_000_000),
        ("1e999999999", None),
        ("9" * 5000, None),
        ("50%", Fraction(1, 2)),
        (r"12.5\%", Fraction(1, 8)),
        ("$1,200", 1200),
        ("2 km", 2000),
        (r"2\text{ km}", None),
        (r"2\,\text{km}", 2000),
        ("2km", 2000),
        ("2 mm", None),
        ("2 bananas", None),
        ("", None),
        ("--3", None),
        ("nan", None),
        ("inf", None),
        ("0x10", None),
        ("\u0663", 3),  # a digit, if not ours
    ],
)
def test_number(text: str, value: Fraction | int | None) -> None:
    assert number(text, {"m": 1.0, "km": 1000.0}) == value


def test_numeric_tolerance() -> None:
    close = Numeric(relative=0.01, absolute=0.0)
    assert close("101", "100") == 1.0 and close("101.01", "100") == 0.0
    assert close("-99", "-100") == 1.0 and close("100", "-100") == 0.0
    near = Numeric(relative=0.0, absolute=0.5)
    assert near("0.5", "0") == 1.0 and near("0.51", "0") == 0.0
    assert Numeric()("1000000", "1000001") == 1.0  # within a millionth
    assert Numeric(relative=0.0)("1000000", "1000001") == 0.0


def test_numeric_answers_that_are_none_and_those_that_are_wrong() -> None:
    assert Numeric()("5", "five") is None
    assert Numeric()("five", "5") == 0.0
    assert Numeric(boxed)("5", "5") == 0.0 and Numeric(boxed)(r"\boxed{5.0}", "5") == 1.0
    assert Numeric(last_number)("we get 3 + 4 = 7", "7") == 1.0
    with_units = Numeric(units=(("m", 1.0), ("km", 1000.0)))
    assert with_units("2 km", "2000 m") == 1.0 and with_units("2 m", "2 km") == 0.0


# Mathematics.

EQUAL = [
    ("1/2", "0.5"),
    (r"\frac12", "1/2"),
    (r"\dfrac{3}{6}", r"\tfrac{1}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    ("(x-1)(x+1)", "x^2-1"),
    ("2x + 3y", "3y+2x"),
    (r"\sqrt{8}", r"2\sqrt2"),
    (r"\sqrt[3]{27}", "3"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"2\pi", "2*pi"),
    (r"\sin^2 x + \cos^2 x", "1"),
    (r"\sin 2x", r"2 \sin x \cos x"),
    (r"\log_2 8", "3"),
    (r"\ln(e^2)", "2"),
    (r"e^{i\pi}", "-1"),
    ("x = 5", "5"),
    ("x+y=3", "2x + 2y = 6"),
    ("(1, 2)", "(1,2)"),
    (r"\left(\frac{1}{2}, 3\right)", "(0.5, 3)"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    ("1, 2", "2, 1"),
    (r"3 \pm \sqrt{2}", r"3-\sqrt2, 3+\sqrt2"),
    ("[0, 1)", "[0,1)"),
    ("1,234", "1234"),
    (r"50\%", "1/2"),
    ("5!", "120"),
    ("-2^2", "-4"),
    ("2^3^2", "512"),
    ("(-8)^(1/3)", "-2"),
    ("|-3|", "3"),
    ("a_1 + a_2", "a_2 + a_1"),
    (r"90^\circ", "90"),
    (r"\text{East}", "east"),
    ("(B)", "(b)"),
    (r"\begin{pmatrix} 1 \end{pmatrix}", r"\begin{pmatrix}1\end{pmatrix}"),
]

DIFFERENT = [
    ("1/2", "1/3"),
    ("0.3333", "1/3"),
    ("2^{100}+1", "2^{100}"),
    ("100000000001", "100000000000"),
    ("x^2+1", "x^2-1"),
    ("x", "y"),
    ("|x|", "x"),
    (r"\sqrt{x^2}", "x"),
    ("xy", "x+y"),
    ("-4", "(-2)^2"),
    ("(1, 2)", "(2, 1)"),
    ("(1, 2)", "[1, 2]"),
    ("(1, 2, 3)", "(1, 2)"),
    ("1, 1", "1, 2"),
    ("1", "1, 2"),
    ("x+y=3", "x+y=4"),
    ("9^9^9", "5"),
    ("9**9**9**9", "5"),
    ("1000000!", "5"),
    ("1/0", "5"),
    ("0/0", "0"),
    ("2 3", "6"),
    ("((((", "5"),
    ("(" * 500 + "5" + ")" * 500, "5"),
    ("x" * 5000, "5"),
    ("-" * 1900 + "5", "6"),
    ("__import__('os').getpid()", "5"),
    ("", "5"),
    ("five", "5"),
    ("west", r"\text{east}"),
    ("5 or 6", "5"),
]


@pytest.mark.parametrize(("given", "right"), EQUAL)
def test_equal(given: str, right: str) -> None:
    assert Math(whole)(given, right) == Math(whole)(right, given) == 1.0
    assert Math()(rf"thus \boxed{{{given}}}", right) == 1.0


@pytest.mark.parametrize(("given", "right"), DIFFERENT)
def test_different(given: str, right: str) -> None:
    assert Math(whole)(given, right) == 0.0


@pytest.mark.parametrize("right", ["((", "1/0", "9^9^9", r"\begin{pmatrix}1\end{pmatrix}", ""])
def test_right_answers_that_cannot_be_read(right: str) -> None:
    assert Math(whole)("5", right) is None


def test_decimals_may_be_told_to_be_near() -> None:
    assert Math(whole, relative=1e-3)("0.3333", "1/3") == 1.0
    assert Math(whole, relative=1e-3)("1001", "1000") == 0.0  # whole numbers are whole


def test_values_are_exact_where_they_can_be() -> None:
    assert evaluate(parse("1/3 + 1/6"), {}) == Fraction(1, 2)
    assert evaluate(parse("x^3 - 1"), {"x": Fraction(2, 3)}) == Fraction(8, 27) - 1
    for text in ("9^9^9", "1/0", "10^400 * 10^400 * 10^600 + 0.1", "301!", "ln 0"):
        with pytest.raises(Refused):
            evaluate(parse(text), {})


def test_any_text_is_read_or_refused() -> None:
    pieces = [*"0123456789xyei+-*/^(){}[]|!%_., =", "\\frac", "\\sqrt", "\\pm", "\\left", "\\log"]
    pieces += ["sin", "\\{", "\\}", "\\boxed", "\u00b2", "9^9", "\\text{", "$", "\u221a"]
    draw = random.Random(1)
    verifier = Math(whole)
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 25)))
        assert verifier(text, "5") in (0.0, 1.0, None)
        assert verifier("5", text) in (0.0, 1.0, None)
        number(text)


# Text.


def test_exact() -> None:
    assert Exact()(" a  b\n", "a b") == 1.0
    assert Exact()("A", "a") == 0.0 and Exact(ignore_case=True)("A", "a") == 1.0
    assert Exact()("e\u0301", "\u00e9") == 1.0
    assert Exact(boxed)("a", "a") == 0.0


def test_length() -> None:
    verifier = Length(10, buffer=4, shortest=2)
    assert [verifier("a" * n) for n in (1, 2, 10, 11, 13, 14, 99)] == [0, 1, 1, 0.75, 0.25, 0, 0]
    assert Length(2, words=True)("one two") == 1.0 and Length(2, words=True)("one two 3") == 0.0


def test_repetition() -> None:
    assert Repetition(2)("a b c d") == 1.0
    assert Repetition(2)("a b a b a") == 2 / 4  # ab ba ab ba
    assert Repetition(3)("a b") == 1.0
    assert Repetition(1)("a a a a") == 0.25


def test_pattern(workers: Workers) -> None:
    form = Pattern(workers, r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)
    assert form("<think>\n</think> <answer>4</answer>") == 1.0
    assert form("<think></think> <answer>4</answer> and more") == 0.0


def test_sum(workers: Workers) -> None:
    verifier = Sum(((Numeric(), 1.0), (Length(3), 0.5), (Pattern(workers, r"\d+"), 0.25)))
    assert verifier("42", "42") == 1.75 and verifier("4200", "42") == 0.25
    assert verifier("42", "many") is None
    assert verifier.workers is workers and Sum(((Numeric(), 1.0),)).workers is None


# Code that is not hostile.

STACK = """
class Stack:
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, item):
        self.items.append(item)
    def pop(self):
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __getitem__(self, i):
        return self.items[i]
    def __iter__(self):
        return iter(self.items)
    def __str__(self):
        return f"Stack({self.items})"
"""


@pytest.mark.parametrize(
    ("source", "tests", "worth"),
    [
        ("def f(x): return 2 * x", "assert f(2) == 4 and f('a') == 'aa'", 1.0),
        ("```python\ndef f(x): return 2 * x\n```", "assert f(2) == 4", 1.0),
        ("def f(x): return x", "assert f(2) == 4", 0.0),
        ("def g(x): return 4", "assert f(2) == 4", 0.0),
        ("def f(x): return {1: (2, [3.5, None]), 'a': {4, 5}}",
         "assert f(0) == {1: (2, [3.5, None]), 'a': {5, 4}}", 1.0),
        ("def f(x): return [1, 2]", "assert f(0) == (1, 2)", 0.0),
        ("def f(x): return b'a', 1j, frozenset([1]), True",
         "assert f(0) == (b'a', 1j, frozenset([1]), True)", 1.0),
        ("import math\ndef f(n): return math.factorial(n)",
         "import math\nassert f(2500) == math.factorial(2500)", 1.0),
        ("from fractions import Fraction as F\ndef f(): return F(1, 3)",
         "from fractions import Fraction\nassert f() == Fraction(1, 3)", 1.0),
        ("from decimal import Decimal as D\ndef f(): return D('0.1')",
         "from decimal import Decimal\nassert f() == Decimal('0.1')", 1.0),
        ("from collections import Counter\ndef f(x): return Counter(x)",
         "assert f('aab') == {'a': 2, 'b': 1}", 1.0),
        ("def f(x): x.sort()", "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]", 1.0),
        ("def f(x): yield from range(x)", "assert list(f(3)) == [0, 1, 2]", 1.0),
        ("def f(x, *, y=1): return x + y", "assert f(1) == 2 and f(1, y=5) == 6", 1.0),
        ("def f(x): raise KeyError(x)",
         "try:\n    f(1)\nexcept KeyError:\n    pass\nelse:\n    assert False", 1.0),
        ("class E(ValueError): pass\ndef f(x): raise E",
         "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False", 1.0),
        ("def f(x): return 1",
         "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False", 0.0),
        ("def f(x): raise SystemExit",  # to the tests, an error as any other
         "try:\n    f(1)\nexcept RuntimeError:\n    pass\nelse:\n    assert False", 1.0),
        ("import os\ndef f(x): os._exit(0)", "try:\n    f(1)\nexcept:\n    pass\nassert True", 0.0),
        (STACK, "s = Stack()\ns.push(3)\ns.push([4])\nassert len(s) == 2 and s[1] == [4]\n"
                "assert s.pop() == [4] and s.items == [3] and list(s) == [3]\n"
                "assert str(s) == 'Stack([3])' and s is not None", 1.0),
        (STACK, "a = Stack()\nassert a == a", 0.0),
        ("def add(x): return lambda y: x + y", "assert add(1)(2) == 3", 1.0),
        ("def f(x): return x.upper()", "def check(g):\n    assert g('a') == 'A'\ncheck(f)", 1.0),
        ("def f(x): return x + 1", "def test_one():\n    assert f(1) == 2", 1.0),
        ("def f(x): return x + 2", "def test_one():\n    assert f(1) == 2", 0.0),
        ("def f(x): return x ** 0.5", "assert math.isclose(f(2), math.sqrt(2))", 1.0),
        ("math = None\ndef isclose(*a): return True\ndef f(x): return 0",
         "assert math.isclose(f(2), math.sqrt(2))", 0.0),
        ("def abs(x): return 0\ndef f(x): return 9", "assert abs(f(2) - 4) < 1", 0.0),
        ("def f(n): return [{'n': n}] * 100", "assert f(3) == [{'n': 3}] * 100", 1.0),
        ("print('hello')\ndef f(x): print(x); return 1", "assert f(1) == 1", 1.0),
        # Tests that cannot be used.
        ("def f(x): return 4", "", None),
        ("def f(x): return 4", "f(2)", None),
        ("def f(x): return 4", "assert f(2) ==", None),
        ("def f(x): return 4", "'assert'", None),
        ("def f(x): return 4", "def other():\n    assert f(2) == 4", None),
        ("def f(g): return g(4)", "assert f(lambda x: x) == 4", None),
        ("def f(x): return 4", "import nothing_of_this_name\nassert f(2) == 4", None),
    ],
)  # fmt: skip
def test_code(source: str, tests: str, worth: float | None, workers: Workers) -> None:
    assert Code(workers)(source, tests) == worth


def test_code_in_part(workers: Workers) -> None:
    tests = "a = 1\nassert f(1) == 1\nassert f(2) == 4\nassert f(3) == 9\nassert f(4) == a"
    assert Code(workers, partial=True)("def f(x): return x * x", tests) == 0.75
    assert Code(workers)("def f(x): return x * x", tests) == 0.0


def test_program(workers: Workers) -> None:
    program = "a, b = map(int, input().split())\nprint(a + b)\n"
    cases = json.dumps([["1 2", "3"], ["5 5\n", "10\n\n"], ["1 1", "3"]])
    assert Program(workers, partial=True)(program, cases) == 2 / 3
    assert Program(workers)(program, cases) == 0.0
    assert Program(workers)(program, json.dumps([["1 2", "3"]])) == 1.0
    assert Program(workers)("print(ascii(input()))", json.dumps([["\u00e9", "'\\xe9'"]])) == 1.0
    for bad in ("", "[]", "3", "[1]", "[[1]]", json.dumps([["", ""]] * 51)):
        assert Program(workers)(program, bad) is None


def test_symbolic(workers: Workers) -> None:
    pytest.importorskip("math_verify")
    verifier = Symbolic(workers)
    assert verifier(r"so it is $\frac{2}{4}$", "1/2") == 1.0
    assert verifier(r"so it is $\boxed{(x-1)(x+1)}$", "$x^2-1$") == 1.0
    assert verifier(r"so it is $\frac{2}{5}$", "1/2") == 0.0
    assert verifier("no answer at all", "1/2") == 0.0


def test_symbolic_without_its_package(workers: Workers) -> None:
    try:
        import math_verify  # pyright: ignore  # noqa: F401
    except ImportError:
        before = workers.counts["missing"]
        assert Symbolic(workers)("$1$", "1") is None
        assert workers.counts["missing"] == before + 1


# Many.


def test_score_counts_and_goes_on() -> None:
    def odd(completion: str, answer: str) -> float | None:
        if completion == "raise":
            raise RuntimeError("a bug")
        return {"none": None, "nan": float("nan"), "inf": float("inf")}.get(completion, 0.5)

    counts = Scores()
    found = score(odd, ["a", "raise", "none", "nan", "inf", "b"], [""] * 6, counts)
    assert found == [0.5, None, None, None, None, 0.5]
    assert (counts.scored, counts.unscored, counts.raised) == (2, 4, 1)


def test_score_keeps_the_order_and_uses_all_workers(workers: Workers) -> None:
    sources = [f"import time\ntime.sleep(0.02)\ndef f(): return {i}" for i in range(8)]
    tests = [f"assert f() == {i if i % 3 else -1}" for i in range(8)]
    assert score(Code(workers), sources, tests) == [float(i % 3 > 0) for i in range(8)]
