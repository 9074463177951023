"""Steps per second over devices and processes: the same script, a growing machine.

    python -m benchmarks.scaling                       # host devices 1 2 4 8, processes 1 2
    python -m benchmarks.scaling --devices 1 2 --processes 1 --iterations 8

A row is one way to lay out the same work: `seeds` spreads 8 independent runs over all devices,
`envs` lets all devices share each of them. Every row runs in processes of its own; compilation is
not in its rate. On a machine with fewer cores than devices the host devices share cores: the table
then shows what splitting costs, not what it gains.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import stamp

RESULTS = Path(__file__).resolve().parent / "results"
RUNS, NUM_ENVS, NUM_STEPS = 8, 64, 128


def worker(layout: str, processes: int, index: int, port: int, iterations: int) -> None:
    """Print steps and seconds of one layout."""
    import jaxrl  # isort: skip
    import jax

    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    env, agent = jaxrl.envs.make("CartPole-v1"), jaxrl.PPO(num_envs=NUM_ENVS, num_steps=NUM_STEPS)
    keys = jax.random.split(jax.random.key(0), RUNS)
    mesh = jaxrl.Mesh(envs=jax.device_count()) if layout == "envs" else None
    steps = NUM_ENVS * NUM_STEPS * iterations
    result = jaxrl.train(agent, env, keys, steps=steps, mesh=mesh, progress=False)
    line = {
        "devices": jax.device_count(),
        "steps_per_second": result.steps_per_second,
        "compile_seconds": result.compile_seconds,
        "backend": jax.default_backend(),
    }
    print(json.dumps(line), flush=True)


def measure(layout: str, devices: int, processes: int, iterations: int) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    environment["JAXRL_CPU_DEVICES"] = str(devices // processes)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", "--worker", layout, str(processes),
             str(i), str(port), str(iterations)],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip
    try:
        out = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return {"layout": layout, "processes": processes, **json.loads(out[0].splitlines()[-1])}


def table(rows: list[dict[str, Any]]) -> str:
    base = rows[0]["steps_per_second"]
    lines = ["| layout | devices | processes | steps/s | against one device | compiled in |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['layout']} | {r['devices']} | {r['processes']} | {r['steps_per_second']:,.0f} | "
        f"{r['steps_per_second'] / base:.2f} | {r['compile_seconds']:.1f} s |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, default=16, help="of each run")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        layout, *numbers = args.worker
        worker(layout, *map(int, numbers))
        return
    rows: list[dict[str, Any]] = []
    for processes in args.processes:
        for devices in args.devices:
            if devices % processes:
                continue
            for layout in ("seeds", "envs") if devices > 1 else ("seeds",):
                rows.append(measure(layout, devices, processes, args.iterations))
                print(rows[-1], file=sys.stderr)
                save(rows)  # after every row: a run cut short keeps what it has
                time.sleep(1)
    print((RESULTS / "scaling.md").read_text())


def save(rows: list[dict[str, Any]]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = (
        f"PPO on CartPole, {RUNS} runs x {NUM_ENVS} environments x {NUM_STEPS} steps, "
        f"{cores} cores.\n\n{table(rows)}\n"
    )
    RESULTS.mkdir(exist_ok=True)
    content = {"stamp": stamp.stamp("benchmarks.scaling"), "rows": rows}
    (RESULTS / "scaling.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "scaling.md").write_text(text)


if __name__ == "__main__":
    main()
