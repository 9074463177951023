"""The environments of the PyTorch loops: Gymnasium's, in the fastest vectorisation it offers."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from benchmarks.settings import Task

VECTORISED = {"CartPole-v1"}
"""Gymnasium has these in NumPy over all environments; faster from about four on."""


class Envs:
    """One interface over both ways of resetting.

    `step` -> next_obs (true, also at the end of an episode), reward, terminated, truncated, valid.
    Gymnasium's NumPy environments spend one call on each reset; `valid` is False for that row,
    which is no transition and is never learned from, though it counts as a step, as it does for
    their users. `obs` is what to act on next.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.vectorised = task.env in VECTORISED and task.num_envs >= 4
        if self.vectorised:
            mode, extra = "vector_entry_point", {}
        else:
            mode = "sync"
            extra = {"vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
        self.envs = gym.make_vec(task.env, num_envs=task.num_envs, vectorization_mode=mode, **extra)
        self.obs, _ = self.envs.reset(seed=seed)
        self.resetting = np.zeros(task.num_envs, bool)
        self.ret = np.zeros(task.num_envs)
        self.steps = 0
        self.rng = np.random.default_rng(seed)
        self.episodes: list[tuple[int, float]] = []

    def step(self, action: np.ndarray) -> tuple[np.ndarray, ...]:
        obs, reward, terminated, truncated, info = self.envs.step(action)
        valid = ~self.resetting
        next_obs = obs
        self.steps += len(obs)
        self.ret += reward * valid
        ended = terminated | truncated
        if ended.any():
            self.episodes += [(self.steps, float(value)) for value in self.ret[ended]]
            self.ret[ended] = 0
            if not self.vectorised:
                next_obs = obs.copy()
                for i in np.flatnonzero(ended):
                    next_obs[i] = info["final_obs"][i]
        if self.vectorised:
            self.resetting = ended
        self.obs = obs
        return next_obs, reward.astype(np.float32), terminated, truncated, valid
