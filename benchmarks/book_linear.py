"""Figures of Sutton and Barto's book with linear features: known values, and what we get.

    python -m benchmarks.book_linear              all of them, in a few minutes
    python -m benchmarks.book_linear car walk     some
    python -m benchmarks.book_linear --list

Results go to benchmarks/results/book_linear.json with a hardware stamp. `spread` is the standard
error of the mean over runs; a figure is reached within four of them and the last digit of what is
known.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from benchmarks.stamp import stamp
from jaxrl import cache, eligibility, features, random, rollout
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.features import Fourier, Polynomial, StateAggregation, TileCoding
from jaxrl.mdp import MDP
from jaxrl.types import Spec

RESULTS = Path(__file__).parent / "results" / "book_linear.json"
MOST = 1_000_000


@functools.partial(jax.jit, static_argnames=("episodes", "measure"))
def by_episode(
    agents: Any,
    env: Any,
    keys: jax.Array,
    episodes: int,
    measure: Callable[[jax.Array], jax.Array] | None = None,
    most: int = MOST,
) -> tuple[jax.Array, jax.Array]:
    """-> steps of each of the first episodes, and `measure` of the weights at its end, [runs,
    episodes]. `agents` has one setting per run; no run makes more than `most` steps."""
    spec = Spec(env.obs_space, env.action_space, env.time_limit, MOST)

    def begin(agent: Any, key: jax.Array) -> tuple[Any, ...]:
        one, two = jax.random.split(jax.random.fold_in(key, 2**31))
        streams = rollout.start(agent, env, one)
        found = jnp.zeros(episodes, jnp.int32), jnp.zeros(episodes)
        return agent.init(two, spec), streams, jnp.zeros((), jnp.int32), *found

    def step(carry: tuple[Any, ...], agent: Any, key: jax.Array, i: jax.Array) -> tuple[Any, ...]:
        state, streams, number, length, measured = carry
        play_key, update_key = jax.random.split(jax.random.fold_in(key, i))
        streams, played, _ = rollout.collect(agent, env, spec, state, streams, play_key, i)
        state, _ = agent.update(state, played, update_key)
        over = (played.terminated | played.truncated)[0, 0]
        length = length.at[number].add(1, mode="drop")
        if measure is not None:
            measured = measured.at[number].set(measure(state.weights.w), mode="drop")
        return state, streams, number + over, length, measured

    def go(loop: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        i, carry = loop
        return i + 1, jax.vmap(step, (0, 0, 0, None))(carry, agents, keys, i)

    def more(loop: tuple[jax.Array, Any]) -> jax.Array:
        i, carry = loop
        return (i < most) & jnp.any(carry[2] < episodes)

    zero = jnp.zeros((), jnp.int32)
    carry = jax.lax.while_loop(more, go, (zero, jax.vmap(begin)(agents, keys)))[1]
    return carry[3], carry[4]


def runs(agent: Any, env: Any, count: int, episodes: int, **options: Any) -> Any:
    """`count` runs of one setting."""
    agents = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count,)), agent)
    keys = random.unrolled(jax.random.split(jax.random.key(2026), count))
    found = by_episode(agents, env, keys, episodes, **options)
    return [np.asarray(x) for x in found]


def score(per_run: np.ndarray) -> tuple[float, float]:
    """-> mean, its standard error"""
    return float(per_run.mean()), float(per_run.std(ddof=1) / len(per_run) ** 0.5)


# -------------------------------------------------------------------------------- mountain car

CAR_TILES = TileCoding(8, 8, low=(-1.2, -0.07), high=(0.5, 0.07))


def car(agent: Callable[..., Any], count: int = 100, **fields: Any) -> tuple[float, float]:
    """Figures 12.10 and 12.11: steps per episode, mean of the first 50 episodes, no exploration but
    the optimistic start, 8 tilings of 8 x 8."""
    built = agent(features=CAR_TILES, gamma=1.0, exploration=EpsilonGreedy(0.0), **fields)
    length, _ = runs(built, jaxrl.envs.MountainCar(), count, 50, most=60_000)
    return score(length.mean(1))


CLEARING = functools.partial(jaxrl.LinearSARSALambda, kind=eligibility.clearing_trace)
REPLACING = functools.partial(jaxrl.LinearSARSALambda, kind=eligibility.replacing_trace)

# ------------------------------------------------------------------------------- the long walk


@functools.cache
def walk() -> tuple[np.ndarray, np.ndarray]:
    """Exact values of the 1000 places, and how often each is visited, both [1000]."""
    model = MDP.from_env(jaxrl.envs.LongWalk(), 1.0).dense()
    P = np.asarray(model.P, np.float64)[:, 0][1:1001, 1:1001]
    r = np.asarray(model.R, np.float64)[1:1001, 0]
    start = np.eye(1000)[499]
    visits = np.linalg.solve(np.eye(1000) - P.T, start)
    return np.linalg.solve(np.eye(1000) - P, r), visits / visits.sum()


def columns(basis: Any) -> np.ndarray:
    """The features of the 1000 places, [1000, n]."""
    space = jaxrl.envs.LongWalk().obs_space
    x = basis(space, jnp.arange(1, 1001))
    return np.asarray(features.dense(x, basis.size(space)), np.float64)


def best_fit(basis: Any) -> np.ndarray:
    """Where gradient Monte Carlo goes: the projection of the values."""
    (value, visits), x = walk(), columns(basis)
    return np.linalg.solve((x.T * visits) @ x, (x.T * visits) @ value)


def td_fixed_point(basis: Any) -> np.ndarray:
    """Where semi-gradient TD(0) goes: the same of the Bellman equation."""
    _, visits = walk()
    model = MDP.from_env(jaxrl.envs.LongWalk(), 1.0).dense()
    P = np.asarray(model.P, np.float64)[:, 0][1:1001, 1:1001]
    r, x = np.asarray(model.R, np.float64)[1:1001, 0], columns(basis)
    return np.linalg.solve((x.T * visits) @ (x - P @ x), (x.T * visits) @ r)


def loop(basis: Any, lr: float, count: int = 30, episodes: int = 5000) -> tuple[float, float]:
    """Gradient Monte Carlo in NumPy, an episode at a time; its error after the last one."""
    (value, visits), x, rng = walk(), columns(basis), np.random.default_rng(5)
    found = []
    for _ in range(count):
        w = np.zeros(x.shape[1])
        for _ in range(episodes):
            path, inside = np.array([500]), 0
            while inside == len(path) or not inside:  # until one jump leads out
                jumps = rng.integers(1, 101, 200) * rng.choice([-1, 1], 200)
                path = np.concatenate([path, path[-1] + np.cumsum(jumps)])
                out = (path < 1) | (path > 1000)
                inside = int(out.argmax()) if out.any() else len(path)
            g = 1.0 if path[inside] > 1000 else -1.0
            seen = x[path[:inside] - 1]
            w = w + lr * (g - seen @ w) @ seen
        found.append(np.sqrt(np.sum(visits * np.square(x @ w - value))))
    return score(np.array(found))


TEN = StateAggregation(10, low=1, high=1000)


def fixed_point(lam: float, count: int = 8, steps: int = 400_000) -> tuple[float, float]:
    """Figures 9.1 and 9.2: distance of w from where it goes, in ten groups of 100 places. LSTD has
    no step size in the way."""
    agent = jaxrl.LSTD(features=TEN, gamma=1.0, lam=lam, ridge=1e-2, num_steps=100)
    keys = jax.random.split(jax.random.key(3), count)
    run = jaxrl.train(agent, jaxrl.envs.LongWalk(), keys, steps=steps, progress=False)
    goal = td_fixed_point(TEN) if lam == 0 else best_fit(TEN)
    return score(np.abs(np.asarray(run.state.weights.w) - goal).max(1))


def monte_carlo(
    basis: Any, lr: float, count: int = 30, episodes: int = 5000
) -> tuple[float, float]:
    """Figure 9.5: root mean squared error after 5000 episodes of gradient Monte Carlo, here
    TD(1), which is the same for small step sizes; 30 runs."""
    agent = jaxrl.LinearTDLambda(features=Constant(basis), gamma=1.0, lam=1.0, lr=lr)
    x = jnp.asarray(columns(basis), jnp.float32)
    value, visits = (jnp.asarray(a, jnp.float32) for a in walk())

    def measure(w: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(visits * jnp.square(x @ w - value)))

    _, error = runs(agent, jaxrl.envs.LongWalk(), count, episodes, measure=measure)
    return score(error[:, -1])


@dataclasses.dataclass(frozen=True)
class Constant:
    """A basis without the step sizes it has of its own: the book has one for all features."""

    basis: Any

    def rates(self, space: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.basis, name)

    def __call__(self, space: Any, obs: Any) -> Any:
        return self.basis(space, obs)


FOURIER = Fourier(5, low=0.0, high=1000.0)
POLYNOMIAL = Polynomial(5, low=0.0, high=1000.0)


def known(value: float | None, digit: float) -> Callable[[], tuple[float | None, float]]:
    return lambda: (value, digit)


def noisy(measured: tuple[float, float]) -> tuple[float | None, float]:
    """A reference that was measured: four of its standard errors are allowed."""
    return measured[0], 4 * measured[1]


Row = tuple[Callable[[], tuple[float, float]], Callable[[], tuple[float | None, float]]]

FIGURES: dict[str, Row] = {
    "car SARSA(.96), clearing": (lambda: car(CLEARING, lam=0.96, lr=1.3), known(192, 0.5)),
    "car true online SARSA(.9)": (
        lambda: car(jaxrl.LinearTrueOnlineSARSA, lam=0.9, lr=1.3),
        known(181, 0.5),
    ),
    "car SARSA(.96), replacing": (
        lambda: car(REPLACING, lam=0.96, lr=1.3),
        known(None, 0.0),  # for comparison
    ),
    "walk groups, TD fixed point": (lambda: fixed_point(0.0), known(0.0, 0.05)),
    "walk groups, best fit": (lambda: fixed_point(1.0), known(0.0, 0.05)),
    "walk Fourier 5": (
        lambda: monte_carlo(FOURIER, 5e-5),
        lambda: noisy(loop(FOURIER, 5e-5)),
    ),
    "walk polynomial 5": (
        lambda: monte_carlo(POLYNOMIAL, 1e-4),
        lambda: noisy(loop(POLYNOMIAL, 1e-4)),
    ),
}
"""What is run, and what is known with half of its last digit or the error it may have."""


def reached(row: dict[str, Any]) -> bool:
    """What is known comes from as many runs or fewer: its error is at least as large as ours."""
    if row["known"] is None:
        return True
    return abs(row["mean"] - row["known"]) <= 4 * 2**0.5 * row["spread"] + row["digit"]


def measure(name: str, figures: Mapping[str, Row] = FIGURES) -> dict[str, Any]:
    run, reference = figures[name]
    began = time.perf_counter()
    mean, spread = run()
    took = time.perf_counter() - began
    value, digit = reference()
    return {
        "figure": name,
        "known": None if value is None else round(value, 4),
        "digit": round(digit, 4),
        "mean": round(mean, 4),
        "spread": round(spread, 4),
        "seconds": round(took, 1),
    }


def write(rows: list[dict[str, Any]], path: Path, script: str) -> None:
    old = json.loads(path.read_text()) if path.exists() else []
    fresh = {row["figure"] for row in rows}
    mark = stamp(script)
    kept = [row for row in old if row["figure"] not in fresh]
    table = sorted([*kept, *({**r, "stamp": mark} for r in rows)], key=lambda r: r["figure"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table, indent=1) + "\n")


def report(figures: Mapping[str, Row], path: Path, script: str, doc: str | None) -> None:
    """The command line of this file and of others like it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("figures", nargs="*", help="beginnings of their names; all by default")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    wanted = [n for n in figures if not options.figures or n.startswith(tuple(options.figures))]
    if options.list:
        print("\n".join(wanted))
        return
    cache.enable()
    for name in wanted:
        row = measure(name, figures)
        write([row], path, script)
        verdict = "ok" if reached(row) else "NOT REACHED"
        print(
            f"{name:32s} {row['mean']:9.4f} +- {row['spread']:.4f}   known {row['known']!s:8}   "
            f"{verdict}   {row['seconds']} s",
            flush=True,
        )


def main() -> None:
    report(FIGURES, RESULTS, "benchmarks/book_linear.py", __doc__)


if __name__ == "__main__":
    main()
