"""SAC in PyTorch as one loop: twin critics, automatic temperature, Polyak targets every update."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.torch_dqn import net
from benchmarks.peers.torch_envs import Envs
from benchmarks.peers.torch_replay import Ring
from benchmarks.settings import Task


def loop(task: Task, envs: Envs, compiled: bool = False) -> Iterator[int]:
    """Yields the environment steps made."""
    space = envs.envs.single_action_space
    width, size = envs.envs.single_observation_space.shape[0], space.shape[0]
    scale = torch.from_numpy((space.high - space.low) / 2)
    actor = net(width, task.hidden, 2 * size)
    critics = nn.ModuleList([net(width + size, task.hidden, 1) for _ in range(2)])
    targets = nn.ModuleList([net(width + size, task.hidden, 1) for _ in range(2)])
    targets.load_state_dict(critics.state_dict())
    critic_params, target_params = list(critics.parameters()), list(targets.parameters())
    log_alpha = torch.zeros((), requires_grad=True)
    critic_adam = torch.optim.Adam(critic_params, lr=task.lr, fused=True)
    actor_adam = torch.optim.Adam(actor.parameters(), lr=task.lr, fused=True)
    alpha_adam = torch.optim.Adam([log_alpha], lr=task.lr, fused=True)
    obs_row, action_row = np.zeros(width, np.float32), np.zeros(size, np.float32)
    ring = Ring(task.capacity, envs.rng, obs_row, action_row, np.float32(0), obs_row, np.float32(0))

    def draw(obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Action in [-1, 1] and its log-probability."""
        mean, log_std = actor(obs).chunk(2, -1)
        log_std = log_std.clamp(-10, 2)
        noise = torch.randn_like(mean)
        raw = mean + log_std.exp() * noise
        log_normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        jacobian = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))
        return raw.tanh(), (log_normal - jacobian).sum(-1)

    def lowest(nets: nn.ModuleList, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        both = torch.cat([obs, action], -1)
        return torch.min(nets[0](both), nets[1](both))[:, 0]

    def critic_loss(
        obs: torch.Tensor, action: torch.Tensor, reward: torch.Tensor, next_obs: torch.Tensor,
        going: torch.Tensor, alpha: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        with torch.no_grad():
            next_action, log_prob = draw(next_obs)
            soft = lowest(targets, next_obs, next_action) - alpha * log_prob
            aim = reward + task.gamma * going * soft
        both = torch.cat([obs, action], -1)
        return sum(((one(both)[:, 0] - aim) ** 2).mean() for one in critics)  # pyright: ignore

    def actor_loss(obs: torch.Tensor, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        action, log_prob = draw(obs)
        return (alpha * log_prob - lowest(critics, obs, action)).mean(), log_prob.mean()

    if compiled:
        critic_loss, actor_loss = torch.compile(critic_loss), torch.compile(actor_loss)

    steps = 0
    while True:
        obs = envs.obs
        with torch.no_grad():
            action = draw(torch.from_numpy(obs))[0]
        next_obs, reward, terminated, _, _ = envs.step((action * scale).numpy())
        ring.add(obs, action.numpy(), reward, next_obs, (~terminated).astype(np.float32))
        steps += task.num_envs
        if steps > task.warmup:
            for _ in range(task.updates):
                batch = ring.sample(task.batch_size)
                alpha = log_alpha.detach().exp()
                critic_adam.zero_grad()
                critic_loss(*batch, alpha).backward()
                critic_adam.step()
                for p in critic_params:  # the critics are constants here
                    p.requires_grad_(False)
                actor_adam.zero_grad()
                loss, log_prob = actor_loss(batch[0], alpha)
                loss.backward()
                actor_adam.step()
                for p in critic_params:
                    p.requires_grad_(True)
                alpha_adam.zero_grad()
                (-log_alpha.exp() * (log_prob.detach() - size)).backward()
                alpha_adam.step()
                with torch.no_grad():
                    torch._foreach_lerp_(target_params, critic_params, 0.005)
        yield task.num_envs
