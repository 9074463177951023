"""PPO on environments of Gymnasium: jaxrl's host driver against Stable-Baselines3.

    python -m benchmarks.host                            # CartPole and LunarLander, 8 environments
    python -m benchmarks.host CartPole-v1 --envs 4 8 64 --python sb3=/path/to/python

Both step the same Python environments on the same machine, in turns, with the same rollouts,
epochs, minibatches and widths; Stable-Baselines3 with one and with two threads of PyTorch, and its
best counts. `host-vector` is jaxrl on Gymnasium's own vectorised CartPole, which
Stable-Baselines3 cannot use.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from benchmarks import settings, stamp
from benchmarks.peers import Options
from benchmarks.race import Measured, race
from benchmarks.settings import Task

RESULTS = Path(__file__).resolve().parent / "results"
NEEDS = {"LunarLander-v3": "Box2D", "BipedalWalker-v3": "Box2D"}
VECTORISED = ("CartPole-v1",)


def task_for(env: str, num_envs: int, total: int) -> Task:
    """PPO in CleanRL's shape, as in `benchmarks.throughput`."""
    each = num_envs * 128
    steps = max(4, total // each) * each
    task = settings.ppo(num_envs)
    threshold = 400.0 if env == "CartPole-v1" else math.inf
    return dataclasses.replace(task, env=env, steps=steps, threshold=threshold)


def entries(task: Task, cores: int) -> list[tuple[Task, Options]]:
    found = [(task, Options("host"))]
    if task.env in VECTORISED:
        found.append((task, Options("host-vector")))
    return found + [(task, Options("sb3", threads=n)) for n in sorted({1, min(2, cores)})]


def ratio(measured: list[Measured], own: Measured) -> float:
    """Against the best of Stable-Baselines3."""
    rates = [m.rate for m in measured if m.options.side == "sb3" and m.rates]
    return own.rate / max(rates) if rates and own.rates else math.nan


def table(measured: list[Measured]) -> str:
    lines: list[str] = []
    for name in dict.fromkeys(m.task.name for m in measured):
        own = [m for m in measured if m.task.name == name]
        lines += [
            f"\n### {name}\n",
            "| side | compile s | steps/s | spread | times sb3 | peak MiB |",
            "|---|---|---|---|---|---|",
        ]
        for m in own:
            if m.error or not m.rates:
                lines.append(f"| {m.options.label} | | failed: {(m.error or '')[:90]} | | | |")
                continue
            spread = (max(m.rates) - min(m.rates)) / m.rate
            lines.append(
                f"| {m.options.label} | {m.compile_seconds:.1f} | {m.rate:,.0f} | "
                f"{100 * spread:.0f} % | {ratio(own, m):.2f} | {m.peak_mib:,.0f} |"
            )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.host", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("env", nargs="*", default=["CartPole-v1", "LunarLander-v3"])
    parser.add_argument("--envs", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int, default=60_000, help="of jaxrl, per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a Python loop, per round")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds until a side is ended")
    parser.add_argument("--python", nargs="*", default=[], metavar="SIDE=PATH")
    parser.add_argument("--out", default="host", help="name of the files in benchmarks/results/")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[Measured]:
    args = parse(argv)
    pythons = dict(item.split("=", 1) for item in args.python)
    stamped, measured = stamp.stamp("benchmarks.host"), []
    for env in args.env:
        needed = NEEDS.get(env)
        if needed and not pythons and importlib.util.find_spec(needed) is None:
            print(f"{env} is left out: {needed} is not installed", flush=True)
            continue
        for num_envs in args.envs:
            task = task_for(env, num_envs, args.steps)
            done = race(
                entries(task, stamp.cores()), rounds=args.rounds, seconds=args.seconds,
                limit=args.limit, pythons=pythons,
                say=lambda text: print("  " + text, flush=True),
            )  # fmt: skip
            print(table(done), flush=True)
            measured += done
            save(measured, stamped, args)
    return measured


def save(measured: list[Measured], stamped: dict[str, Any], args: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    stamped["devices"] = sorted({d for m in measured for d in m.devices})
    stamped["settings"] = {"rounds": args.rounds, "seconds": args.seconds, "steps": args.steps}
    stamped["load_after"] = stamp.load()
    data = {"stamp": stamped, "rows": [m.to_dict() for m in measured]}
    (RESULTS / f"{args.out}.json").write_text(json.dumps(data, indent=1, default=str) + "\n")
    (RESULTS / f"{args.out}.md").write_text(f"{stamp.line(stamped)}\n{table(measured)}\n")


if __name__ == "__main__":
    main()
