"""DQN in PyTorch as one loop: Double Q-learning, Huber-free squared error, hard target copies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks.peers.torch_envs import Envs
from benchmarks.peers.torch_replay import Ring
from benchmarks.settings import Task


def net(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def loop(task: Task, envs: Envs, compiled: bool = False, explore: int = 1) -> Iterator[int]:
    """Yields the environment steps made; epsilon falls from 1 to 0.05 over `explore` steps."""
    width = envs.envs.single_observation_space.shape[0]
    actions = int(envs.envs.single_action_space.n)
    q, target = net(width, task.hidden, actions), net(width, task.hidden, actions)
    target.load_state_dict(q.state_dict())
    optimizer = torch.optim.Adam(q.parameters(), lr=task.lr, fused=True)
    row = np.zeros(width, np.float32)
    ring = Ring(task.capacity, envs.rng, row, np.int64(0), np.float32(0), row, np.float32(0))

    def loss(
        obs: torch.Tensor, action: torch.Tensor, reward: torch.Tensor, next_obs: torch.Tensor,
        going: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        with torch.no_grad():
            best = q(next_obs).argmax(-1, keepdim=True)
            aim = reward + task.gamma * going * target(next_obs).gather(-1, best)[:, 0]
        return ((q(obs).gather(-1, action[:, None])[:, 0] - aim) ** 2).mean()

    if compiled:
        loss = torch.compile(loss)

    steps = 0
    while True:
        obs = envs.obs
        epsilon = max(0.05, 1 - 0.95 * steps / explore)
        with torch.no_grad():
            action = q(torch.from_numpy(obs)).argmax(-1).numpy()
        random = envs.rng.random(task.num_envs) < epsilon
        action = np.where(random, envs.rng.integers(0, actions, task.num_envs), action)
        next_obs, reward, terminated, _, valid = envs.step(action)
        fields = (obs, action, reward, next_obs, (~terminated).astype(np.float32))
        ring.add(*(fields if valid.all() else (x[valid] for x in fields)))
        before, steps = steps, steps + task.num_envs
        if steps > task.warmup:
            for _ in range(task.updates):
                optimizer.zero_grad()
                loss(*ring.sample(task.batch_size)).backward()
                optimizer.step()
            if steps // task.copy_every > before // task.copy_every:
                target.load_state_dict(q.state_dict())
        yield task.num_envs
