"""What `guard=True` costs: the same run with and without it, in alternating rounds.

    python -m benchmarks.guard

Writes benchmarks/results/guard.json and prints a Markdown table for docs/checkpoints.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import jax

import jaxrl
from benchmarks.stamp import stamp

RESULTS = Path(__file__).parent / "results" / "guard.json"

TASKS: dict[str, tuple[Any, str, int]] = {
    "PPO, 4 environments": (jaxrl.PPO(), "CartPole-v1", 600_000),
    "PPO, 64 environments": (jaxrl.PPO(num_envs=64, num_steps=64), "CartPole-v1", 600_000),
    "DQN, 10 environments": (jaxrl.DQN(), "CartPole-v1", 150_000),
    "SAC, 1 environment": (jaxrl.SAC(capacity=20_000), "Pendulum-v1", 3_000),
}


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Steps per second of every round."""
    speeds: dict[str, dict[str, list[float]]] = {}
    for name, (agent, env_name, steps) in TASKS.items():
        env, rows = jaxrl.envs.make(env_name), {"without": [], "with": []}
        for i in range(rounds + 1):
            for which in ("without", "with") if i % 2 else ("with", "without"):
                result = jaxrl.train(
                    agent, env, jax.random.key(i), steps=steps, guard=which == "with"
                )
                if i:  # the first one compiles
                    rows[which].append(result.steps_per_second)
        speeds[name] = rows
        print(f"{name}: {shown(rows)}", flush=True)
    return speeds


def cost(rows: dict[str, list[float]]) -> tuple[float, float, float]:
    """Of each round the share by which the guard made it slower: median, least, largest."""
    shares = [1 - b / a for a, b in zip(rows["without"], rows["with"], strict=True)]
    return statistics.median(shares), min(shares), max(shares)


def shown(rows: dict[str, list[float]]) -> str:
    middle, low, high = cost(rows)
    without, guarded = (statistics.median(rows[x]) for x in ("without", "with"))
    return f"{without:,.0f} | {guarded:,.0f} | {middle:.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    speeds = measure(given.rounds)
    print("\n| | steps/s without | with the guard | cost |\n|---|---|---|---|")
    for name, rows in speeds.items():
        print(f"| {name} | {shown(rows)} |")
    RESULTS.write_text(
        json.dumps({"stamp": stamp("benchmarks.guard"), "steps_per_second": speeds}, indent=1)
        + "\n"
    )


if __name__ == "__main__":
    main()
