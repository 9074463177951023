"""jaxrl itself, by its public entry point and nothing else: `jaxrl.train`, called twice."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import jaxrl
from benchmarks.peers import LEARNERS, Curve, Options, Prepared
from benchmarks.settings import Task
from jaxrl.agents.value.dqn import Hard
from jaxrl.networks import MLP


def agent_for(task: Task) -> Any:
    if task.algorithm in ("ppo", "brax"):
        return jaxrl.PPO(
            lr=task.lr,
            gamma=task.gamma,
            num_envs=task.num_envs,
            num_steps=task.num_steps,
            epochs=task.epochs,
            minibatches=task.minibatches,
            actor=MLP(task.hidden),
            critic=MLP(task.hidden),
        )
    common: dict[str, Any] = dict(
        gamma=task.gamma,
        num_envs=task.num_envs,
        batch_size=task.batch_size,
        capacity=task.capacity,
        grad_steps=task.updates,
        learning_starts=task.warmup,
    )
    if task.algorithm == "dqn":
        copies = task.copy_every * task.updates // task.num_envs  # it counts gradient steps
        return jaxrl.DQN(
            **common, lr=task.lr, torso=MLP(task.hidden, nn.relu), copy=Hard(copies),
            epsilon_end=0.05, explore_share=0.5,
        )  # fmt: skip
    net = MLP(task.hidden, nn.relu)
    return jaxrl.SAC(
        **common, actor_lr=task.lr, critic_lr=task.lr, alpha_lr=task.lr, actor=net, critic=net
    )


def env_for(task: Task) -> Any:
    if task.algorithm == "brax":
        return jaxrl.envs.make(f"brax/{task.env}", backend="spring")
    return jaxrl.envs.make(task.env)


def keys_for(seeds: int, seed: int) -> jax.Array:
    key = jax.random.key(seed)
    return key if seeds == 1 else jax.random.split(key, seeds)


def prepare(task: Task, options: Options) -> Prepared:
    agent, env = agent_for(task), env_for(task)
    seeds = itertools.count()

    def train() -> jaxrl.Result:
        result = jaxrl.train(
            agent, env, keys_for(task.seeds, next(seeds)), steps=task.steps, progress=False
        )
        return jax.block_until_ready(result)

    first = train()

    def run(seconds: float) -> int:
        del seconds
        return (int(train().steps.ravel()[-1]) - task.idle) * task.seeds

    def curve() -> Curve:
        result = jaxrl.train(
            agent, env, keys_for(LEARNERS, 1000), steps=task.threshold_steps, progress=False,
            log_every=task.threshold_steps // 30,
        )  # fmt: skip
        steps = np.atleast_2d(np.asarray(result.steps))[0]  # the same for every seed
        return steps, np.atleast_2d(np.asarray(result.metrics["episode/return"]))

    return Prepared(first.compile_seconds, run, curve)
