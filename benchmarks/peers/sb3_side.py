"""Stable-Baselines3 and sbx (the same loops with JAX updates), by their public `learn`."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from benchmarks.peers import Curve, Options, Prepared
from benchmarks.settings import Task


def model_for(task: Task, options: Options, seed: int = 0, explore: float = 1e-6) -> Any:
    """`explore`: share of the run over which epsilon falls; a timed run is a small part of a very
    long one, and epsilon must not stay at 1 in it, where no network is asked."""
    if options.side == "sb3":
        import stable_baselines3 as library
        import torch
        from torch import nn

        torch.set_num_threads(options.threads or 1)
        tanh, relu = nn.Tanh, nn.ReLU
        extra = {"device": "cpu"}
    else:
        import flax.linen as nn
        import sbx as library

        tanh, relu = nn.tanh, nn.relu
        extra = {}
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(task.env, n_envs=task.num_envs, seed=seed)
    hidden = list(task.hidden)
    common: dict[str, Any] = dict(
        policy="MlpPolicy", env=env, learning_rate=task.lr, gamma=task.gamma, seed=seed, **extra
    )
    if task.algorithm == "ppo":
        return library.PPO(
            **common,
            n_steps=task.num_steps,
            batch_size=task.num_envs * task.num_steps // task.minibatches,
            n_epochs=task.epochs,
            ent_coef=0.01,
            policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": tanh},
        )
    replay: dict[str, Any] = dict(
        buffer_size=task.capacity,
        learning_starts=task.warmup,
        batch_size=task.batch_size,
        train_freq=1,
        gradient_steps=task.updates,
        policy_kwargs={"net_arch": hidden, "activation_fn": relu},
    )
    if task.algorithm == "dqn":
        return library.DQN(
            **common, **replay, target_update_interval=task.copy_every,
            exploration_fraction=explore, exploration_final_eps=0.05,
        )  # fmt: skip
    if task.algorithm == "sac":
        return library.SAC(**common, **replay)
    raise ValueError(f"{options.side} has no {task.algorithm}.")


def prepare(task: Task, options: Options) -> Prepared:
    from stable_baselines3.common.callbacks import BaseCallback

    class Until(BaseCallback):
        """Stops at a time, and collects the returns of finished episodes."""

        def __init__(self) -> None:
            super().__init__()
            self.deadline = float("inf")
            self.episodes: list[tuple[int, float]] = []

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.episodes.append((self.num_timesteps, float(info["episode"]["r"])))
            return True if task.algorithm == "ppo" else time.perf_counter() < self.deadline

        def _on_rollout_start(self) -> None:
            # On-policy: only whole iterations count.
            if time.perf_counter() >= self.deadline:
                raise StopIteration

    model = model_for(task, options)
    callback = Until()
    unit = task.num_envs * (task.num_steps if task.algorithm == "ppo" else 1)

    def advance(seconds: float) -> int:
        before = model.num_timesteps
        callback.deadline = time.perf_counter() + seconds
        with contextlib.suppress(StopIteration):
            model.learn(
                10**9, callback=callback, reset_num_timesteps=before == 0, log_interval=None
            )
        callback.episodes.clear()
        return model.num_timesteps - before

    warm = 0 if task.algorithm == "ppo" else task.warmup // unit + 20
    began = time.perf_counter()
    model.learn(max(warm, 2) * unit, log_interval=None)
    first = time.perf_counter() - began
    began = time.perf_counter()
    model.learn(2 * unit, reset_num_timesteps=False, log_interval=None)
    again = time.perf_counter() - began
    compile_seconds = max(0.0, first - again) if options.side == "sbx" else 0.0

    def curve() -> Curve:
        """Returns of training episodes, averaged over thirtieths of the run."""
        edges = np.linspace(0, task.threshold_steps, 31)[1:]
        rows = []
        for seed in range(1):
            learner, watch = model_for(task, options, 1000 + seed, 0.5), Until()
            learner.learn(task.threshold_steps, callback=watch, log_interval=None)
            rows.append(window_means(watch.episodes, edges))
        return edges, np.array(rows)

    return Prepared(compile_seconds, advance, curve)


def window_means(episodes: list[tuple[int, float]], edges: np.ndarray) -> np.ndarray:
    """Mean return of the episodes that ended in each window; NaN where none did."""
    rows = np.full(len(edges), np.nan)
    steps = np.array([step for step, _ in episodes])
    returns = np.array([value for _, value in episodes])
    slots = np.searchsorted(edges, steps)
    for i in range(len(edges)):
        if (slots == i).any():
            rows[i] = returns[slots == i].mean()
    return rows
