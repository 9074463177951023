"""Figures of Sutton and Barto's book, run again with tables: known values, and what we get.

    python -m benchmarks.book              all of them, in a few minutes
    python -m benchmarks.book cliff bias   some
    python -m benchmarks.book --list

Results go to benchmarks/results/book.json with a hardware stamp. `spread` is the standard error of
the mean over runs; a figure is reached within four of them and the last digit of what is known.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from benchmarks.stamp import stamp
from jaxrl import cache, checks, random, rollout
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.types import Spec

RESULTS = Path(__file__).parent / "results" / "book.json"


def nothing(values: jax.Array) -> jax.Array:
    return jnp.zeros(())


@functools.partial(jax.jit, static_argnames=("episodes", "measure", "limit"))
def by_episode(
    agents: Any,
    env: Any,
    keys: jax.Array,
    episodes: int,
    measure: Callable[[jax.Array], jax.Array] = nothing,
    limit: int = 1_000_000,
) -> dict[str, jax.Array]:
    """What happened in each of the first episodes of each run, [runs, episodes]: return, length,
    first action, and `measure` of the table at its end. `agents` has one setting per run."""
    agent = jax.tree.map(lambda x: x[0], agents)
    assert agent.num_envs == agent.num_steps == 1
    spec = Spec(env.obs_space, env.action_space, env.time_limit, limit)
    empty = {
        "return": jnp.zeros(episodes),
        "length": jnp.zeros(episodes, jnp.int32),
        "first": jnp.zeros(episodes, jnp.int32),
        "measure": jnp.zeros(episodes),
    }

    def begin(agent: Any, key: jax.Array) -> tuple[Any, ...]:
        one, two = jax.random.split(jax.random.fold_in(key, 2**31))
        streams = rollout.start(agent, env, one)
        return agent.init(two, spec), streams, jnp.zeros((), jnp.int32), empty

    def step(carry: tuple[Any, ...], agent: Any, key: jax.Array, i: jax.Array) -> tuple[Any, ...]:
        state, streams, number, found = carry
        play_key, update_key = jax.random.split(jax.random.fold_in(key, i))
        streams, played, _ = rollout.collect(agent, env, spec, state, streams, play_key, i)
        state, _ = agent.update(state, played, update_key)
        reward, action = played.reward[0, 0], played.action[0, 0]
        over = (played.terminated | played.truncated)[0, 0]

        def at(name: str) -> Any:
            return found[name].at[number]

        found = {
            "return": at("return").add(reward, mode="drop"),
            "length": at("length").add(1, mode="drop"),
            "first": at("first").add(jnp.where(played.first[0, 0], action, 0), mode="drop"),
            "measure": at("measure").set(measure(state.table.values), mode="drop"),
        }
        return state, streams, number + over, found

    def go(loop: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        i, carry = loop
        return i + 1, jax.vmap(step, (0, 0, 0, None))(carry, agents, keys, i)

    def more(loop: tuple[jax.Array, Any]) -> jax.Array:
        i, carry = loop
        return (i < limit) & jnp.any(carry[2] < episodes)

    zero = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(more, go, (zero, jax.vmap(begin)(agents, keys)))[1][3]


def runs(agent: Any, env: Any, count: int, episodes: int, **options: Any) -> dict[str, np.ndarray]:
    """`count` runs of one setting."""
    agents = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count,)), agent)
    keys = random.unrolled(jax.random.split(jax.random.key(2026), count))
    checks.task(agent, env, 1)
    return {k: np.asarray(v) for k, v in by_episode(agents, env, keys, episodes, **options).items()}


def score(per_run: np.ndarray) -> tuple[float, float]:
    """-> mean, its standard error"""
    return float(per_run.mean()), float(per_run.std(ddof=1) / len(per_run) ** 0.5)


# ---------------------------------------------------------------------------------------- figures


def cliff(agent: Callable[..., Any]) -> tuple[float, float]:
    """Example 6.6: mean return of episodes 101 to 500; lr 0.5, epsilon 0.1, 200 runs."""
    env = jaxrl.envs.make("CliffWalking-v1")
    built = agent(lr=0.5, gamma=1.0, exploration=EpsilonGreedy(0.1))
    return score(runs(built, env, 200, 500)["return"][:, 100:].mean(1))


def bias(agent: Callable[..., Any], count: int = 10_000) -> tuple[float, float]:
    """Figure 6.5: share of runs that go left in episode 300; lr and epsilon 0.1, 10,000 runs."""
    env = jaxrl.envs.make("MaximizationBias-v0")
    built = agent(lr=0.1, gamma=1.0, exploration=EpsilonGreedy(0.1))
    return score(1.0 - runs(built, env, count, 300)["first"][:, -1])


def dyna(planning_steps: int, count: int = 300) -> tuple[float, float]:
    """Figure 8.2: steps of the third episode; lr and epsilon 0.1, gamma 0.95, 300 runs."""
    env = jaxrl.envs.make("DynaMaze-v0")
    built = jaxrl.DynaQ(
        lr=0.1, gamma=0.95, exploration=EpsilonGreedy(0.1), planning_steps=planning_steps
    )
    return score(runs(built, env, count, 3)["length"][:, 2].astype(float))


def shortcut(agent: Callable[..., Any]) -> tuple[float, float]:
    """Figure 8.5: reward in 3000 steps after the shortcut has opened at step 3000; lr 1, epsilon
    0.1, gamma 0.95, 50 planning steps, 40 runs."""
    env = jaxrl.envs.make("ShortcutMaze-v0")
    built = agent(lr=1.0, gamma=0.95, exploration=EpsilonGreedy(0.1), planning_steps=50)
    keys = jax.random.split(jax.random.key(2026), 40)
    result = jaxrl.train(built, env, keys, steps=6000, log_every=3000, progress=False)
    return score(np.asarray(result.metrics["episode/count"])[:, 1])


def rms(values: jax.Array) -> jax.Array:
    truth = jnp.arange(-9, 10) / 10
    return jnp.sqrt(jnp.mean(jnp.square(values[1:20] - truth)))


def walk(agent: Callable[..., Any], **fields: float) -> tuple[float, float]:
    """19 states: root mean squared error at the ends of the first ten episodes; 1000 runs."""
    env = jaxrl.envs.make("RandomWalk19-v0")
    found = runs(agent(gamma=1.0, **fields), env, 1000, 10, measure=rms)
    return score(found["measure"].mean(1))


@dataclasses.dataclass(frozen=True)
class Figure:
    known: float
    digit: float  # half of the last digit that is known
    run: Callable[[], tuple[float, float]]


FIGURES: dict[str, Figure] = {
    "cliff SARSA": Figure(-27.3, 0.05, lambda: cliff(jaxrl.SARSA)),
    "cliff Q-learning": Figure(-49.9, 0.05, lambda: cliff(jaxrl.QLearning)),
    "cliff Expected SARSA": Figure(-21.1, 0.05, lambda: cliff(jaxrl.ExpectedSARSA)),
    "bias Q-learning": Figure(0.119, 5e-4, lambda: bias(jaxrl.QLearning)),
    "bias Double Q-learning": Figure(0.069, 5e-4, lambda: bias(jaxrl.DoubleQLearning)),
    "dyna 0": Figure(564, 0.5, lambda: dyna(0)),
    "dyna 5": Figure(62, 0.5, lambda: dyna(5)),
    "dyna 50": Figure(17, 0.5, lambda: dyna(50)),
    "shortcut Dyna-Q": Figure(162, 0.5, lambda: shortcut(jaxrl.DynaQ)),
    "shortcut Dyna-Q+": Figure(230, 0.5, lambda: shortcut(jaxrl.DynaQPlus)),
    "walk n-step": Figure(0.268, 5e-4, lambda: walk(jaxrl.TD, n_steps=4, lr=0.4)),
    "walk off-line lambda-return": Figure(0.267, 5e-4, lambda: walk(offline, lr=0.4, lam=0.8)),
    "walk TD(lambda)": Figure(0.267, 5e-4, lambda: walk(jaxrl.TDLambda, lr=0.3, lam=0.8)),
    "walk true online": Figure(0.259, 5e-4, lambda: walk(jaxrl.TrueOnlineTD, lr=0.4, lam=0.8)),
}


def offline(**fields: float) -> Any:
    return jaxrl.LambdaReturn(num_steps=1, horizon=512, **fields)  # pyright: ignore


def best(name: str) -> list[tuple[float, ...]]:
    """The walk's figures over a grid of settings: (error, spread, lr, lam or n)."""
    grid = {
        "n-step": (jaxrl.TD, "n_steps", (2, 4, 8)),
        "off-line lambda-return": (offline, "lam", (0.8, 0.85, 0.9, 0.95)),
        "TD(lambda)": (jaxrl.TDLambda, "lam", (0.7, 0.8, 0.85, 0.9)),
        "true online": (jaxrl.TrueOnlineTD, "lam", (0.7, 0.8, 0.85, 0.9)),
    }
    agent, field, options = grid[name]
    rates = np.round(np.arange(0.1, 1.01, 0.05), 2)
    found = [
        (*walk(agent, lr=float(lr), **{field: x}), float(lr), x) for x in options for lr in rates
    ]
    return sorted(found)


def measure(name: str) -> dict[str, Any]:
    figure = FIGURES[name]
    began = time.perf_counter()
    mean, spread = figure.run()
    return {
        "figure": name,
        "known": figure.known,
        "digit": figure.digit,
        "mean": round(mean, 4),
        "spread": round(spread, 4),
        "seconds": round(time.perf_counter() - began, 1),
    }


def reached(row: dict[str, Any]) -> bool:
    """The known value comes from as many runs or fewer: its error is at least as large as ours."""
    return abs(row["mean"] - row["known"]) <= 4 * 2**0.5 * row["spread"] + row["digit"]


def write(rows: list[dict[str, Any]], path: Path = RESULTS) -> None:
    old = json.loads(path.read_text()) if path.exists() else []
    fresh = {row["figure"] for row in rows}
    mark = stamp("benchmarks/book.py")
    kept = [row for row in old if row["figure"] not in fresh]
    table = sorted([*kept, *({**r, "stamp": mark} for r in rows)], key=lambda r: r["figure"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("figures", nargs="*", help="beginnings of their names; all by default")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    wanted = [
        name for name in FIGURES if not options.figures or name.startswith(tuple(options.figures))
    ]
    if options.list:
        print("\n".join(wanted))
        return
    cache.enable()
    for name in wanted:
        row = measure(name)
        write([row])
        verdict = "ok" if reached(row) else "NOT REACHED"
        print(
            f"{name:28s} {row['mean']:9.3f} +- {row['spread']:.3f}   known {row['known']:8}   "
            f"{verdict}   {row['seconds']} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
