"""The colours of all pictures: those of Okabe and Ito, which stay apart for colour-blind eyes."""

from __future__ import annotations

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, YELLOW = "#cc79a7", "#56b4e9", "#f0e442"
INK, GREY, FAINT, PAPER = "#23272e", "#8b9199", "#d9dcdf", "#ffffff"

SERIES = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, INK)
"""For curves in this order. Yellow is left out: a thin line of it cannot be seen on white."""

STROKES = ("-", "--", ":", "-.")
"""From the eighth curve on colours come again, with the next of these."""


def rgb(color: str) -> tuple[int, int, int]:
    """ "#0072b2" -> (0, 114, 178)"""
    number = int(color[1:], 16)
    return number >> 16, number >> 8 & 255, number & 255


def mix(color: str, other: str, share: float) -> str:
    """`share` of `other` in `color`."""
    parts = (round(a + (b - a) * share) for a, b in zip(rgb(color), rgb(other), strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)
