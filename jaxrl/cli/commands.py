"""train, resume, eval, enjoy, export, sweep and bench."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrl
from jaxrl import cache, describe, record
from jaxrl.checkpoint import CheckpointError, Folder
from jaxrl.cli import data, values
from jaxrl.cli.parser import settings as given_settings
from jaxrl.statistics import iqm

STEPS = 500_000


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _task(given: argparse.Namespace) -> tuple[Any, Any, Any, int, dict[str, Any]]:
    """-> agent, environment, key or keys, steps, the preset that was used ({} for none)."""
    cache.enable()
    if given.precision is not None:
        chosen = None if given.precision == "default" else given.precision
        jax.config.update("jax_default_matmul_precision", chosen)
    preset = {} if given.no_preset else data.preset(given.algorithm, given.env) or {}

    def choice(name: str) -> bool:
        said: bool | None = getattr(given, name)
        return preset.get(name, False) if said is None else said

    agent = values.agent(
        given.algorithm,
        {**preset.get("settings", {}), **given_settings(given)},
        choice("normalize_obs"),
        choice("normalize_reward"),
    )
    options = {**preset.get("env_options", {}), **dict(values.option(x) for x in given.env_option)}
    env = values.environment(given.env, options, choice("flatten"))
    key = jax.random.key(given.seed)
    keys = key if given.seeds is None else jax.random.split(key, given.seeds)
    return agent, env, keys, given.steps or preset.get("steps", STEPS), preset


def _summary(result: jaxrl.Result) -> str:
    returns = np.atleast_2d(np.asarray(result.metrics["episode/return"]))
    last = [row[~np.isnan(row)][-1] for row in returns if not np.isnan(row).all()]
    text = f"{int(np.max(result.steps)):,} steps"
    if last:
        text += f", return {iqm(np.array(last)):.2f}"
        if len(returns) > 1:
            text += (
                f" (interquartile mean over {len(last)} runs, {min(last):.2f} to {max(last):.2f})"
            )
    if result.timing.steps:
        text += (
            f", compiled in {result.compile_seconds:.1f} s, {result.steps_per_second:,.0f} steps/s"
        )
    return text


def _place(given: argparse.Namespace) -> str | None:
    if given.no_folder:
        if given.folder or given.resume or given.every or given.tensorboard:
            raise ValueError("--no-folder leaves no place for --folder, --resume, --every or "
                             "--tensorboard.")  # fmt: skip
        return None
    if given.folder is None:
        if given.resume:
            raise ValueError("--resume needs the --folder of the run to go on with.")
        env = given.env.replace("/", "-")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        given.folder = f"runs/{env}__{given.algorithm}__{given.seed}__{stamp}"
    return given.folder


def run_train(given: argparse.Namespace) -> int:
    folder = _place(given)
    agent, env, key, steps, preset = _task(given)
    if preset:
        _say(f"settings tuned for {given.env}; measured: {data.measured(preset)}")
    sinks: list[Any] = []
    if given.tensorboard and folder is not None:
        sinks.append(jaxrl.sinks.TensorBoard(Path(folder) / "tensorboard", given.tags))
    if given.wandb:
        name = None if folder is None else Path(folder).name
        sinks.append(
            jaxrl.sinks.WandB(
                given.wandb, folder=folder, tags=given.tags, mode=given.wandb_mode, name=name
            )
        )
    options: dict[str, Any] = {}
    if folder is not None:
        options = {"checkpoint": folder, "every": given.every, "resume": given.resume}
    result = jaxrl.train(
        agent,
        env,
        key,
        steps=steps,
        progress=given.progress,
        log_every=given.log_every,
        evaluate_every=given.evaluate_every,
        lanes=given.lanes,
        guard=given.guard,
        log=sinks,
        **options,
    )
    print(_summary(result))
    if folder is not None:
        print(f"in {folder}: jaxrl eval {folder}; jaxrl plot {folder}")
    return 0


def run_resume(given: argparse.Namespace) -> int:
    cache.enable()
    result = jaxrl.resume(
        given.folder, steps=given.steps, progress=given.progress, newest_good=given.newest_good
    )
    print(_summary(result))
    return 0


def _restored(given: argparse.Namespace) -> jaxrl.Result:
    step = int(given.step) if given.step.isdigit() else given.step
    return jaxrl.restore(given.folder, step)


def run_eval(given: argparse.Namespace) -> int:
    cache.enable()
    result = _restored(given)
    folder = Folder(given.folder)
    try:
        env = describe.build(folder.content(folder.steps()[-1])["env"], "env")
    except describe.NotDescribed as error:
        raise CheckpointError(f"the environment of {folder} cannot be built: {error}.") from error
    score = jaxrl.evaluate(result, env, episodes=given.episodes, key=jax.random.key(given.seed))
    if given.json:
        low, high = score.interval
        said = {"steps": int(np.max(result.steps)), "mean": score.mean, "iqm": score.iqm,
                "interval": [low, high], "returns": score.returns.tolist()}  # fmt: skip
        print(json.dumps(said))
    else:
        print(f"after {int(np.max(result.steps)):,} steps: {score}")
    return 0


def run_enjoy(given: argparse.Namespace) -> int:
    from jaxrl import enjoy, video

    cache.enable()
    result = _restored(given)
    if result.runs is not None:
        if not 0 <= given.run < result.runs:
            raise ValueError(f"--run {given.run}: there are runs 0 to {result.runs - 1}.")
        result = result[given.run]
    elif given.run:
        raise ValueError(f"--run {given.run}: {given.folder} holds a single run.")
    options: dict[str, Any] = {
        "max_steps": given.max_steps, "explore": given.explore, "fps": given.fps
    }  # fmt: skip
    if given.output:
        key = jax.random.key(given.seed)
        print(video.record(result, given.output, key=key, **options))
        return 0
    where = given.where or enjoy.place()
    path = Path(given.folder) / enjoy.FILM
    for episode in range(1 if where == "file" else given.episodes):
        key = jax.random.key(given.seed + episode)
        seen = enjoy.watch(result, key=key, where=where, path=path, **options)
        if where != "file" and seen is not None:
            print(f"episode {episode + 1}: {seen.t} steps, return {seen.total:.2f}")
    return 0


def run_export(given: argparse.Namespace) -> int:
    cache.enable()
    result = _restored(given)
    if result.runs is not None:
        if given.run is None or not 0 <= given.run < result.runs:
            raise ValueError(
                f"{given.folder} holds {result.runs} runs: choose one with --run 0 to "
                f"--run {result.runs - 1}."
            )
        result = result[given.run]
    elif given.run is not None:
        raise ValueError(f"{given.folder} holds a single run: leave --run away.")
    if given.format == "policy":
        place = result.save_policy(given.output)
        print(f'{place} ({place.stat().st_size / 1024:,.0f} KiB): jaxrl.load_policy("{place}")')
    else:
        print(result.export(given.output, given.format))
    return 0


def _over(given: argparse.Namespace) -> dict[str, list[Any]]:
    cls = values.agent_class(given.algorithm)
    known = [field["name"] for field in data.algorithms()[given.algorithm]["fields"]]
    over: dict[str, list[Any]] = {}
    for text in given.over:
        name, equals, rest = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not rest:
            raise ValueError(f"--over {text}: write it like lr=1e-4,1e-3.")
        if name not in known:
            raise ValueError(f"--over {text}: {given.algorithm} has {', '.join(known)}.")
        over[name] = [values.read(x, cls, name) for x in split(rest)]
    return over


def split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def run_sweep(given: argparse.Namespace) -> int:
    over = _over(given)
    agent, env, _, steps, _ = _task(given)
    inner, prefix = agent, ""
    while hasattr(inner, "agent"):  # normalisation wraps the agent whose field it is
        inner, prefix = inner.agent, f"agent.{prefix}"
    got = jaxrl.sweep(
        agent,
        env,
        jax.random.key(given.seed),
        over={f"{prefix}{name}": found for name, found in over.items()},
        seeds=given.seeds or 1,
        steps=steps,
        progress=given.progress,
        lanes=given.lanes,
    )
    known = sorted(got[0].metrics)
    if given.metric not in known:
        raise ValueError(f"--metric {given.metric}: there are {', '.join(known)}.")
    print(got.table(given.metric).replace(prefix, "") if prefix else got.table(given.metric))
    if given.output:
        with open(given.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*over, "seed", given.metric])
            for setting, scores in zip(got.settings, got.scores(given.metric), strict=True):
                cells = [values.show(x) for x in setting.values()]
                writer.writerows([*cells, i, f"{x:.9g}"] for i, x in enumerate(scores))
    return 0


def run_bench(given: argparse.Namespace) -> int:
    """One run, then several, each long enough to be timed; compilation is left out."""
    wanted, rows = given.seeds or 32, []
    for seeds in dict.fromkeys((1, wanted)):
        given.seeds = seeds
        agent, env, key, steps, _ = _task(given)
        result = jaxrl.train(agent, env, key, steps=steps, lanes=given.lanes, progress=False)
        rows.append({"runs": seeds, "steps": int(np.max(result.steps)),
                     "compile_seconds": round(result.compile_seconds, 2),
                     "seconds": round(result.timing.run_seconds, 2),
                     "steps_per_second": round(result.steps_per_second)})  # fmt: skip
    machine = record.hardware()
    if given.json:
        print(json.dumps({"task": f"{given.algorithm} {given.env}", "rows": rows,
                          "hardware": machine,
                          "matmul_precision": record.matmul_precision()}))  # fmt: skip
        return 0
    kinds = ", ".join(
        f"{machine['devices'].count(d)} x {d}" for d in dict.fromkeys(machine["devices"])
    )
    print(f"{given.algorithm} {given.env} on {machine['cpu']}, {machine['cores']} cores ({kinds})")
    print(f"{'runs':>6} {'steps each':>12} {'compile s':>10} {'run s':>8} {'steps/s':>12}")
    for row in rows:
        print(f"{row['runs']:>6} {row['steps']:>12,} {row['compile_seconds']:>10.1f} "
              f"{row['seconds']:>8.1f} {row['steps_per_second']:>12,}")  # fmt: skip
    short = [row for row in rows if row["seconds"] < 2]
    if short:
        print("less than two seconds were timed: --steps makes it longer and the figure steadier")
    return 0
