"""The process that `test_kill.py` kills: trains every case into its folder, with `resume=True`.

Starting Python and importing JAX takes longer than all the training here, so one process does that
once and forks a child for every life. JAX has not started when it forks: the child does that.

    python kill_worker.py SCALE CASE ...     reads lines "FOLDER CHECKPOINT FIRST" (the place of the
                                             case to begin with), prints child and then status
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint  # noqa: F401

import jaxrl
from jaxrl import keeper, resume  # noqa: F401  (imported before the fork, not in each child)
from jaxrl import train as _train  # noqa: F401
from jaxrl.priority import Prioritized


def cases(scale: int = 1) -> dict[str, tuple[Any, Any, int, int, int | None]]:
    """-> agent, environment, steps, every, number of runs."""
    cartpole = jaxrl.envs.make("CartPole-v1")
    pendulum = jaxrl.envs.make("Pendulum-v1")
    small = jaxrl.networks.MLP((16,))
    ppo = jaxrl.NormalizeObs(
        jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, actor=small, critic=small)
    )
    dqn = jaxrl.DQN(
        num_envs=2,
        capacity=400,
        learning_starts=60,
        batch_size=16,
        sampler=Prioritized(),
        torso=small,
    )
    sac = jaxrl.SAC(
        num_envs=2, capacity=400, learning_starts=40, batch_size=16, actor=small, critic=small
    )
    gru = jaxrl.networks.GRU(8)
    recurrent = jaxrl.NormalizeReward(
        jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, actor=gru, critic=gru)
    )
    r2d2 = jaxrl.R2D2(
        num_envs=2,
        num_steps=4,
        burn_in=2,
        length=4,
        n_steps=2,
        grad_steps=1,
        capacity=400,
        learning_starts=60,
        batch_size=4,
        sampler=Prioritized(),
        torso=gru,
    )
    return {
        f"{name}-{runs or 'one'}": (agent, env, steps * scale, steps // 16, runs)
        for name, agent, env, steps in [
            ("ppo", ppo, cartpole, 32 * 160),
            ("dqn", dqn, cartpole, 2 * 480),
            ("sac", sac, pendulum, 2 * 480),
            ("recurrent", recurrent, cartpole, 32 * 160),
            ("r2d2", r2d2, cartpole, 8 * 160),
        ]
        for runs in (None, 3)
    }


def live(folder: Path, checkpoint: bool, scale: int, first: int) -> None:
    """Train every case that is not finished yet, and write down its result as numbers."""
    from jaxrl import cache

    cache.enable()
    names, known = sys.argv[2:], cases(scale)
    for name in names[first:] + names[:first]:
        agent, env, steps, every, runs = known[name]
        result_file = folder / f"{name}.npz"
        if result_file.exists():
            continue
        key = jax.random.key(7)
        key = key if runs is None else jax.random.split(key, runs)
        options: dict[str, Any] = {}
        if checkpoint:
            options = {"checkpoint": folder / name, "every": every, "resume": True}
        result = jaxrl.train(agent, env, key, steps=steps, log_every=every, **options)
        leaves = jax.tree.leaves((result.state, result.metrics, result.steps))
        draft = folder / f"{name}.draft.npz"
        np.savez(draft, *(np.asarray(x) for x in leaves))
        draft.rename(result_file)


def main() -> None:
    scale = int(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        folder, checkpoint, first = line.rsplit(" ", 2)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                live(Path(folder), checkpoint == "1", scale, int(first))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()
