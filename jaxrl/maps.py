"""Values and policies of gridworlds, drawn on their maps: a heat map, arrows, and a film of values
that spread from the goal."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl import palette, plot, video

COLORS = "cividis"
"""From dark to light, and the same to colour-blind eyes."""

NUMBERS = 100
"""Cells up to which values are written into them."""

TIE = 1e-6
"""Actions are equally good within this share of the largest value."""


def draw(
    env: Any,
    table: Any,
    path: str | Path | None = None,
    *,
    policy: Any = None,
    ax: Any = None,
    limits: tuple[float, float] | None = None,
    numbers: bool | None = None,
    title: str = "",
) -> Any:
    """The values of a gridworld. `table` [cells] has a number for each; [cells, actions] has action
    values, of which the best is the colour and arrows point where it leads. `policy` [cells] or
    [cells, actions] draws its own arrows, as long as they are probable. -> the matplotlib axes."""
    drawn, moves = _world(env)
    rows, columns = len(drawn), len(drawn[0])
    letters = np.array([list(row) for row in drawn])
    values, arrows = _read(table, policy, rows * columns, len(moves))
    wall = letters == "#"
    shown = np.where(wall, np.nan, values.reshape(rows, columns))
    ax = plot.axes((0.55 * columns + 1.6, 0.55 * rows + 0.6)) if ax is None else ax
    low, high = limits or (np.nanmin(shown), np.nanmax(shown))
    image = ax.imshow(shown, COLORS, vmin=low, vmax=high if high > low else low + 1.0)
    ends = np.isin(letters, list("GHC"))
    light = shown > (low + high) / 2
    numbers = rows * columns <= NUMBERS and arrows is None if numbers is None else numbers
    for (row, column), letter in np.ndenumerate(letters):
        color = palette.INK if light[row, column] else palette.PAPER
        if wall[row, column]:
            ax.add_patch(_square(column, row, palette.INK))
        elif letter in "GHC":
            ax.text(column, row, letter, ha="center", va="center", color=color, weight="bold")
        elif numbers:
            text = f"{shown[row, column]:.3g}"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    if arrows is not None:
        _arrows(ax, arrows.reshape(rows, columns, -1), moves, wall | ends, light)
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_color(palette.GREY)
    if title:
        ax.set_title(title, fontsize=9, color=palette.GREY, loc="left")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=palette.GREY, labelcolor=palette.INK)
    return plot.save(ax, path)


def film(
    env: Any,
    tables: Iterable[Any],
    path: str | Path,
    *,
    titles: Sequence[str] | None = None,
    fps: float = 4.0,
) -> Path:
    """One picture after the other, all in the same colours, as a GIF: values after each sweep, or
    after each episode of learning."""
    found = [np.asarray(table) for table in tables]
    if not found:
        raise ValueError("tables is empty: give one table of values for each picture.")
    if not 0 < fps <= 100:
        raise ValueError(f"fps={fps:g} must lie above 0 and up to 100.")
    path = Path(path)
    if path.suffix != ".gif":
        raise ValueError(f"path={str(path)!r} must end in .gif.")
    best = [x if x.ndim == 1 else x.max(-1) for x in found]
    inside = "".join(_world(env)[0])
    seen = np.stack(best)[:, np.array([letter != "#" for letter in inside])]
    limits = float(seen.min()), float(seen.max())

    def pictures() -> Iterator[Any]:
        for i, table in enumerate(found):
            title = titles[i] if titles is not None else f"{i}"
            ax = draw(env, table, limits=limits, numbers=False, title=title)
            yield _pixels(ax.figure)

    path.parent.mkdir(parents=True, exist_ok=True)
    video.write_gif(path, pictures(), fps)
    return path


def _world(env: Any) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """-> rows of the map, (down, right) of each action"""
    name = type(env).__name__
    while not hasattr(env, "drawn") and hasattr(env, "env"):
        env = env.env
    if not hasattr(env, "drawn"):
        raise TypeError(
            f"{name} has no map to draw values on: give a gridworld, such as "
            'jaxrl.envs.make("FrozenLake-v1") or jaxrl.envs.Gridworld(rows).'
        )
    return env.drawn(), env.moves


def _read(table: Any, policy: Any, cells: int, actions: int) -> tuple[np.ndarray, Any]:
    """-> a value for each cell; None, or [cells, actions]: how long each arrow is"""
    table = np.asarray(table, np.float64)
    if table.shape not in ((cells,), (cells, actions)):
        raise ValueError(
            f"table has shape {table.shape}; the map has {cells} cells: give [{cells}] values or "
            f"[{cells}, {actions}] action values, of one run."
        )
    arrows = None
    values = table
    if table.ndim == 2:
        values = table.max(-1)
        tie = TIE * max(1e-30, float(np.abs(table).max()))
        arrows = (table >= values[:, None] - tie).astype(float)
        arrows[arrows.all(-1)] = 0  # all the same: nothing is known there
    if policy is not None:
        policy = np.asarray(policy)
        if policy.shape == (cells,):
            policy = np.eye(actions)[policy.astype(int)]
        if policy.shape != (cells, actions):
            raise ValueError(
                f"policy has shape {policy.shape}: give [{cells}] actions or [{cells}, {actions}] "
                "probabilities."
            )
        arrows = policy.astype(float)
    return values, arrows


def _arrows(ax: Any, lengths: np.ndarray, moves: Any, hidden: np.ndarray, light: Any) -> None:
    for m, (down, right) in enumerate(moves):
        some = (lengths[..., m] > 0.01) & ~hidden
        row, column = np.nonzero(some)
        if (down, right) == (0, 0):
            ax.plot(column, row, "o", color=palette.ORANGE, markersize=3)
            continue
        size = 0.42 * lengths[some][:, m] / np.hypot(down, right)
        color = np.where(light[some], palette.INK, palette.PAPER)
        ax.quiver(
            column, row, right * size, down * size, color=color, angles="xy", scale_units="xy",
            scale=1.0, width=0.05, units="x", headwidth=4, headlength=4, headaxislength=3.6,
        )  # fmt: skip


def _square(column: int, row: int, color: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="none")


@functools.cache
def _canvas() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return FigureCanvasAgg


def _pixels(figure: Any) -> np.ndarray:
    figure.set_facecolor(palette.PAPER)
    canvas = _canvas()(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
