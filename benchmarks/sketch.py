"""What the pictures of the book's figures have in common."""

from __future__ import annotations

from typing import Any

from jaxrl import palette, plot

SIZE = (6.4, 3.6)


def some(count: int, share: float) -> int:
    return max(2, round(count * share))


def frame(title: str, x: str, y: str) -> Any:
    ax = plot.axes(SIZE)
    plot.dress(ax, title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    return ax


def line(ax: Any, x: Any, y: Any, label: str, i: int, **style: Any) -> None:
    ax.plot(x, y, label=label, linewidth=1.6, **{**plot.series(i), **style})


def known(ax: Any, value: float, text: str, i: int) -> None:
    """A level that is known, in the colour of its curve."""
    color = palette.SERIES[i]
    ax.axhline(value, color=color, linewidth=0.9, linestyle=":")
    ax.annotate(
        text, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 2), ha="right",
        textcoords="offset points", fontsize=8, color=color,
    )  # fmt: skip


def legend(ax: Any, **options: Any) -> Any:
    ax.legend(frameon=False, fontsize=8, labelcolor=palette.INK, **options)
    return ax
