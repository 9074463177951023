"""plot, report and list: what is known already, mostly without JAX."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from jaxrl.cli import data


def run_plot(given: argparse.Namespace) -> int:
    from jaxrl.plot import curve, save
    from jaxrl.sinks import files

    ax: Any = None
    for folder in map(Path, given.folder):
        table = folder / "metrics.csv"
        if not table.exists():
            raise ValueError(f"{folder} is not the folder of a run: it has no metrics.csv.")
        steps, metrics = files.read(table)
        if given.metric not in metrics:
            raise ValueError(f"--metric {given.metric}: {folder} has {', '.join(sorted(metrics))}.")
        ax = curve(steps, metrics[given.metric], given.metric, label=folder.name, ax=ax,
                   fan=given.fan)  # fmt: skip
    output = Path(given.output or Path(given.folder[0]) / "curve.png")
    save(ax, output)
    print(output)
    return 0


def run_report(given: argparse.Namespace) -> int:
    from jaxrl import report

    output = Path(given.output or Path(given.folder) / "report.html")
    print(report.write(report.of_folder(given.folder, given.title), output))
    return 0


def run_list(given: argparse.Namespace) -> int:
    match given.what:
        case "agents":
            for name, about in data.algorithms().items():
                print(f"{name:6} {about['doc']}")
        case "presets":
            for algorithm, envs in data.presets().items():
                for env, preset in envs.items():
                    print(f"{algorithm:6} {env:22} {preset['steps']:>10,} steps  "
                          f"{data.measured(preset)}")  # fmt: skip
        case "envs":
            _envs()
        case _:
            _runs(Path(given.folder))
    return 0


def _envs() -> None:
    import importlib.util

    import jaxrl

    for name in jaxrl.envs.names():
        print(name)
    packages = {"brax": "brax", "gymnax": "gymnax", "playground": "mujoco_playground",
                "mjx": "mujoco"}  # fmt: skip
    for suite in ("craftax", "jaxmarl", "jumanji", "navix", "pgx", "xminigrid"):
        packages[suite] = suite
    for adapter, package in packages.items():
        there = importlib.util.find_spec(package) is not None
        print(f"{adapter}/...  {'from ' + package if there else 'not installed: ' + package}")


def _runs(folder: Path) -> None:
    found = sorted(folder.glob("*/run.json"))
    if not found:
        raise ValueError(f"{folder} holds no runs: `jaxrl train` puts them there.")
    for file in found:
        try:
            content = json.loads(file.read_text())
            agent, call = _class(content["agent"]), content["call"]
            made, score = _last(file.parent / "metrics.csv")
        except (ValueError, KeyError, TypeError) as error:
            print(f"{file.parent}  unreadable: {error}")
            continue
        share = f"{made:,} of {call['steps']:,} steps"
        print(f"{file.parent}  {agent}  {share}  {score}")


def _class(said: dict[str, Any]) -> str:
    name = str(said.get("class", said.get("opaque", "?"))).partition(":")[2]
    inner = said.get("fields", {}).get("agent")
    return f"{name}({_class(inner)})" if isinstance(inner, dict) else name


def _last(table: Path) -> tuple[int, str]:
    """The steps that were made, and the mean of each run's newest return."""
    if not table.exists():
        return 0, "no metrics yet"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return 0, "no metrics yet"
    steps = int(rows[-1]["steps"])
    last = {r["run"]: float(r["episode/return"]) for r in rows if r["episode/return"]}
    text = f"return {sum(last.values()) / len(last):.1f}" if last else "no episode ended"
    return steps, text + (f" over {len(last)} runs" if len(last) > 1 else "")
