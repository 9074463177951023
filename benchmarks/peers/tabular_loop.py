"""The loop every tutorial shows: Q-learning in NumPy on Gymnasium's FrozenLake, one run at a time.

No JAX here: this file is loaded by the processes that are measured.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

LR, GAMMA, EPSILON = 0.1, 0.99, 0.1


def run(seed: int, episodes: int, ties: bool = True) -> tuple[int, float]:
    """-> steps and rewards of `episodes` episodes. `ties` breaks them at random, as Gymnasium's own
    tutorial does; without it the first of the best actions is taken, which is quicker and, on this
    map, learns nothing before an accident leads to the goal."""
    import gymnasium

    env: Any = gymnasium.make("FrozenLake-v1", is_slippery=True)
    rng = np.random.default_rng(seed)
    actions = env.action_space.n
    q = np.zeros((env.observation_space.n, actions))
    steps, total = 0, 0.0
    env.action_space.seed(seed)
    for episode in range(episodes):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        over = False
        while not over:
            if rng.random() < EPSILON:
                action = env.action_space.sample()
            elif ties:
                action = rng.choice(np.flatnonzero(q[state] == q[state].max()))
            else:
                action = np.argmax(q[state])
            after, reward, terminated, truncated, _ = env.step(action)
            target = reward if terminated else reward + GAMMA * np.max(q[after])
            q[state, action] += LR * (target - q[state, action])
            state, over = after, terminated or truncated
            steps += 1
            total += reward
    return steps, total


def measure(arguments: tuple[int, float, int, bool]) -> tuple[int, float, int, float]:
    """Run after run for some seconds; -> steps, seconds, episodes, rewards."""
    seed, seconds, episodes, ties = arguments
    run(seed, 20, ties)  # imports and first calls are not measured
    began, steps, played, rewards = time.perf_counter(), 0, 0, 0.0
    while time.perf_counter() - began < seconds:
        seed += 1000
        new, reward = run(seed, episodes, ties)
        steps, played, rewards = steps + new, played + episodes, rewards + reward
    return steps, time.perf_counter() - began, played, rewards
