"""Figure 2.2: the ten-armed testbed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import book_bandit
from benchmarks.sketch import frame, known, legend, line, some


def figure_2_2(share: float = 1.0) -> Any:
    """How often epsilon-greedy methods choose the best of ten arms."""
    count = some(2000, share)
    means = jax.random.normal(jax.random.key(7), (count, 10))
    ax = frame(f"epsilon-greedy with averages, {count:,} runs", "pull", "share of the best arm")
    for i, (epsilon, level) in enumerate(((0.0, 0.344), (0.01, 0.595), (0.1, 0.794))):
        agent = book_bandit.epsilon(epsilon).agent
        keys = book_bandit.keys(count)
        _, best, _ = book_bandit.play(agent, book_bandit.ten, means, keys, 1000)
        line(ax, np.arange(1, 1001), np.asarray(best).mean(0), f"epsilon = {epsilon:g}", i)
        known(ax, level, f"a NumPy loop, pulls 901 to 1000: {level}", i)
    ax.set_ylim(0, 1)
    return legend(ax, loc="upper left")


FIGURES: dict[str, Callable[[float], Any]] = {"2.2": figure_2_2}
