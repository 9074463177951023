"""Figures of chapters 6, 7, 8 and 12: learning with tables."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from benchmarks import book
from benchmarks.sketch import frame, known, legend, line, some
from jaxrl import palette, random
from jaxrl.behaviour import EpsilonGreedy

RATES = np.round(np.arange(0.05, 1.001, 0.05), 2)


def grid(
    agent: Any, env: Any, field: str, values: Sequence[float], count: int, episodes: int,
    **options: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """`count` runs with each value of a field, all in one program: [values, runs, episodes]."""
    total = count * len(values)
    agents = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (total,)), agent)
    column = jnp.repeat(jnp.asarray(values, jnp.float32), count)
    agents = dataclasses.replace(agents, **{field: column})
    keys = random.unrolled(jax.random.split(jax.random.key(2026), total))
    found = book.by_episode(agents, env, keys, episodes, **options)
    return {k: np.asarray(v).reshape(len(values), count, -1) for k, v in found.items()}


# ---------------------------------------------------------------------------- temporal differences


@functools.partial(jax.jit, static_argnames=("episodes",))
def batches(env: Any, key: jax.Array, episodes: int) -> tuple[jax.Array, jax.Array]:
    """After each episode of a random walk the values [episodes, 5] on which batch TD(0) and batch
    constant-step Monte Carlo settle: TD's are right for the walk that was seen (transition by
    transition), Monte Carlo's are the mean of the returns that were seen."""
    size = env.obs_space.n

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, obs, key, seen, visits, paid, _ = carry
        key, now = jax.random.split(key)
        state, out = env.step(state, jnp.zeros((), jnp.int32), now)
        goes = jnp.where(out.terminated, 0.0, 1.0)
        seen = seen.at[obs, out.obs].add(goes)
        visits = visits.at[obs].add(1.0)
        paid = paid.at[obs].add(out.reward)
        return state, out.obs, key, seen, visits, paid, out.terminated

    def episode(carry: tuple[Any, ...], key: jax.Array) -> tuple[Any, Any]:
        seen, all_visits, paid, returns = carry
        state, obs = env.reset(jax.random.fold_in(key, 0))
        none = jnp.zeros(size)
        start = (state, obs, key, seen, none, paid, jnp.zeros((), bool))
        before = jnp.sum(paid)
        *_, seen, visits, paid, _ = jax.lax.while_loop(lambda c: ~c[-1], step, start)
        all_visits = all_visits + visits
        returns = returns + visits * (jnp.sum(paid) - before)  # only the last step pays
        known = all_visits > 0
        matrix = jnp.diag(jnp.where(known, all_visits, 1.0)) - seen
        td = jnp.linalg.solve(matrix, jnp.where(known, paid, 0.5))
        mc = jnp.where(known, returns / jnp.maximum(all_visits, 1.0), 0.5)
        return (seen, all_visits, paid, returns), (td, mc)

    zero = (jnp.zeros((size, size)), jnp.zeros(size), jnp.zeros(size), jnp.zeros(size))
    return jax.lax.scan(episode, zero, jax.random.split(key, episodes))[1]


def figure_6_2(share: float = 1.0) -> Any:
    """Batch updating on the five-state walk, 100 runs."""
    env = jaxrl.envs.make("RandomWalk5-v0")
    keys = random.unrolled(jax.random.split(jax.random.key(2026), some(100, share)))
    found = jax.vmap(lambda key: batches(env, key, 100))(keys)
    truth = np.arange(1, 6) / 6
    ax = frame(f"batch training, {len(keys)} runs", "walks / episodes", "RMS error over states")
    for i, (name, values) in enumerate(zip(("TD(0)", "Monte Carlo"), found, strict=True)):
        error = np.sqrt(np.mean((np.asarray(values)[..., 1:6] - truth) ** 2, -1)).mean(0)
        line(ax, np.arange(1, 101), error, name, i)
    ax.set_ylim(0, 0.26)
    return legend(ax)


CONTROL = {
    "SARSA": jaxrl.SARSA, "Q-learning": jaxrl.QLearning, "Expected SARSA": jaxrl.ExpectedSARSA,
}  # fmt: skip


def figure_6_3(share: float = 1.0) -> Any:
    """Cliff walking: first 100 episodes and the long run, over step sizes."""
    env = jaxrl.envs.make("CliffWalking-v1")
    rates = np.round(np.arange(0.1, 1.001, 0.1), 2)
    early, late, episodes = some(200, share), some(10, share), some(2000, share)
    ax = frame(
        f"first 100 episodes ({early} runs, dashed), all of {episodes:,} ({late} runs)",
        "step size", "return per episode",
    )  # fmt: skip
    for i, (name, kind) in enumerate(CONTROL.items()):
        agent = kind(gamma=1.0, exploration=EpsilonGreedy(0.1))
        first = grid(agent, env, "lr", rates.tolist(), early, 100)["return"].mean((1, 2))
        long = grid(agent, env, "lr", rates.tolist(), late, episodes)["return"].mean((1, 2))
        line(ax, rates, first, "", i, linestyle="--", marker="v", markersize=4)
        line(ax, rates, long, name, i, marker="o", markersize=4)
    ax.set_ylim(-160, 0)
    return legend(ax)


def cliff(share: float = 1.0) -> Any:
    """Example 6.6: returns while learning, lr 0.5, epsilon 0.1."""
    env, count = jaxrl.envs.make("CliffWalking-v1"), some(200, share)
    ax = frame(f"cliff walking, mean of {count} runs", "episode", "return")
    levels = {"SARSA": -27.3, "Q-learning": -49.9, "Expected SARSA": -21.1}
    for i, (name, kind) in enumerate(CONTROL.items()):
        agent = kind(lr=0.5, gamma=1.0, exploration=EpsilonGreedy(0.1))
        returns = book.runs(agent, env, count, 500)["return"].mean(0)
        smooth = np.convolve(np.pad(returns, 5, mode="edge"), np.ones(11) / 11, "valid")
        line(ax, np.arange(1, 501), smooth, name, i)
        known(ax, levels[name], f"known {levels[name]}", i)
    ax.set_ylim(-100, 0)
    return legend(ax, loc="lower center", ncols=3)


def figure_6_5(share: float = 1.0) -> Any:
    """Maximisation bias: how often the first action is "left", which is the worse one."""
    env, count = jaxrl.envs.make("MaximizationBias-v0"), some(10_000, share)
    ax = frame(f"maximisation bias, {count:,} runs", "episode", "share of left")
    options = {"Q-learning": (jaxrl.QLearning, 0.119), "Double": (jaxrl.DoubleQLearning, 0.069)}
    for i, (name, (kind, level)) in enumerate(options.items()):
        agent = kind(lr=0.1, gamma=1.0, exploration=EpsilonGreedy(0.1))
        left = 1.0 - book.runs(agent, env, count, 300)["first"].mean(0)
        line(ax, np.arange(1, 301), left, name, i)
        known(ax, level, f"known at 300: {level}", i)
    ax.axhline(0.05, color=palette.GREY, linewidth=1)
    ax.text(2, 0.055, "best with epsilon 0.1: 0.05", fontsize=8, color=palette.GREY)
    ax.set_ylim(0, 1)
    return legend(ax)


def walk(
    title: str, agents: dict[str, Any], best: float, share: float, rates: np.ndarray = RATES
) -> Any:
    """The 19-state walk: error over the first ten episodes, by step size."""
    env, count = jaxrl.envs.make("RandomWalk19-v0"), some(100, share)
    ax = frame(f"{title}, {count} runs", "step size", "RMS error, first 10 episodes")
    for i, (name, agent) in enumerate(agents.items()):
        error = grid(agent, env, "lr", rates.tolist(), count, 10, measure=book.rms)["measure"]
        line(ax, rates, error.mean((1, 2)), name, i)
    known(ax, best, f"known best {best}", 6)
    ax.set_ylim(0.24, 0.56)
    return legend(ax, ncols=2)


LAMBDAS = (0.0, 0.4, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0)


def figure_7_2(share: float = 1.0) -> Any:
    """n-step TD."""
    agents = {f"n = {n}": jaxrl.TD(gamma=1.0, n_steps=n) for n in (1, 2, 4, 8, 16, 32, 64, 128)}
    return walk("n-step TD on 19 states", agents, 0.268, share)


def by_lambda(kind: Callable[..., Any]) -> dict[str, Any]:
    return {f"lambda = {lam:g}": kind(gamma=1.0, lam=lam) for lam in LAMBDAS}


def figure_12_3(share: float = 1.0) -> Any:
    """The off-line lambda-return."""
    return walk("off-line lambda-return", by_lambda(book.offline), 0.267, share)


def figure_12_6(share: float = 1.0) -> Any:
    """TD(lambda) with accumulating traces."""
    return walk("TD(lambda)", by_lambda(jaxrl.TDLambda), 0.267, share)


def figure_12_8(share: float = 1.0) -> Any:
    """True online TD(lambda)."""
    return walk("true online TD(lambda)", by_lambda(jaxrl.TrueOnlineTD), 0.259, share)


# ---------------------------------------------------------------------------------------- planning


def figure_8_2(share: float = 1.0) -> Any:
    """Dyna maze: steps of each episode with 0, 5 and 50 steps of planning."""
    env, count = jaxrl.envs.make("DynaMaze-v0"), some(300, share)
    ax = frame(f"Dyna-Q, {count} runs", "episode", "steps")
    for i, (planning, third) in enumerate(((0, 564), (5, 62), (50, 17))):
        agent = jaxrl.DynaQ(
            lr=0.1, gamma=0.95, exploration=EpsilonGreedy(0.1), planning_steps=planning
        )
        steps = book.runs(agent, env, count, 50)["length"].mean(0)
        label = f"{planning} steps of planning; episode 3: {steps[2]:.0f}, known {third}"
        line(ax, np.arange(2, 51), steps[1:], label, i)
    ax.axhline(14, color=palette.GREY, linewidth=1)
    ax.set_ylim(0, 800)
    return legend(ax)


def reward_over_time(name: str, steps: int, planning: int, kappa: float, share: float) -> Any:
    env, count = jaxrl.envs.make(name), some(30, share)
    ax = frame(f"{name}, {count} runs", "step", "reward so far")
    common = dict(
        lr=1.0, gamma=0.95, exploration=EpsilonGreedy(0.1), planning_steps=planning
    )  # fmt: skip
    agents = {"Dyna-Q+": jaxrl.DynaQPlus(kappa=kappa, **common), "Dyna-Q": jaxrl.DynaQ(**common)}
    keys = jax.random.split(jax.random.key(2026), count)
    for i, (label, agent) in enumerate(agents.items()):
        result = jaxrl.train(agent, env, keys, steps=steps, log_every=steps // 60, progress=False)
        paid = np.nan_to_num(result.metrics["episode/return"]) * result.metrics["episode/count"]
        line(ax, result.steps[0], np.cumsum(paid, -1).mean(0), label, i)
    return legend(ax)


def figure_8_4(share: float = 1.0) -> Any:
    """The way closes after 1000 steps, and a longer one opens."""
    ax = reward_over_time("BlockingMaze-v0", 3000, 10, 1e-3, share)
    ax.axvline(1000, color=palette.GREY, linewidth=1)
    return ax


def figure_8_5(share: float = 1.0) -> Any:
    """A shorter way opens after 3000 steps."""
    ax = reward_over_time("ShortcutMaze-v0", 6000, 50, 1e-3, share)
    ax.axvline(3000, color=palette.GREY, linewidth=1)
    return ax


FIGURES: dict[str, Callable[[float], Any]] = {
    "6.2": figure_6_2,
    "6.3": figure_6_3,
    "example-6.6": cliff,
    "6.5": figure_6_5,
    "7.2": figure_7_2,
    "8.2": figure_8_2,
    "8.4": figure_8_4,
    "8.5": figure_8_5,
    "12.3": figure_12_3,
    "12.6": figure_12_6,
    "12.8": figure_12_8,
}
