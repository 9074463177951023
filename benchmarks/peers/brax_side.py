"""Brax's own PPO trainer on one of Brax's tasks.

brax 0.14.2 calls `jax.device_put_replicated`, which JAX 0.10 no longer has; the function below does
what it did. Brax's trainer takes no batch of keys, so there is one seed. It calls back after every
epoch, and waits there until the next measurement.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers import Options, Prepared
from benchmarks.settings import Task

EPOCHS = 64
"""Measurements that can be made at most."""


def _replicated(tree: Any, devices: list[Any]) -> Any:
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * len(devices)), tree)


def prepare(task: Task, options: Options) -> Prepared:
    if task.seeds != 1:
        raise ValueError("Brax's trainer runs one seed.")
    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = _replicated  # pyright: ignore[reportAttributeAccessIssue]
    from brax import envs
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo import train as ppo

    env = envs.get_environment(task.env, backend="spring")
    go, finished = threading.Semaphore(0), queue.Queue()

    def nets(*args: Any, **kwargs: Any) -> Any:
        return networks.make_ppo_networks(
            *args,
            **kwargs,
            policy_hidden_layer_sizes=task.hidden,
            value_hidden_layer_sizes=task.hidden,
            activation=jax.nn.tanh,
        )

    def progress(steps: int, metrics: Any) -> None:
        finished.put(steps)
        go.acquire()

    def train() -> None:
        try:
            ppo.train(
                environment=env,
                num_timesteps=EPOCHS * task.steps,
                num_evals=EPOCHS + 1,
                run_evals=False,
                episode_length=1000,
                num_envs=task.num_envs,
                unroll_length=task.num_steps,
                batch_size=task.num_envs // task.minibatches,
                num_minibatches=task.minibatches,
                num_updates_per_batch=task.epochs,
                learning_rate=task.lr,
                discounting=task.gamma,
                entropy_cost=0.01,
                max_grad_norm=0.5,
                normalize_observations=False,
                network_factory=nets,
                progress_fn=progress,
            )
        except BaseException as error:  # handed to whoever waits
            finished.put(error)

    made = 0

    def wait() -> int:
        steps = finished.get()
        if isinstance(steps, BaseException):
            raise steps
        return steps

    def run(seconds: float) -> int:
        del seconds
        nonlocal made
        go.release()
        before, made = made, wait()
        return made - before

    began = time.perf_counter()
    threading.Thread(target=train, daemon=True).start()
    made = wait()  # the first epoch compiles
    first = time.perf_counter() - began
    began = time.perf_counter()
    run(0)
    return Prepared(max(0.0, first - (time.perf_counter() - began)), run)
