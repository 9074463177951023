"""Pictures of states: a canvas in the units of the task, and boards of cells.

An environment that has a picture has a method `render(state)`, which returns uint8 [H, W, 3] for
one state, on the host, and `fps`, at how many steps per second it looks natural. Wrappers hand both
through.

Everything is drawn twice as large with Pillow, which does not smooth edges, and then reduced.
Pillow is imported when the first picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from jaxrl import palette

Picture: TypeAlias = np.ndarray[Any, Any]
"""uint8 [H, W, 3], H and W even, as video formats want them."""

Point: TypeAlias = tuple[float, float]

FINER = 2

FPS = 30
"""Of an environment that does not say."""


class NoPicture(ValueError):
    """An environment that cannot be drawn."""


def render(env: Any, state: Any) -> Picture:
    """The picture of one state."""
    if not hasattr(env, "render"):
        raise NoPicture(
            f"{type(env).__name__} has no picture: give it a method render(state) that returns "
            "uint8 [H, W, 3], and fps, the steps shown per second."
        )
    return env.render(state)


def fps(env: Any) -> int:
    """Steps per second at which the task looks natural."""
    return int(getattr(env, "fps", FPS))


class Canvas:
    """`width` x `height` pixels that show what lies between x[0] and x[1], and y[0] and y[1]; y
    goes up. Lengths without unit are those of the task; `width=` of a line is in pixels."""

    def __init__(self, width: int, height: int, x: Point, y: Point) -> None:
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (width * FINER, height * FINER), palette.PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._left, self._top = x[0], y[1]
        self._x_scale = width * FINER / (x[1] - x[0])
        self._y_scale = height * FINER / (y[1] - y[0])

    def _place(self, point: Point) -> Point:
        return (point[0] - self._left) * self._x_scale, (self._top - point[1]) * self._y_scale

    def line(self, points: Sequence[Point], color: str, width: float = 2.0) -> None:
        """A line with round ends and joints, `width` pixels wide."""
        placed = [self._place(p) for p in points]
        wide = max(1, round(width * FINER))
        self._draw.line(placed, fill=color, width=wide, joint="curve")
        if width > 2:
            for x, y in (placed[0], placed[-1]):
                r = (wide - 1) / 2
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def dashes(self, start: Point, end: Point, color: str, width: float = 1.0) -> None:
        (x0, y0), (x1, y1) = start, end
        for i in range(0, 40, 2):
            a, b = i / 39, (i + 1) / 39
            part = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (a, b)]
            self.line(part, color, width)

    def polygon(self, points: Sequence[Point], color: str) -> None:
        self._draw.polygon([self._place(p) for p in points], fill=color)

    def box(self, center: Point, width: float, height: float, color: str, angle: float = 0) -> None:
        """A rectangle, turned by `angle` to the left."""
        cos, sin = math.cos(angle), math.sin(angle)
        corners = [(-width, -height), (width, -height), (width, height), (-width, height)]
        self.polygon(
            [
                (center[0] + (x * cos - y * sin) / 2, center[1] + (x * sin + y * cos) / 2)
                for x, y in corners
            ],
            color,
        )

    def disc(self, center: Point, radius: float, color: str) -> None:
        """`radius` is measured along x."""
        x, y = self._place(center)
        r = radius * self._x_scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def picture(self) -> Picture:
        return np.asarray(self._image.reduce(FINER))


def grid(rows: int, columns: int) -> Canvas:
    """A canvas with lines between cells of side 1; (0, 0) is the corner at the lower left."""
    cell = max(8, min(40, 400 // max(rows, columns)) // 2 * 2)
    canvas = Canvas(columns * cell, rows * cell, (0, columns), (0, rows))
    for x in range(columns + 1):
        canvas.line([(x, 0), (x, rows)], palette.FAINT, 1)
    for y in range(rows + 1):
        canvas.line([(0, y), (columns, y)], palette.FAINT, 1)
    return canvas


def board(planes: Any, colors: Sequence[str], cell: int, ground: str = "#15181c") -> Picture:
    """Cells [rows, columns, P] bool in the colours of their planes, the last one on top, with
    faint gaps between them."""
    planes = np.asarray(planes)
    rows, columns, _ = planes.shape
    found = np.empty((rows, columns, 3), np.uint8)
    found[:] = palette.rgb(ground)
    for i, color in enumerate(colors):
        found[planes[..., i]] = palette.rgb(color)
    large = found.repeat(cell, 0).repeat(cell, 1)
    gap = np.arange(cell) == 0
    lines = np.tile(gap, rows)[:, None] | np.tile(gap, columns)
    large[lines] = (0.75 * large[lines] + 0.25 * np.array(palette.rgb("#4a4f57"))).astype(np.uint8)
    return large
