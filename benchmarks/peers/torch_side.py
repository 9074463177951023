"""The PyTorch loops as a side of a comparison."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.peers import Curve, Options, Prepared, torch_dqn, torch_ppo, torch_sac
from benchmarks.peers.sb3_side import window_means
from benchmarks.peers.torch_envs import Envs
from benchmarks.settings import Task

LOOPS = {"ppo": torch_ppo.loop, "dqn": torch_dqn.loop, "sac": torch_sac.loop}


def start(task: Task, options: Options, seed: int, learn: bool) -> tuple[Envs, Iterator[int]]:
    torch.manual_seed(seed)
    envs = Envs(task, seed)
    extra = {"explore": task.threshold_steps // 2} if learn and task.algorithm == "dqn" else {}
    return envs, LOOPS[task.algorithm](task, envs, options.compiled, **extra)


def prepare(task: Task, options: Options) -> Prepared:
    torch.set_num_threads(options.threads or 1)
    began = time.perf_counter()
    envs, steps = start(task, options, 0, learn=False)
    next(steps)
    while task.algorithm != "ppo" and envs.steps <= task.warmup:
        next(steps)
    next(steps)
    first = time.perf_counter() - began
    for _ in range(3):
        next(steps)

    def run(seconds: float) -> int:
        deadline, made = time.perf_counter() + seconds, 0
        while time.perf_counter() < deadline:
            made += next(steps)
        envs.episodes.clear()
        return made

    def curve() -> Curve:
        edges = np.linspace(0, task.threshold_steps, 31)[1:]
        rows = []
        for seed in range(1):
            learner, steps = start(task, options, 1000 + seed, learn=True)
            while learner.steps < task.threshold_steps:
                next(steps)
            rows.append(window_means(learner.episodes, edges))
        return edges, np.array(rows)

    return Prepared(first if options.compiled else 0.0, run, curve)
