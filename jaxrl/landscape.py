"""Pictures of sweeps: over one field a line with its band, over two a heat map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl import palette, plot
from jaxrl.statistics import bootstrap_interval, iqm

if TYPE_CHECKING:
    from jaxrl.sweep import Sweep

COLORS = "cividis"
"""From dark to light, and the same to colour-blind eyes."""

SPAN = 10.0
"""A logarithmic axis is for values of which the largest is this many times the smallest."""


def draw(
    sweep: Sweep,
    path: str | Path | None,
    metric: str,
    at: Mapping[str, Any] | None,
    ax: Any,
) -> Any:
    known = sorted(sweep[0].metrics)
    if metric not in known:
        raise ValueError(f"metric={metric!r} is unknown; there are {known}.")
    chosen = _chosen(sweep, dict(at or {}))
    settings = [sweep.settings[i] for i in chosen]
    values = {name: _distinct([s[name] for s in settings]) for name in settings[0]}
    fields = [name for name, different in values.items() if len(different) > 1]
    scores = sweep.scores(metric)[chosen]  # [settings, seeds]
    if len(fields) == 1:
        ax = _line(fields[0], [s[fields[0]] for s in settings], scores, metric, ax)
    elif len(fields) == 2:
        ax = _heat(settings, fields, values, scores, metric, ax)
    else:
        first = f"{fields[-1]!r}: {_text(values[fields[-1]][0])}" if fields else ""
        hint = f"hold some of them: plot(at={{{first}}}), or read" if fields else "read"
        raise ValueError(
            f"this sweep varies {len(fields)} fields ({', '.join(fields) or 'none'}), and a "
            f"picture shows one or two: {hint} sweep.table()."
        )
    return plot.save(ax, path)


def _chosen(sweep: Sweep, at: dict[str, Any]) -> list[int]:
    for name, value in at.items():
        if name not in sweep.settings[0]:
            raise ValueError(
                f"at names {name!r}; the sweep is over {', '.join(sweep.settings[0])}."
            )
        there = _distinct([s[name] for s in sweep.settings])
        if value not in there:
            raise ValueError(
                f"at={{{name!r}: {_text(value)}}} is not in the sweep, which has "
                f"{', '.join(map(_text, there))}."
            )
    return [i for i, s in enumerate(sweep.settings) if all(s[n] == v for n, v in at.items())]


def _distinct(values: list[Any]) -> list[Any]:
    """Each once; numbers in order, others as they came."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return sorted(found) if all(_is_number(x) for x in found) else found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return getattr(value, "__name__", None) or str(value)


def logarithmic(values: list[Any]) -> bool:
    """Whether the steps between positive numbers are more even as factors than as differences."""
    if not all(_is_number(x) and x > 0 for x in values) or max(values) < SPAN * min(values):
        return False
    ordered = np.sort(np.asarray(values, float))

    def uneven(x: np.ndarray) -> float:
        gaps = np.diff(x)
        return float(gaps.std() / gaps.mean())

    return len(ordered) == 2 or uneven(np.log(ordered)) < uneven(ordered)


def _line(name: str, values: list[Any], scores: np.ndarray, metric: str, ax: Any) -> Any:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ax = plot.axes() if ax is None else ax
    numbers = all(_is_number(x) for x in values)
    order = np.argsort(values) if numbers else np.arange(len(values))
    x = np.array(values, float)[order] if numbers else np.arange(len(values), dtype=float)
    color, seeds = palette.SERIES[0], scores.shape[1]
    rows = scores[order]
    known = [row[~np.isnan(row)] for row in rows]
    middle = np.array([iqm(row) if len(row) else np.nan for row in known])
    band = [bootstrap_interval(r, iqm, samples=500) if len(r) else (np.nan,) * 2 for r in known]
    low, high = np.array(band).T
    if seeds > 1:
        for row in rows.T:
            ax.plot(x, row, "o", color=color, alpha=0.25, markersize=3, markeredgewidth=0)
    if numbers:
        if seeds > 1:
            ax.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0)
        ax.plot(x, middle, "-o", color=color, markersize=5, linewidth=1.8)
    else:
        ax.errorbar(x, middle, (middle - low, high - middle), fmt="o", color=color, capsize=3)
        ax.margins(x=0.2)
    if logarithmic(list(x)):
        ax.set_xscale("log")
    if len(x) <= 10:
        names = [_text(values[i]) for i in order]
        ax.xaxis.set_major_locator(FixedLocator(x.tolist()))
        ax.xaxis.set_major_formatter(FixedFormatter(names))
        ax.xaxis.set_minor_locator(NullLocator())
        if sum(map(len, names)) > 50:
            ax.tick_params(axis="x", rotation=30)
    said = f"interquartile mean over {seeds} seeds, 95% bootstrap band, and every seed"
    plot.dress(ax, said if seeds > 1 else "")
    ax.set_xlabel(name)
    ax.set_ylabel(plot.label_of(metric))
    return ax


def _heat(
    settings: list[dict[str, Any]],
    fields: list[str],
    values: dict[str, list[Any]],
    scores: np.ndarray,
    metric: str,
    ax: Any,
) -> Any:
    across, up = fields
    columns, rows = values[across], values[up]
    cells = np.full((len(rows), len(columns)), np.nan)
    for setting, row in zip(settings, scores, strict=True):
        known = row[~np.isnan(row)]
        place = rows.index(setting[up]), columns.index(setting[across])
        cells[place] = iqm(known) if len(known) else np.nan
    if ax is None:
        ax = plot.axes((2.2 + 0.75 * len(columns), 1.4 + 0.5 * len(rows)))
    image = ax.imshow(cells, cmap=COLORS, origin="lower", aspect="auto")
    ax.set_facecolor(palette.FAINT)
    ax.set_xticks(range(len(columns)), [_text(x) for x in columns])
    ax.set_yticks(range(len(rows)), [_text(x) for x in rows])
    if cells.size <= 120:
        for (i, j), value in np.ndenumerate(cells):
            red, green, blue, _ = image.cmap(image.norm(value))
            light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
            text = "-" if np.isnan(value) else f"{value:.3g}"
            color = palette.INK if light or np.isnan(value) else palette.PAPER
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color=color)
    if not np.isnan(cells).all():
        from matplotlib.patches import Rectangle

        i, j = np.unravel_index(np.nanargmax(cells), cells.shape)
        ax.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=palette.RED, linewidth=2.5)
        )
    seeds = scores.shape[1]
    plot.dress(ax, f"interquartile mean over {seeds} seeds" if seeds > 1 else "", grid="")
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, ax=ax, label=plot.label_of(metric))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=palette.GREY, labelcolor=palette.INK, labelsize=9)
    ax.set_xlabel(across)
    ax.set_ylabel(up)
    return ax
