"""The tasks: one set of numbers, given to every side of a comparison.

A task says everything that decides how much work a step is: environments, batch, updates per step,
network, replay capacity. Each side translates it into its own arguments in `benchmarks/peers/`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    algorithm: str  # ppo, dqn, sac, brax
    env: str
    num_envs: int
    seeds: int = 1
    hidden: tuple[int, ...] = (64, 64)
    lr: float = 2.5e-4
    gamma: float = 0.99
    # ppo
    num_steps: int = 128
    epochs: int = 4
    minibatches: int = 4
    # dqn, sac
    batch_size: int = 128
    updates: int = 1  # gradient steps per vector step, that is per `num_envs` environment steps
    capacity: int = 10_000
    warmup: int = 500  # environment steps before the first update
    copy_every: int = 500  # environment steps between two copies into DQN's target
    # how much is run
    steps: int = 500_000  # of one seed, in one timed call of a compiled side
    threshold: float = 0.0  # mean return counted as learned
    threshold_steps: int = 0  # of one seed, in the learning run

    @property
    def name(self) -> str:
        """What all seeds of one comparison share."""
        if self.algorithm in ("ppo", "brax"):
            return f"{self.algorithm} {self.env}, {self.num_envs} envs"
        per = f"{self.updates}/{self.num_envs}" if self.updates != self.num_envs else "1"
        return f"{self.algorithm} {self.env}, {self.num_envs} envs, {per} updates per step"

    @property
    def idle(self) -> int:
        """First steps of a run, which nothing is learned from: they are not counted."""
        return 0 if self.algorithm in ("ppo", "brax") else self.warmup

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "hidden": tuple(values["hidden"])})


def per_seed(total: int, seeds: int, least: int) -> int:
    """Steps of one seed, so that all seeds together take `total`: the length of a measurement."""
    return max(least, total // seeds)


def ppo(num_envs: int = 4, seeds: int = 1, total: int = 400_000) -> Task:
    """CleanRL's shape: 128 steps, 4 epochs of 4 minibatches, actor and critic apart, 64-wide."""
    iteration = num_envs * 128
    steps = per_seed(total, seeds, 4 * iteration) // iteration * iteration
    return Task(
        "ppo", "CartPole-v1", num_envs, seeds, steps=steps, threshold=400, threshold_steps=300_000
    )


def dqn(updates: int = 1, seeds: int = 1, total: int = 100_000) -> Task:
    """10 environments; one update per vector step, or `updates=10` for one per environment step."""
    steps = per_seed(total // updates, seeds, 4_000 if updates == 1 else 1_500) // 10 * 10 + 500
    return Task(
        "dqn", "CartPole-v1", 10, seeds, updates=updates, steps=steps, lr=1e-3,
        threshold=400, threshold_steps=200_000,
    )  # fmt: skip


def sac(seeds: int = 1, total: int = 1_000) -> Task:
    """Pendulum, 256-wide, batch 256, one update per step; the replay holds a whole run."""
    return Task(
        "sac", "Pendulum-v1", 1, seeds, hidden=(256, 256), batch_size=256, lr=1e-3,
        capacity=20_000, warmup=256, steps=per_seed(total, seeds, 400) + 256,
        threshold=-200, threshold_steps=15_000,
    )  # fmt: skip


def brax(seeds: int = 1, total: int = 200_000) -> Task:
    """Brax's own PPO on one of Brax's own tasks: 64 environments x 16 steps, 4 x 4 minibatches."""
    return Task(
        "brax", "inverted_pendulum", 64, seeds, num_steps=16, lr=3e-4,
        steps=per_seed(total, seeds, 65_536) // 1024 * 1024,
    )  # fmt: skip


TASKS = {"ppo": ppo, "dqn": dqn, "sac": sac, "brax": brax}
