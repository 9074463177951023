"""Pictures of results. matplotlib is imported only when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.statistics import iqm


def band(values: np.ndarray, samples: int = 500, seed: int = 0) -> tuple[np.ndarray, ...]:
    """IQM over runs [R, P] and its 95 % bootstrap interval, at each point; NaN where no run has
    a value."""
    rng = np.random.default_rng(seed)
    middle, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    for p in range(values.shape[1]):
        scores = values[:, p][~np.isnan(values[:, p])]
        if len(scores) == 0:
            continue
        middle[p] = iqm(scores)
        draws = np.sort(scores[rng.integers(0, len(scores), (samples, len(scores)))], 1)
        cut = len(scores) // 4
        means = draws[:, cut : len(scores) - cut].mean(1)
        low[p], high[p] = np.quantile(means, (0.025, 0.975))
    return middle, low, high


def curve(
    steps: np.ndarray,
    values: np.ndarray,
    metric: str,
    *,
    label: str = "",
    path: str | Path | None = None,
    ax: Any = None,
) -> Any:
    """One curve [runs, points] with its confidence band and, faintly, every run."""
    from matplotlib.figure import Figure

    if ax is None:
        ax = Figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
    middle, low, high = band(values)
    runs = len(values)
    seen = ~np.isnan(middle)
    (line,) = ax.plot(steps[seen], middle[seen], label=f"{label} ({runs} run{'s' * (runs > 1)})")
    if runs > 1:
        for row in values[:32]:
            some = ~np.isnan(row)
            ax.plot(steps[some], row[some], color=line.get_color(), alpha=0.12, linewidth=0.6)
        ax.fill_between(steps[seen], low[seen], high[seen], color=line.get_color(), alpha=0.3)
        ax.set_title("interquartile mean over runs, 95% bootstrap band", fontsize=9)
    ax.set_xlabel("environment steps per run")
    ax.set_ylabel(metric)
    ax.grid(alpha=0.3)
    if label:
        ax.legend(loc="best")
    if path is not None:
        ax.figure.savefig(path, dpi=150)
    return ax
