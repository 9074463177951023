"""A thousand runs of Q-learning on FrozenLake, against the NumPy loop every tutorial shows.

    python -m benchmarks.tabular
    python -m benchmarks.tabular --seeds 1000 --episodes 500 --seconds 20

The sides take turns on the same cores, and the best turn of each counts: what else the machine does
can only slow them down. The loop runs as one process per core, for a second, because a thousand
runs of it would take long; ours is one call of `jaxrl.train` on all cores. What is compared is
environment steps of all runs per second. Compile time is reported beside it, and the time of the
whole first call with it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrl
from benchmarks.peers import tabular_loop
from benchmarks.stamp import cores, stamp
from jaxrl.behaviour import EpsilonGreedy

RESULTS = Path(__file__).parent / "results" / "tabular.json"


def loop(pool: Any, seconds: float, episodes: int, ties: bool) -> dict[str, Any]:
    """One process per core at the same time."""
    count = cores()
    found = pool.map(tabular_loop.measure, [(i, seconds, episodes, ties) for i in range(count)])
    return {
        "steps_per_second": sum(steps / took for steps, took, *_ in found),
        "processes": count,
        "steps_per_episode": sum(x[0] for x in found) / sum(x[2] for x in found),
        "return": sum(x[3] for x in found) / sum(x[2] for x in found),
    }


def ours(seeds: int, steps: int, lanes: int | None) -> dict[str, Any]:
    """`steps` of each of `seeds` runs."""
    agent = jaxrl.QLearning(
        lr=tabular_loop.LR,
        gamma=tabular_loop.GAMMA,
        exploration=EpsilonGreedy(tabular_loop.EPSILON),
    )
    env = jaxrl.envs.make("FrozenLake-v1")
    keys = jax.random.split(jax.random.key(0), seeds)
    began = time.perf_counter()
    result = jaxrl.train(agent, env, keys, steps=steps, progress=False, lanes=lanes)
    took = time.perf_counter() - began
    episodes = float(np.asarray(result.metrics["episode/count"]).sum())
    returns = np.nan_to_num(np.asarray(result.metrics["episode/return"]))
    return {
        "steps": steps,
        "steps_per_second": result.steps_per_second,
        "compile_seconds": result.compile_seconds,
        "seconds": took,
        "steps_per_second_with_compilation": seeds * steps / took,
        "steps_per_episode": seeds * steps / episodes,
        "return": float((returns * np.asarray(result.metrics["episode/count"])).sum() / episodes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measured loop")
    parser.add_argument("--lanes", type=int, help="runs advanced together per core")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    options = parser.parse_args()
    mark = stamp("benchmarks/tabular.py")
    turns: dict[str, list[dict[str, Any]]] = {"loop": [], "loop without ties": [], "jaxrl": []}
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        for _ in range(options.rounds):
            for name in ("loop", "loop without ties"):
                ties = name == "loop"
                turns[name].append(loop(pool, options.seconds, options.episodes, ties))
            steps = round(options.episodes * turns["loop"][0]["steps_per_episode"])
            turns["jaxrl"].append(ours(options.seeds, steps, options.lanes))
    first = turns["jaxrl"][0]
    sides = {
        name: max(found, key=lambda one: one["steps_per_second"]) for name, found in turns.items()
    }
    for name, side in sides.items():
        ratio = sides["jaxrl"]["steps_per_second"] / side["steps_per_second"]
        side["ratio"] = round(ratio, 1)
        print(
            f"{name:20s} {side['steps_per_second']:14,.0f} steps/s   x{ratio:6.1f}   "
            f"{side['steps_per_episode']:.1f} steps per episode, return {side['return']:.3f}"
        )
    print(
        f"compiled in {first['compile_seconds']:.1f} s; whole first call {first['seconds']:.1f} s "
        f"for {options.seeds} runs of {first['steps']:,} steps"
    )
    if options.write:
        found = {"seeds": options.seeds, "episodes": options.episodes, "rounds": options.rounds}
        found |= {"sides": sides, "first call": first}
        RESULTS.write_text(json.dumps({**found, "stamp": mark}, indent=1) + "\n")


if __name__ == "__main__":
    main()
