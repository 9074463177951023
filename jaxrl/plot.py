"""Learning curves: with the band of their uncertainty, as a fan of all runs, several compared.

matplotlib is imported only when one is drawn. All pictures have the same look: `dress` gives it to
axes, the colours are those of `jaxrl.palette`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl import palette
from jaxrl.statistics import middle_half

if TYPE_CHECKING:
    from jaxrl.result import Result

SIZE = (6.4, 4.0)
DPI = 150

MANY = 200
"""Runs from which on intervals are computed without a bootstrap."""

THIN = 256
"""Runs of a fan that are drawn: more are one grey area."""

MIDDLE = "jaxrl-middle"
"""Marks the line of each curve."""

LABELS = {
    "episode/return": "return per episode",
    "episode/length": "episode length (steps)",
    "episode/count": "episodes",
    "evaluate/return": "return per episode without exploration",
    "policy/entropy": "policy entropy (nats)",
    "policy/kl": "change of the policy, KL (nats)",
    "time/seconds": "time (s)",
    "time/steps_per_second": "speed (steps/s)",
}


def label_of(metric: str) -> str:
    """What a metric is, with its unit: "loss/value" is "value loss"."""
    kind, _, name = metric.partition("/")
    words = name.replace("_", " ")
    return LABELS.get(metric, f"{words} loss" if kind == "loss" and name else metric)


def band(values: np.ndarray, samples: int = 500, seed: int = 0) -> tuple[np.ndarray, ...]:
    """IQM over runs [R, P] and its 95 % bootstrap interval, at each point; NaN where no run has
    a value."""
    rng = np.random.default_rng(seed)
    middle, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    for p in range(values.shape[1]):
        scores = values[:, p][~np.isnan(values[:, p])]
        n = len(scores)
        if n == 0:
            continue
        weight = middle_half(n)
        middle[p] = np.sort(scores) @ weight
        if n > MANY:
            # The normal approximation: the bootstrap would say the same, and take minutes.
            low[p], high[p] = middle[p] + 1.96 * _error(scores) * np.array([-1, 1])
            continue
        draws = np.sort(scores[rng.integers(0, n, (samples, n))], 1)
        low[p], high[p] = np.quantile(draws @ weight, (0.025, 0.975))
    return middle, low, high


def _error(scores: np.ndarray) -> float:
    """The standard error of an interquartile mean (Tukey and McLaughlin, 1963): that of the scores
    with both outer quarters moved to the quartiles, divided by the share that is left."""
    moved = np.clip(scores, *np.quantile(scores, (0.25, 0.75)))
    return float(moved.std(ddof=1) / (0.5 * np.sqrt(len(scores))))


# ------------------------------------------------------------------------------------- the look


def axes(size: tuple[float, float] = SIZE) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").add_subplot()


def dress(ax: Any, title: str = "", grid: str = "y") -> None:
    """The look that all pictures have."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(palette.GREY)
    ax.tick_params(colors=palette.GREY, labelcolor=palette.INK, labelsize=9)
    ax.xaxis.label.set_color(palette.INK)
    ax.yaxis.label.set_color(palette.INK)
    if grid:
        ax.grid(axis=grid, color=palette.FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    if title:
        ax.set_title(title, fontsize=9, color=palette.GREY, loc="left")


def steps_axis(ax: Any, runs: int) -> None:
    from matplotlib.ticker import EngFormatter

    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel("environment steps" + " of each run" * (runs > 1))


def save(ax: Any, path: str | Path | None) -> Any:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        ax.figure.savefig(path, dpi=DPI, facecolor=palette.PAPER)
    return ax


def series(i: int) -> dict[str, Any]:
    """Colour and stroke of the i-th curve of a picture."""
    count = len(palette.SERIES)
    stroke = palette.STROKES[i // count % len(palette.STROKES)]
    return {"color": palette.SERIES[i % count], "linestyle": stroke}


# --------------------------------------------------------------------------------------- curves


def curve(
    steps: np.ndarray,
    values: np.ndarray,
    metric: str,
    *,
    label: str = "",
    path: str | Path | None = None,
    ax: Any = None,
    fan: bool = False,
) -> Any:
    """The curve of runs [runs, points]: their interquartile mean, and around it the 95 % bootstrap
    band or, as a fan, every run. Drawn into axes that hold curves it takes the next colour."""
    ax = axes() if ax is None else ax
    style = series(sum(line.get_gid() == MIDDLE for line in ax.get_lines()))
    middle, low, high = band(values)
    runs = len(values)
    seen = ~np.isnan(middle)
    if runs > 1 and fan:
        alpha = min(0.6, max(0.1, 8 / runs))
        for row in values[:THIN]:
            some = ~np.isnan(row)
            ax.plot(steps[some], row[some], color=style["color"], alpha=alpha, linewidth=0.7)
    elif runs > 1:
        ax.fill_between(
            steps[seen], low[seen], high[seen], color=style["color"], alpha=0.22, linewidth=0
        )
    label = f"{label}, {runs} runs" if label and runs > 1 else label
    marker = "o" if seen.sum() == 1 else ""
    wide = 2.6 if fan and runs > 1 else 1.8
    (line,) = ax.plot(
        steps[seen], middle[seen], label=label, linewidth=wide, marker=marker, **style
    )
    line.set_gid(MIDDLE)
    around = "every run" if fan else "95% bootstrap band"
    dress(ax, f"interquartile mean and {around}" if runs > 1 else "")
    steps_axis(ax, runs)
    ax.set_ylabel(label_of(metric))
    if label:
        ax.legend(loc="best", frameon=False, fontsize=9, labelcolor=palette.INK)
    return save(ax, path)


def rows(result: Result, metric: str, where: str = "") -> tuple[np.ndarray, np.ndarray]:
    """-> steps [points], values [runs, points]"""
    if metric not in result.metrics:
        raise ValueError(
            f"metric={metric!r} is unknown{where}; there are {sorted(result.metrics)}."
        )
    values = np.atleast_2d(np.asarray(result.metrics[metric], np.float64))
    return np.atleast_2d(np.asarray(result.steps))[0], values


def compare(
    results: Mapping[str, Result],
    path: str | Path | None = None,
    metric: str = "episode/return",
    *,
    ax: Any = None,
    fan: bool = False,
) -> Any:
    """Several results in one picture, by name: `compare({"PPO": one, "DQN": other})`. Each may have
    its own number of runs and of steps. -> the matplotlib axes."""
    if not isinstance(results, Mapping) or not results:
        raise TypeError('results must name what is compared: {"PPO": one, "DQN": other}.')
    ax = axes() if ax is None else ax
    found = {name: rows(result, metric, f" to {name!r}") for name, result in results.items()}
    for name, (steps, values) in found.items():
        curve(steps, values, metric, label=name, ax=ax, fan=fan)
    return save(ax, path)
