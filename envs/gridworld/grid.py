"""Grids drawn in text: where each move leads."""

from __future__ import annotations

import functools

import numpy as np

Map = tuple[str, ...]
Moves = tuple[tuple[int, int], ...]

UP, RIGHT, DOWN, LEFT = (-1, 0), (0, 1), (1, 0), (0, -1)
FOUR: Moves = (UP, RIGHT, DOWN, LEFT)
KING: Moves = (UP, (-1, 1), RIGHT, (1, 1), DOWN, (1, -1), LEFT, (-1, -1))
KING_OR_STAY: Moves = (*KING, (0, 0))


def rows(text: str) -> Map:
    """A map from a text block, empty lines left out."""
    return tuple(line for line in text.splitlines() if line.strip())


@functools.cache
def letters(drawn: Map) -> np.ndarray:
    """[cells] of one character each, row by row."""
    if not drawn or len({len(line) for line in drawn}) != 1 or not drawn[0]:
        raise ValueError(
            f"map={drawn!r} must be rows of the same length, at least one: "
            'fill them up, as in ("S.#", "..G").'
        )
    return np.array([list(line) for line in drawn]).ravel()


@functools.cache
def cells(drawn: Map, letter: str) -> np.ndarray:
    """Numbers of the cells with one of these letters."""
    return np.flatnonzero(np.isin(letters(drawn), list(letter)))


@functools.cache
def destinations(drawn: Map, moves: Moves) -> np.ndarray:
    """[cells, moves] int32: the cell a move leads to; the edge and walls (#) stop it."""
    height, width = len(drawn), len(drawn[0])
    letter = letters(drawn)
    table = np.empty((height * width, len(moves)), np.int32)
    for cell in range(height * width):
        row, column = divmod(cell, width)
        for m, (down, right) in enumerate(moves):
            r = min(max(row + down, 0), height - 1)
            c = min(max(column + right, 0), width - 1)
            to = r * width + c
            table[cell, m] = cell if letter[to] == "#" else to
    return table
