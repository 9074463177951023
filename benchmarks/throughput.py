"""Steps per second of jaxrl and its peers, side by side in one run.

    python -m benchmarks.throughput ppo --seeds 1 8 32 --envs 4 64 --peers rejax sb3 torch
    python -m benchmarks.throughput dqn --updates 1 10 --seeds 1 32
    python -m benchmarks.throughput all            # everything, in about ten minutes

A peer that is a Python loop is measured with one and with two threads, and, for many seeds, as one
process per core; the ratio is taken to its best. The settings are in `benchmarks/settings.py`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import flops, settings, stamp
from benchmarks.peers import Options
from benchmarks.race import Measured, race
from benchmarks.settings import Task

RESULTS = Path(__file__).resolve().parent / "results"
LOOPS = ("sb3", "sbx", "torch")
"""Peers that step environments in Python: one run per process."""

PEERS = {
    "ppo": ("rejax", "sb3", "torch"),
    "dqn": ("rejax", "sb3", "sbx", "torch"),
    "sac": ("rejax", "sb3", "sbx", "torch"),
    "brax": ("brax",),
}
COMPILED = ("ppo", "sac")
"""Where torch.compile was seen to help; it costs half a minute to prepare."""


def tasks(args: argparse.Namespace) -> list[list[Task]]:
    """The comparisons: a list of seeds each."""
    algorithms = ("ppo", "dqn", "sac", "brax") if args.algorithm == "all" else (args.algorithm,)
    groups: list[list[Task]] = []
    for algorithm in algorithms:
        seeds = args.seeds or ([1, 8] if algorithm == "sac" else [1, 32])
        if algorithm == "ppo":
            groups += [[settings.ppo(n, s) for s in seeds] for n in args.envs]
        elif algorithm == "dqn":
            few = args.seeds or [1, 8]  # an update per step is ten times the work
            groups += [
                [settings.dqn(u, s) for s in (seeds if u == 1 else few)] for u in args.updates
            ]
        elif algorithm == "sac":
            groups.append([settings.sac(s) for s in seeds])
        else:
            groups.append([settings.brax(1)])
    return groups


def entries(
    group: list[Task], peers: list[str], cores: int, devices: bool
) -> list[tuple[Task, Options]]:
    found: list[tuple[Task, Options]] = []
    for task in group:
        found.append((task, Options("jaxrl")))
        for peer in peers:
            if peer in ("rejax", "brax"):
                if peer == "rejax" or task.seeds == 1:
                    found.append((task, Options(peer)))
                if devices and peer == "rejax" and task.seeds > 1 and task.seeds % cores == 0:
                    found.append((task, Options(peer, devices=cores)))
    # Python loops: one run, and one run per core; more seeds than cores go no faster.
    single = group[0]
    for peer in peers:
        if peer not in LOOPS:
            continue
        if peer == "sbx":
            found.append((single, Options(peer)))
        else:
            found += [(single, Options(peer, threads=n)) for n in sorted({1, min(2, cores)})]
        if peer == "torch" and single.algorithm in COMPILED:
            found.append((single, Options(peer, threads=1, compiled=True)))
        if cores > 1 and any(task.seeds > 1 for task in group):
            threads = 0 if peer == "sbx" else 1
            found.append((single, Options(peer, threads=threads, processes=cores)))
    return found


def best(measured: list[Measured], side: str, task: Task) -> Measured | None:
    """The fastest way in which this side does this task; loops are measured at one seed only."""
    candidates = [
        m
        for m in measured
        if m.options.side == side
        and m.rates
        and m.task.name == task.name
        and (m.task.seeds == task.seeds if side not in LOOPS else True)
        and (m.options.processes == 1 or task.seeds > 1)
    ]
    return max(candidates, key=lambda m: m.rate, default=None)


def threshold(m: Measured) -> dict[str, float] | None:
    """Steps (median over seeds) and seconds, compilation included, until the mean return of a
    thirtieth of the run reached the threshold."""
    if not m.curve or not m.curve["returns"]:
        return None
    returns, steps = np.array(m.curve["returns"], float), np.array(m.curve["steps"], float)
    reached = returns >= m.task.threshold
    first = [steps[row.argmax()] if row.any() else math.inf for row in reached]
    needed = float(np.median(first))
    seconds = m.compile_seconds + needed / m.rate  # of one run: only those are asked to learn
    return {"steps": needed, "seconds": seconds, "reached": float(reached.any(1).mean())}


def rows(measured: list[Measured]) -> list[dict[str, Any]]:
    """What the table and the JSON file show."""
    found = []
    for m in measured:
        jaxrl = next(
            (
                other
                for other in measured
                if other.options.side == "jaxrl"
                and other.task.name == m.task.name
                and other.task.seeds == m.task.seeds
            ),
            None,
        )
        ratio = jaxrl.rate / m.rate if jaxrl and m.rates else math.nan
        row = {**m.to_dict(), "ratio": ratio, "threshold": threshold(m)}
        if m.task.algorithm != "brax" and m.rates:
            row["gflops"] = flops.per_step(m.task) * m.rate / 1e9
        found.append(row)
    return found


def number(value: float, digits: int = 1) -> str:
    return "-" if not math.isfinite(value) else f"{value:,.{digits}f}"


def table(measured: list[Measured]) -> str:
    lines: list[str] = []
    for name in dict.fromkeys(m.task.name for m in measured):
        lines += [
            f"\n### {name}\n",
            "| side | seeds | compile s | steps/s | spread | jaxrl is x | GFLOP/s | peak MiB "
            "| s to threshold (steps) |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows([m for m in measured if m.task.name == name]):
            label, seeds = row["label"], row["task"]["seeds"]
            if row["options"]["processes"] > 1:
                seeds = row["options"]["processes"]
            if row["error"]:
                lines.append(f"| {label} | {seeds} | | failed: {row['error'][:90]} | | | | | |")
                continue
            spread = (max(row["rates"]) - min(row["rates"])) / row["rate"]
            learned = row["threshold"]
            shown = "" if not learned else number(learned["seconds"])
            if learned and math.isfinite(learned["steps"]):
                shown += f" ({learned['steps']:,.0f})"
            memory = row["peak_mib"]
            lines.append(
                f"| {label} | {seeds} | {number(row['compile_seconds'])} | "
                f"{number(row['rate'], 0)} | {100 * spread:.0f} % | {number(row['ratio'], 2)} | "
                f"{number(row.get('gflops', math.nan))} | {memory:,.0f} | {shown} |"
            )
        lines += ratios([m for m in measured if m.task.name == name])
    return "\n".join(lines)


def ratios(measured: list[Measured]) -> list[str]:
    """One line per number of seeds: jaxrl against the best of each peer."""
    lines = [""]
    sides = [s for s in dict.fromkeys(m.options.side for m in measured) if s != "jaxrl"]
    for own in measured:
        if own.options.side != "jaxrl" or not own.rates:
            continue
        shares = []
        for side in sides:
            other = best(measured, side, own.task)
            if other:
                shares.append(f"{own.rate / other.rate:.2f} x {other.options.label}")
        many = f"{own.task.seeds} seeds in aggregate" if own.task.seeds > 1 else "one run"
        lines.append(f"jaxrl, {many}: " + "; ".join(shares))
    return lines


def plot(measured: list[Measured], path: Path, caption: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(m.task.name for m in measured))
    figure, axes = plt.subplots(1, len(names), figsize=(1.2 + 3.4 * len(names), 3.6), squeeze=False)
    colors = dict(zip(("jaxrl", "rejax", "sbx", "sb3", "torch", "brax"), plt.cm.tab10.colors))
    for ax, name in zip(axes[0], names, strict=True):
        shown: list[tuple[str, str, float]] = []
        own = [m for m in measured if m.task.name == name]
        for seeds in sorted({m.task.seeds for m in own}):
            for side in dict.fromkeys(m.options.side for m in own):
                task = next(m.task for m in own if m.task.seeds == seeds)
                winner = best(own, side, task)
                if winner and not (
                    side in LOOPS and seeds not in (1, max(m.task.seeds for m in own))
                ):
                    many = f"{seeds} seeds" if seeds > 1 else "1 run"
                    shown.append((side, f"{side}, {many}", winner.rate))
        shown.reverse()
        ax.barh([label for _, label, _ in shown], [rate for *_, rate in shown],
                color=[colors[side] for side, *_ in shown])  # fmt: skip
        for i, (*_, rate) in enumerate(shown):
            ax.text(rate, i, f" {rate:,.0f}", va="center", fontsize=7)
        ax.set_xscale("log")  # from a round number below them all, or close rates look far apart
        rates = [rate for *_, rate in shown] or [1.0]
        ax.set_xlim(10 ** math.floor(math.log10(min(rates) / 2)), max(rates) * 12)
        ax.xaxis.set_minor_formatter("")
        ax.tick_params(labelsize=7)
        ax.set_title(name, fontsize=8)
        ax.set_xlabel("environment steps per second, all seeds together", fontsize=7)
    figure.suptitle(caption, fontsize=6, y=0.02)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks.throughput", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("algorithm", choices=("ppo", "dqn", "sac", "brax", "all"))
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 1 32, or 1 8 (sac, updates)")
    parser.add_argument("--envs", type=int, nargs="+", default=[4, 64], help="of PPO")
    parser.add_argument(
        "--updates", type=int, nargs="+", default=[1, 10], help="of DQN, per 10 steps"
    )
    parser.add_argument("--peers", nargs="*", help="default: all that have the algorithm")
    parser.add_argument(
        "--python", nargs="*", default=[], metavar="SIDE=PATH",
        help="interpreter of a side that has an environment of its own",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a Python loop, per round")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds until a side is ended")
    parser.add_argument(
        "--devices", action="store_true", help="also rejax with its seeds over all cores"
    )
    parser.add_argument("--threshold", action="store_true", help="also time to threshold")
    parser.add_argument("--out", default=None, help="name of the files in benchmarks/results/")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[Measured]:
    args = parse(argv)
    pythons = dict(item.split("=", 1) for item in args.python)
    stamped = stamp.stamp("benchmarks.throughput")
    cores, measured = stamp.cores(), []
    for group in tasks(args):
        peers = PEERS[group[0].algorithm] if args.peers is None else args.peers
        peers = [peer for peer in peers if peer in PEERS[group[0].algorithm]]
        print(f"{group[0].name}: seeds {[task.seeds for task in group]}", flush=True)
        done = race(
            entries(group, peers, cores, args.devices),
            rounds=args.rounds, seconds=args.seconds, limit=args.limit, pythons=pythons,
            thresholds=args.threshold, say=lambda text: print("  " + text, flush=True),
        )  # fmt: skip
        print(table(done), flush=True)
        measured += done
        save(measured, stamped, args)
    return measured


def save(measured: list[Measured], stamped: dict[str, Any], args: argparse.Namespace) -> None:
    """After every group, so that a run cut short keeps what it has."""
    RESULTS.mkdir(exist_ok=True)
    name = args.out or f"throughput-{args.algorithm}"
    stamped["devices"] = sorted({d for m in measured for d in m.devices})
    stamped["seeds"] = sorted({m.task.seeds for m in measured})
    stamped["settings"] = {"rounds": args.rounds, "seconds": args.seconds}
    stamped["load_after"] = stamp.load()
    data = {"stamp": stamped, "rows": rows(measured)}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1, default=str) + "\n")
    text = f"{stamp.line(stamped)}\n{table(measured)}\n"
    (RESULTS / f"{name}.md").write_text(text)
    plot(measured, RESULTS / f"{name}.png", stamp.line(stamped))


if __name__ == "__main__":
    main()
