"""PPO in PyTorch as one loop, with the details of CleanRL's: what a careful user would write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers.torch_envs import Envs
from benchmarks.settings import Task


def dense(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def net(inputs: int, hidden: tuple[int, ...], outputs: int, gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [dense(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, dense(inputs, outputs, gain))


def loop(task: Task, envs: Envs, compiled: bool = False) -> Iterator[int]:
    """Yields the environment steps of each iteration, for ever."""
    n_steps, n_envs = task.num_steps, task.num_envs
    width = envs.envs.single_observation_space.shape[0]
    actor = net(width, task.hidden, int(envs.envs.single_action_space.n), 0.01)
    critic = net(width, task.hidden, 1, 1.0)
    params = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(params, lr=task.lr, eps=1e-5, fused=True)

    def loss(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        obs, action, old_log_prob, old_value, advantage, target = batch
        log_probs = torch.log_softmax(actor(obs), -1)
        log_prob = log_probs.gather(-1, action[:, None])[:, 0]
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        ratio = (log_prob - old_log_prob).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        value = critic(obs)[:, 0]
        clipped = old_value + (value - old_value).clamp(-0.2, 0.2)
        error = torch.max((value - target) ** 2, (clipped - target) ** 2).mean()
        return 0.25 * error - surrogate - 0.01 * entropy

    def play(obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = actor(obs)
        # Gumbel-max: much cheaper than torch.distributions for a few rows.
        action = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
        log_prob = torch.log_softmax(logits, -1).gather(-1, action[:, None])[:, 0]
        return action, log_prob, critic(obs)[:, 0]

    if compiled:
        loss, play = torch.compile(loss), torch.compile(play)

    obs = torch.zeros(n_steps, n_envs, width)
    action = torch.zeros(n_steps, n_envs, dtype=torch.int64)
    log_prob, value, reward = (torch.zeros(n_steps, n_envs) for _ in range(3))
    ended, valid = np.zeros((n_steps, n_envs), bool), np.zeros((n_steps, n_envs), bool)
    while True:
        with torch.no_grad():
            for t in range(n_steps):
                obs[t] = torch.from_numpy(envs.obs)
                action[t], log_prob[t], value[t] = play(obs[t])
                stepped: Any = envs.step(action[t].numpy())
                next_obs, step_reward, terminated, truncated, valid[t] = stepped
                if truncated.any():  # the value of the true last observation
                    last = critic(torch.from_numpy(next_obs))[:, 0].numpy()
                    step_reward = step_reward + task.gamma * last * (truncated & ~terminated)
                reward[t] = torch.from_numpy(step_reward.astype(np.float32))
                ended[t] = terminated | truncated
            # Advantages in NumPy: 128 small steps cost less there.
            v, r = value.numpy(), reward.numpy()
            next_value = critic(torch.from_numpy(envs.obs))[:, 0].numpy()
            advantage, trace = np.zeros_like(v), np.zeros(n_envs, np.float32)
            for t in reversed(range(n_steps)):
                going = ~ended[t]
                delta = r[t] + task.gamma * next_value * going - v[t]
                trace = delta + task.gamma * 0.95 * going * trace
                advantage[t], next_value = trace, v[t]
        gains = torch.from_numpy(advantage)
        arrays = (obs, action, log_prob, value, gains, gains + value)
        flat = [x.flatten(0, 1) for x in arrays]
        rows = np.flatnonzero(valid)
        # A whole batch also when some rows are resets: they are replaced by rows drawn twice.
        rows = np.concatenate([rows, envs.rng.choice(rows, valid.size - len(rows))])
        for _ in range(task.epochs):
            envs.rng.shuffle(rows)
            for chunk in torch.from_numpy(rows).chunk(task.minibatches):
                optimizer.zero_grad()
                loss(tuple(x[chunk] for x in flat)).backward()
                nn.utils.clip_grad_norm_(params, 0.5)
                optimizer.step()
        yield n_steps * n_envs
