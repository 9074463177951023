"""The picture of both mountain cars."""

from __future__ import annotations

import math

import numpy as np

from jaxrl import palette
from jaxrl.drawing import Canvas, Picture


def height(x: float) -> float:
    return 0.45 * math.sin(3 * x) + 0.55


def draw(x: float, low: float, high: float, flag: float) -> Picture:
    """The car at x on the hill between the wall at `low` and the end at `high`."""
    margin = 0.06
    canvas = Canvas(480, 316, (low - margin, high + margin), (-0.02, 1.244))
    ground = [(float(p), height(float(p))) for p in np.linspace(low - margin, high + margin, 80)]
    canvas.polygon([*ground, (high + margin, -0.1), (low - margin, -0.1)], "#eceef0")
    canvas.line(ground, palette.GREY, 2)
    canvas.line([(low - 0.03, height(low)), (low - 0.03, height(low) + 0.2)], palette.GREY, 4)
    pole = height(flag)
    canvas.line([(flag, pole), (flag, pole + 0.18)], palette.INK, 2)
    top = pole + 0.18
    canvas.polygon([(flag, top), (flag + 0.07, top - 0.03), (flag, top - 0.07)], palette.GREEN)

    slope = math.atan2(1.35 * math.cos(3 * x), 1)
    up = (-math.sin(slope), math.cos(slope))
    along = (math.cos(slope), math.sin(slope))

    def at(forward: float, above: float) -> tuple[float, float]:
        return (
            x + forward * along[0] + above * up[0],
            height(x) + forward * along[1] + above * up[1],
        )

    body = [at(-0.07, 0.03), at(0.07, 0.03), at(0.07, 0.065), at(0.03, 0.065), at(0.02, 0.1),
            at(-0.04, 0.1), at(-0.055, 0.065), at(-0.07, 0.065)]  # fmt: skip
    canvas.polygon(body, palette.ORANGE)
    for wheel in (-0.042, 0.042):
        canvas.disc(at(wheel, 0.025), 0.025, palette.INK)
    return canvas.picture()
