"""jaxrl on an environment of Gymnasium, by `jaxrl.train` alone: as `host`, environments are made
by name; as `host-vector`, they are Gymnasium's own vectorised implementation."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import jax
import numpy as np

import jaxrl
from benchmarks.peers import Curve, Options, Prepared
from benchmarks.peers.jaxrl_side import agent_for
from benchmarks.settings import Task


def env_for(task: Task, side: str) -> Any:
    if side == "host":
        return jaxrl.envs.from_gymnasium(task.env, task.num_envs)
    vector: Any = gymnasium.make_vec(
        task.env, task.num_envs, vectorization_mode="vector_entry_point"
    )
    return jaxrl.envs.from_gymnasium(vector)


def prepare(task: Task, options: Options) -> Prepared:
    agent, env = agent_for(task), env_for(task, options.side)
    seeds = itertools.count()

    def train(steps: int) -> jaxrl.Result:
        key = jax.random.key(next(seeds))
        return jaxrl.train(agent, env, key, steps=steps, progress=False)

    first = train(task.steps)

    def run(seconds: float) -> int:
        del seconds
        return int(train(task.steps).steps[-1])

    def curve() -> Curve:
        result = train(task.threshold_steps)
        return np.asarray(result.steps), np.asarray(result.metrics["episode/return"])[None]

    return Prepared(first.compile_seconds, run, curve)
