"""Cold compile seconds of every bundled agent on every environment it fits.

    python -m benchmarks.compile                      # the budget is 10 s
    python -m benchmarks.compile --agents PPO --envs CartPole-v1

Each pair gets a process of its own without a compilation cache, and one short `jaxrl.train`; the
figure is `Result.compile_seconds`, which includes tracing and setting up the first state.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import stamp
from benchmarks.race import ROOT

RESULTS = Path(__file__).resolve().parent / "results"
BUDGET = 10.0
AGENTS = ("PPO", "DQN", "SAC")


def measure(agent: str, env: str) -> dict[str, Any]:
    """In this process: compile and run the least there is to run."""
    import jax

    import jaxrl
    from jaxrl import networks

    made = jaxrl.envs.make(env)
    rank = len(getattr(made.obs_space, "shape", ()))
    fields: dict[str, Any] = {}
    if rank == 3:  # pixels, or MinAtar's channels
        torso = networks.MinAtarCNN()
        fields = {"torso": torso} if agent == "DQN" else {"actor": torso, "critic": torso}
    if agent != "PPO":
        fields["capacity"] = 10_000
    try:
        built = getattr(jaxrl, agent)(**fields)
        steps = max(built.num_envs * built.num_steps, 2_000)
        result = jaxrl.train(built, made, jax.random.key(0), steps=steps, progress=False)
    except TypeError as error:  # the wrong kind of action space
        return {"agent": agent, "env": env, "refused": str(error)}
    return {"agent": agent, "env": env, "seconds": result.compile_seconds}


def names(prefixes: list[str]) -> list[str]:
    """Native environments whose name begins like one of these."""
    out = subprocess.run(
        [sys.executable, "-c", "import jaxrl, json; print(json.dumps(list(jaxrl.envs.names())))"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[str] = json.loads(out.stdout.splitlines()[-1])
    return [name for name in found if any(name.startswith(prefix) for prefix in prefixes)]


def in_process(agent: str, env: str, limit: float) -> dict[str, Any]:
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment.setdefault("NPROC", "4")
    command = [sys.executable, "-m", "benchmarks.compile", "--one", agent, env]
    try:
        out = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"agent": agent, "env": env, "error": f"no answer within {limit:.0f} s"}
    if out.returncode:
        last = (out.stderr.strip().splitlines() or ["no message"])[-1]
        return {"agent": agent, "env": env, "error": last}
    return json.loads(out.stdout.splitlines()[-1])


def table(found: list[dict[str, Any]]) -> str:
    """Environments down, agents across."""
    agents = list(dict.fromkeys(row["agent"] for row in found))
    lines = ["| environment | " + " | ".join(agents) + " |", "|---" * (len(agents) + 1) + "|"]
    for env in dict.fromkeys(row["env"] for row in found):
        cells = []
        for agent in agents:
            row = next((r for r in found if r["agent"] == agent and r["env"] == env), {})
            if "seconds" in row:
                over = " (over budget)" if row["seconds"] > BUDGET else ""
                cells.append(f"{row['seconds']:.1f}{over}")
            else:
                cells.append("failed: " + row["error"][:60] if "error" in row else "")
        lines.append(f"| {env} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.compile", description=__doc__)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS))
    parser.add_argument("--envs", nargs="+", default=[""], help="prefixes of names; default: all")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one pair")
    parser.add_argument("--out", default="compile", help="name of the files in results/")
    parser.add_argument("--one", nargs=2, metavar=("AGENT", "ENV"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    stamped = stamp.stamp("benchmarks.compile", seeds=[0], budget_seconds=BUDGET)
    found = []
    for env in names(args.envs):
        for agent in args.agents:
            row = in_process(agent, env, args.limit)
            found.append(row)
            print(json.dumps(row), flush=True)
    text = table(found)
    over = [row for row in found if row.get("seconds", 0) > BUDGET or "error" in row]
    print(f"\n{text}\n\n{len(over)} of {len(found)} over {BUDGET:.0f} s or failed")
    RESULTS.mkdir(exist_ok=True)
    data = {"stamp": {**stamped, "load_after": stamp.load()}, "rows": found}
    (RESULTS / f"{args.out}.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / f"{args.out}.md").write_text(f"{stamp.line(stamped)}\n\n{text}\n")


if __name__ == "__main__":
    main()
