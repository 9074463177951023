"""The memory that was estimated before compiling against the memory that was used.

    python -m benchmarks.memory            # the table: ten minutes
    python -m benchmarks.memory ppo-long   # one case
    python -m benchmarks.memory --many     # 4,096 runs where 512 fit at a time

Each case runs in a process of its own, and there twice: the first time to compile. What was used is
the peak of the resident set while it trains the second time, less what the process held before
(JAX, and the compiled program, whose code and tables take some hundred MiB).

`--many` lets the process have only so much memory more than it has, and trains 4,096 runs in it:
all of them together, which must fail, and 512 at a time, which must give the same bits as training
those 512 alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import stamp

RESULTS = Path(__file__).resolve().parent / "results"


def cases() -> dict[str, tuple[Any, str, int | None, dict[str, Any]]]:
    """name -> agent, environment, runs, options of train."""
    import jaxrl

    wide, image = jaxrl.networks.MLP((256, 256)), jaxrl.networks.MinAtarCNN()
    small = {"learning_starts": 512, "batch_size": 256}
    return {
        "ppo-long": (jaxrl.PPO(num_envs=4096, num_steps=512, epochs=1), "CartPole-v1", None, {}),
        "ppo-image": (jaxrl.PPO(num_envs=512, num_steps=64, epochs=1, actor=image, critic=image),
                      "Breakout-MinAtar", None, {}),
        "ppo-together": (jaxrl.PPO(num_envs=64, num_steps=128, actor=wide, critic=wide),
                         "CartPole-v1", 16, {"lanes": 8}),
        "ppo-runs": (jaxrl.PPO(num_envs=4, num_steps=16, minibatches=1, epochs=1, actor=wide,
                     critic=wide), "CartPole-v1", 512, {}),
        "dqn-one": (jaxrl.DQN(capacity=20_000_000, **small), "CartPole-v1", None, {}),
        "dqn-runs": (jaxrl.DQN(capacity=1_000_000, **small), "CartPole-v1", 32, {}),
        "dqn-together": (jaxrl.DQN(capacity=1_000_000, **small), "CartPole-v1", 32, {"lanes": 8}),
        "dqn-image": (jaxrl.DQN(capacity=1_000_000, torso=image, **small),
                      "Breakout-MinAtar", 2, {}),
        "sac-one": (jaxrl.SAC(num_envs=8, capacity=20_000_000, **small), "Pendulum-v1", None, {}),
        "sac-runs": (jaxrl.SAC(num_envs=8, grad_steps=1, capacity=2_000_000, **small),
                     "Pendulum-v1", 16, {}),
    }  # fmt: skip


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM")


def worker(name: str) -> None:
    import jaxrl  # isort: skip
    import jax

    agent, task, runs, options = cases()[name]
    env, key = jaxrl.envs.make(task), jax.random.key(0)
    keys = key if runs is None else jax.random.split(key, runs)
    each = agent.num_envs * agent.num_steps
    steps = max(each, 2048 // each * each)
    train = jaxrl.train
    train(agent, env, keys, steps=steps, progress=False, **options)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    result = train(agent, env, keys, steps=steps, progress=False, **options)
    jax.block_until_ready(result.state)
    line = {"estimate": result.memory, "peak": peak() - before, "base": before}
    print(json.dumps(line), flush=True)
    os._exit(0)


MANY, TOGETHER, LIMIT = 4096, 512, 2000
"""Runs, how many of them at a time, and MiB that they may take."""


def many(together: int) -> None:
    """Worker of `--many`."""
    import resource

    import jaxrl  # isort: skip
    import jax
    import numpy as np

    agent = jaxrl.PPO(num_envs=16, num_steps=32, minibatches=1, epochs=1)
    env, devices = jaxrl.envs.make("CartPole-v1"), jax.device_count()
    keys = jax.random.split(jax.random.key(0), MANY)
    steps = 2 * agent.num_envs * agent.num_steps
    train, lanes = jaxrl.train, together // devices
    each = MANY // devices  # of which the first `lanes` have the first turn
    first = np.concatenate([np.arange(lanes) + i * each for i in range(devices)])
    alone = None
    if together < MANY:
        alone = train(agent, env, keys[first], steps=steps, lanes=lanes, progress=False)
    status = Path("/proc/self/status").read_text()
    held = int(status.split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + LIMIT * 2**20, -1))
    result = train(agent, env, keys, steps=steps, lanes=lanes, progress=False)
    same = alone is not None and all(
        np.array_equal(np.asarray(x)[first], y)
        for x, y in zip(jax.tree.leaves(result.state.params), jax.tree.leaves(alone.state.params),
                        strict=True)
    )  # fmt: skip
    print(json.dumps({"estimate": result.memory, "same": same}), flush=True)
    os._exit(0)


def measure_many() -> list[dict[str, Any]]:
    rows = []
    for together in (TOGETHER, MANY):
        command = [sys.executable, "-m", "benchmarks.memory", "--many-worker", str(together)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        row: dict[str, Any] = {"runs": MANY, "together": together, "limit_mib": LIMIT}
        if done.returncode == 0:
            row |= {"fits": True, **json.loads(done.stdout.splitlines()[-1])}
        else:
            row |= {"fits": False, "error": done.stderr.strip().splitlines()[-1][:200]}
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def measure(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"case": name, **json.loads(done.stdout.splitlines()[-1])}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| case | estimate, MiB | measured, MiB | estimate / measured |", "|---|---|---|---|"]
    for r in rows:
        mine, theirs = r["estimate"] / 2**20, r["peak"] / 2**20
        lines.append(f"| {r['case']} | {mine:,.0f} | {theirs:,.0f} | {mine / theirs:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--many", action="store_true", help="4,096 runs where 512 fit")
    parser.add_argument("--many-worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    if args.many_worker:
        many(args.many_worker)
        return
    if args.many:
        content = {"stamp": stamp.stamp("benchmarks.memory"), "rows": measure_many()}
        (RESULTS / "memory-many.json").write_text(json.dumps(content, indent=1) + "\n")
        return
    rows = []
    for name in args.cases or cases():
        rows.append(measure(name))
        print(rows[-1], file=sys.stderr)
    print(table(rows))
    path = RESULTS / "memory.json"
    if args.cases and path.exists():  # those that were measured anew take their places
        old = {row["case"]: row for row in json.loads(path.read_text())["rows"]}
        rows = list((old | {row["case"]: row for row in rows}).values())
    content = {"stamp": stamp.stamp("benchmarks.memory"), "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
