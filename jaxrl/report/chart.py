"""Learning curves as SVG inside a page: their colours are the page's, light or dark."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from jaxrl.plot import band

POINTS = 200
"""Of a curve at most: more cannot be told apart at this size."""

RUNS = 32
"""Drawn one by one at most."""


def number(value: float) -> str:
    """Few letters: 12.3k, 0.0045."""
    if not math.isfinite(value):
        return "-"
    for size, letter, least in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e3, "k", 1e4)):
        if abs(value) >= least or (abs(value) >= size and value % size == 0):
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stride = math.ceil(len(steps) / POINTS)
    kept = np.unique(np.append(np.arange(0, len(steps), stride), len(steps) - 1))
    return steps[kept], values[:, kept]


class _Frame:
    """From values to places on the drawing."""

    def __init__(self, width: int, height: int, x_max: float, low: float, high: float) -> None:
        if not high > low:
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        margin = 0.04 * (high - low)
        self.low, self.high, self.x_max = low - margin, high + margin, x_max or 1
        self.left, self.right = 46.0, width - 12.0
        self.top, self.bottom = 8.0, height - 22.0

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.x_max

    def y(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return self.bottom - (self.bottom - self.top) * part

    def points(self, steps: np.ndarray, values: np.ndarray) -> str:
        return " ".join(f"{self.x(s):.1f},{self.y(v):.1f}" for s, v in zip(steps, values))


def _pieces(steps: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """A curve without the points that do not exist. What lies between two that do is drawn."""
    seen = np.isfinite(values)
    return [(steps[seen], values[seen])] if seen.any() else []


def _axes(frame: _Frame, big: bool) -> list[str]:
    parts: list[str] = []
    for value in ticks(frame.low, frame.high, 5 if big else 3):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left:.0f}" x2="{frame.right:.0f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{frame.left - 6:.0f}" y="{y + 3.5:.1f}" '
            f'text-anchor="end">{number(value)}</text>'
        )
    for step in ticks(0, frame.x_max, 5 if big else 2):
        parts.append(
            f'<text class="tick" x="{frame.x(step):.1f}" y="{frame.bottom + 15:.0f}" '
            f'text-anchor="middle">{number(step)}</text>'
        )
    return parts


def chart(steps: np.ndarray, values: np.ndarray, label: str, big: bool = False) -> str:
    """`values` [runs, points]: their interquartile mean with its band, and when `big` every run."""
    width, height = (860, 300) if big else (280, 150)
    values = np.where(np.isfinite(values), values, np.nan)
    steps, values = _thinned(steps, values)
    middle, low, high = band(values, samples=200)
    shown = values[:RUNS] if big else np.zeros((0, len(steps)))
    every = np.concatenate([shown.ravel(), middle, low, high])
    frame = _Frame(width, height, float(steps[-1]), np.nanmin(every), np.nanmax(every))
    parts = _axes(frame, big)
    if len(values) > 1:
        for row in shown:
            parts += [
                f'<polyline class="run" points="{frame.points(*piece)}"/>'
                for piece in _pieces(steps, row)
            ]
        seen = ~np.isnan(low)
        there = frame.points(steps[seen], low[seen])
        back = frame.points(steps[seen][::-1], high[seen][::-1])
        parts.append(f'<polygon class="band" points="{there} {back}"/>')
    for xs, ys in _pieces(steps, middle):
        if len(xs) == 1:
            parts.append(
                f'<circle class="dot" cx="{frame.x(xs[0]):.1f}" cy="{frame.y(ys[0]):.1f}" r="3"/>'
            )
        parts.append(f'<polyline class="middle" points="{frame.points(xs, ys)}"/>')
    if big:
        parts += _tips(frame, steps, middle, low, high, len(values))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _tips(
    frame: _Frame,
    steps: np.ndarray,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    runs: int,
) -> list[str]:
    """What is said where the pointer rests."""
    seen = np.flatnonzero(~np.isnan(middle))
    places = [frame.x(steps[i]) for i in seen]
    edges = [frame.left, *((a + b) / 2 for a, b in zip(places, places[1:])), frame.right]
    parts: list[str] = []
    for i, left, right in zip(seen, edges, edges[1:]):
        text = f"{int(steps[i]):,} steps: {number(middle[i])}"
        if runs > 1:
            text += f" [{number(low[i])}, {number(high[i])}]"
        parts.append(
            f'<rect class="tip" x="{left:.1f}" width="{max(0.1, right - left):.1f}" '
            f'y="{frame.top:.0f}" height="{frame.bottom - frame.top:.0f}">'
            f"<title>{escape(text)}</title></rect>"
        )
    return parts
