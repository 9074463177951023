"""Finding the answer in a completion. Every function here returns None where there is none."""

from __future__ import annotations

import dataclasses
import re


def whole(text: str) -> str:
    """All of it, without blanks round it."""
    return text.strip()


def last_line(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` (or `\fbox{...}`) holds, braces within it included. One that is
    never closed is none, even if an earlier one is closed."""
    starts = [m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    if not starts:
        return None
    depth, skip = 1, False
    for i in range(starts[-1], len(text)):
        c = text[i]
        if skip:
            skip = False
        elif c == "\\":
            skip = True  # \{ and \} are characters, not groups
        elif c in "{}":
            depth += 1 if c == "{" else -1
            if depth == 0:
                return text[starts[-1] : i].strip()
    return None


@dataclasses.dataclass(frozen=True)
class after:  # reads as a function: Numeric(extract=after("####"))
    """What follows the last `marker`, to the end of its line."""

    marker: str

    def __call__(self, text: str) -> str | None:
        _, found, rest = text.rpartition(self.marker)
        return rest.split("\n")[0].strip() if found else None


NUMBER = re.compile(
    r"[-+\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?%?|[-+\u2212]?\.\d+"
)


def last_number(text: str) -> str | None:
    """The last number in plain digits. A minus that stands between two numbers belongs to none."""
    last = None
    for m in NUMBER.finditer(text):
        found = m.group()
        if found[0] in "-+\u2212" and text[max(0, m.start() - 1) : m.start()].isalnum():
            found = found[1:]
        last = found
    return last


def fenced(text: str) -> str | None:
    """The last block of code between ``` and ```; the whole text if it has no such marks."""
    if "```" not in text:
        return text
    blocks = re.findall(r"```[^\n`]*\n(.*?)```", text, re.DOTALL)
    return blocks[-1] if blocks else None
