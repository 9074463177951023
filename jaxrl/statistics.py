"""Summaries of few, skewed numbers: what Agarwal et al. (2021) recommend for comparing runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def iqm(scores: np.ndarray) -> float:
    """Mean of the middle half: a quarter of the values is dropped at each end, fractionally.

    With n not a multiple of four the two border values count by the fraction of them that lies
    inside, so that the result has no jumps (scipy's `trim_mean` drops whole values instead).
    """
    ordered = np.sort(np.asarray(scores, np.float64).ravel())
    return float(ordered @ middle_half(len(ordered)))


def middle_half(n: int) -> np.ndarray:
    """[n]: how much each of n ordered values counts in their interquartile mean."""
    position = np.arange(n)
    # Value i occupies [i, i+1) of n; keep its overlap with [n/4, 3n/4).
    weight = np.clip(np.minimum(position + 1, 0.75 * n) - np.maximum(position, 0.25 * n), 0, 1)
    return weight / weight.sum()


def bootstrap_interval(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval, resampling the first axis within each column.

    `scores` [n] or [n, tasks]: every task is a stratum that is resampled on its own.
    """
    scores = np.asarray(scores, np.float64)
    columns = scores.reshape(len(scores), -1)
    rng = np.random.default_rng(seed)
    n, tasks = columns.shape
    draws = np.empty(samples)
    for i in range(samples):
        index = rng.integers(0, n, (n, tasks))
        draws[i] = statistic(np.take_along_axis(columns, index, 0))
    tail = (1 - level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)
