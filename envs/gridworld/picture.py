"""Pictures of maps: each letter has its colour, the agent is a disc."""

from __future__ import annotations

from jaxrl import palette
from jaxrl.drawing import Canvas, Picture
from jaxrl.drawing import grid as canvas
from jaxrl.envs.gridworld import grid

COLORS = {
    "#": palette.INK,
    "G": palette.GREEN,
    "S": palette.FAINT,
    "H": palette.BLUE,
    "C": palette.RED,
    "T": palette.PURPLE,
    "F": palette.mix(palette.SKY, palette.PAPER, 0.8),
}
"""Walls, goals, starts, holes, cliffs, televisions, ice; anything else is white."""


def center(rows: int, columns: int, cell: int) -> tuple[float, float]:
    """Where a cell is on a canvas whose y goes up."""
    row, column = divmod(cell, columns)
    return column + 0.5, rows - row - 0.5


def cells(drawn: grid.Map, colors: dict[int, str] | None = None) -> Canvas:
    """The map; `colors` has those of single cells that differ."""
    rows, columns = len(drawn), len(drawn[0])
    found = canvas(rows, columns)
    for cell, letter in enumerate("".join(drawn)):
        color = (colors or {}).get(cell, COLORS.get(letter))
        if color is not None:
            found.box(center(rows, columns, cell), 0.94, 0.94, color)
    return found


def picture(drawn: grid.Map, at: int, colors: dict[int, str] | None = None) -> Picture:
    """The map with the agent in a cell."""
    found = cells(drawn, colors)
    found.disc(center(len(drawn), len(drawn[0]), at), 0.3, palette.ORANGE)
    return found.picture()
