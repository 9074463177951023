"""One of several processes that train together; see tests/unit/test_distributed.py.

python tests/process_worker.py PORT INDEX COUNT FOLDER TASK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrl

PORT, INDEX, COUNT, FOLDER, TASK = sys.argv[1:]
folder = Path(FOLDER)


class Seen:
    """A sink that says who wrote."""

    def write(self, steps: int, metrics: Any) -> None:
        with open(folder / f"{TASK}-writer-{INDEX}", "a") as file:
            file.write(f"{steps}\n")

    def close(self) -> None:
        pass


def digest(result: Any) -> dict[str, Any]:
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(result.state.params)]
    return {
        "sum": float(sum(np.abs(x).sum() for x in leaves)),
        "returns": np.asarray(result.metrics["episode/return"]).tolist(),
        "seed_2": np.asarray(result[2].policy(np.ones(4, np.float32))).tolist(),
        "score": jaxrl.evaluate(result, jaxrl.envs.make("CartPole-v1"), episodes=4).mean,
    }


def main() -> None:
    if int(COUNT) > 1:
        jax.distributed.initialize(f"localhost:{PORT}", int(COUNT), int(INDEX))
    env, keys = jaxrl.envs.make("CartPole-v1"), jax.random.split(jax.random.key(0), 3)
    agent = jaxrl.PPO(num_envs=8, num_steps=16)
    options: dict[str, Any] = {"log_every": 8 * 16, "checkpoint": folder / TASK}
    if TASK == "die":
        del options["checkpoint"]
        jaxrl.train(agent, env, keys, steps=8 * 16 * 100_000, log=Dying(int(INDEX)), **options)
    mesh = jaxrl.Mesh(envs=2) if TASK == "envs" else None
    train = jaxrl.train
    train(agent, env, keys, steps=8 * 16 * 8, mesh=mesh, log=Seen(), progress=True, **options)
    result = train(agent, env, keys, steps=8 * 16 * 12, mesh=mesh, resume=True, **options)
    print(json.dumps(digest(result)), flush=True)


class Dying:
    """Writes that training has begun."""

    def __init__(self, index: int) -> None:
        self.index = index

    def write(self, steps: int, metrics: Any) -> None:
        (folder / "began").touch()

    def close(self) -> None:
        pass


if __name__ == "__main__":
    main()
