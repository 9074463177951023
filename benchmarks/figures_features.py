"""Figures of chapters 10 and 12: MountainCar with tile coding, 8 tilings of 8 x 8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxrl
from benchmarks import book_linear
from benchmarks.sketch import frame, known, legend, line, some
from jaxrl import eligibility, plot, random
from jaxrl.behaviour import EpsilonGreedy

CAR = jaxrl.envs.MountainCar()  # without a time limit
COMMON: dict[str, Any] = dict(
    features=book_linear.CAR_TILES, gamma=1.0, exploration=EpsilonGreedy(0.0)
)
MOST = 40_000
"""Steps of a run at most: with a step size that is too large some never end."""


def steps(
    agent: Any, rates: Sequence[float], count: int, episodes: int, most: int = MOST
) -> np.ndarray:
    """Of each episode, [rates, runs, episodes], all in one program. A run that takes longer than
    `most` is stopped: over 50 episodes its mean is then 800, more than any picture shows."""
    total = count * len(rates)
    agents = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (total,)), agent)
    agents = dataclasses.replace(agents, lr=jnp.repeat(jnp.asarray(rates, jnp.float32), count))
    keys = random.unrolled(jax.random.split(jax.random.key(2026), total))
    length, _ = book_linear.by_episode(agents, CAR, keys, episodes, most=most)
    return np.asarray(length, np.float64).reshape(len(rates), count, episodes)


def figure_10_1(share: float = 1.0) -> Any:
    """The cost to go, -max_a q, after some episodes of one run."""
    figure = Figure(figsize=(8.0, 2.9), layout="constrained")
    agent = jaxrl.LinearSARSA(lr=0.5, **COMMON)
    x, v = np.meshgrid(np.linspace(-1.2, 0.5, 80), np.linspace(-0.07, 0.07, 80))
    points = jnp.asarray(np.stack([x, v], -1).reshape(-1, 2), jnp.float32)
    axes = figure.subplots(1, 3)
    for ax, episodes in zip(axes, (12, 104, max(110, round(1000 * share))), strict=True):
        state = after(agent, episodes)
        cost = -np.asarray(agent.q(state.weights, agent.features(CAR.obs_space, points)).max(-1))
        image = ax.pcolormesh(x, v, cost.reshape(x.shape), cmap="cividis", rasterized=True)
        figure.colorbar(image, ax=ax)
        plot.dress(ax, f"after {episodes} episodes", grid="")
        ax.set_xlabel("position")
    axes[0].set_ylabel("velocity")
    return axes[0]


def after(agent: Any, episodes: int) -> Any:
    """The state of one run after so many episodes."""
    seen = 0.0
    for state, metrics in jaxrl.stream(agent, CAR, jax.random.key(5), steps=400_000, log_every=500):
        seen += float(metrics["episode/count"])
        if seen >= episodes:
            return state
    raise RuntimeError(f"only {seen:.0f} of {episodes} episodes ended")


def curves(title: str, agents: dict[str, Any], count: int, episodes: int) -> Any:
    ax = frame(f"{title}, {count} runs", "episode", "steps")
    for i, (name, agent) in enumerate(agents.items()):
        every = steps(agent, [float(agent.lr)], count, episodes, most=1_000_000)
        mean = every[0].mean(0)
        line(ax, np.arange(1, episodes + 1), mean, name, i)
    ax.set_yscale("log")
    return legend(ax)


def figure_10_2(share: float = 1.0) -> Any:
    """Semi-gradient SARSA with three step sizes."""
    agents = {f"alpha = {a}/8": jaxrl.LinearSARSA(lr=a, **COMMON) for a in (0.1, 0.2, 0.5)}
    return curves("semi-gradient SARSA", agents, some(100, share), some(200, share))


def figure_10_3(share: float = 1.0) -> Any:
    """One step against eight."""
    agents = {
        "n = 1, alpha = 0.5/8": jaxrl.LinearSARSA(lr=0.5, **COMMON),
        "n = 8, alpha = 0.3/8": jaxrl.LinearSARSA(lr=0.3, n_steps=8, **COMMON),
    }
    return curves("n-step SARSA", agents, some(100, share), some(200, share))


def by_rate(title: str, agents: dict[str, Any], rates: Sequence[float], count: int) -> Any:
    """Steps per episode, mean of the first 50, over step sizes."""
    ax = frame(f"{title}, {count} runs", "alpha x number of tilings", "steps, first 50 episodes")
    for i, (name, agent) in enumerate(agents.items()):
        mean = steps(agent, rates, count, 50).mean((1, 2))
        line(ax, rates, mean, name, i, marker="o", markersize=3)
    ax.set_ylim(160, 320)
    return legend(ax, ncols=2)


def figure_10_4(share: float = 1.0) -> Any:
    """n-step SARSA over step sizes."""
    agents = {f"n = {n}": jaxrl.LinearSARSA(n_steps=n, **COMMON) for n in (1, 2, 4, 8, 16)}
    rates = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4)
    return by_rate("n-step SARSA", agents, rates, some(30, share))


def figure_12_10(share: float = 1.0) -> Any:
    """SARSA(lambda) over step sizes, traces that are replaced, those of other actions cleared."""
    agents = {
        f"lambda = {lam:g}": jaxrl.LinearSARSALambda(
            lam=lam, kind=eligibility.clearing_trace, **COMMON
        )
        for lam in (0.0, 0.68, 0.84, 0.92, 0.96, 0.99)
    }
    rates = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7)
    ax = by_rate("SARSA(lambda)", agents, rates, some(30, share))
    known(ax, 192, "known for lambda = 0.96: 192", 4)
    return ax


def figure_12_11(share: float = 1.0) -> Any:
    """Four kinds of traces."""
    kinds = {
        "true online": jaxrl.LinearTrueOnlineSARSA(lam=0.9, **COMMON),
        "replacing, others cleared": jaxrl.LinearSARSALambda(
            lam=0.9, kind=eligibility.clearing_trace, **COMMON
        ),
        "replacing": jaxrl.LinearSARSALambda(lam=0.9, kind=eligibility.replacing_trace, **COMMON),
        "accumulating": jaxrl.LinearSARSALambda(
            lam=0.9, kind=eligibility.accumulating_trace, **COMMON
        ),
    }
    rates = (0.2, 0.4, 0.6, 0.9, 1.1, 1.3, 1.5, 1.7)
    ax = by_rate("lambda = 0.9", kinds, rates, some(30, share))
    known(ax, 181, "known for true online: 181", 0)
    return ax


FIGURES: dict[str, Callable[[float], Any]] = {
    "10.1": figure_10_1,
    "10.2": figure_10_2,
    "10.3": figure_10_3,
    "10.4": figure_10_4,
    "12.10": figure_12_10,
    "12.11": figure_12_11,
}
