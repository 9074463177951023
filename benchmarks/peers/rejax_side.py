"""rejax, as its documentation runs many seeds: `jit(vmap(train))` over keys, evaluation off.

It wants the five values that gymnax's `step` returned before 1.0. What it is given is the current
environment with the two flags joined, which costs nothing and was as fast as gymnax 0.0.9.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import rejax
from jax.sharding import PartitionSpec

from benchmarks.peers import LEARNERS, Curve, Options, Prepared
from benchmarks.settings import Task


class FiveValues:
    """gymnax 1.x with the step of gymnax 0.x."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def __deepcopy__(self, memo: Any) -> FiveValues:
        return self

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
        return self.env.reset(key, params)

    def step(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        stepped = self.env.step(key, state, action, params)
        obs, state, reward, terminated, truncated, _ = stepped
        return obs, state, reward, terminated | truncated, {}


def algorithm_for(task: Task, steps: int, evaluate_every: int | None = None) -> Any:
    env, params = gymnax.make(task.env)
    common: dict[str, Any] = dict(
        env=FiveValues(env),
        env_params=params,
        num_envs=task.num_envs,
        learning_rate=task.lr,
        gamma=task.gamma,
        total_timesteps=steps,
        eval_freq=evaluate_every or steps,
        skip_initial_evaluation=True,
    )
    replay = dict(
        num_epochs=task.updates,
        buffer_size=task.capacity,
        fill_buffer=task.warmup,
        batch_size=task.batch_size,
    )
    if task.algorithm == "ppo":
        algorithm = rejax.PPO.create(
            **common,
            num_steps=task.num_steps,
            num_epochs=task.epochs,
            num_minibatches=task.minibatches,
            max_grad_norm=0.5,
            agent_kwargs={"activation": "tanh", "hidden_layer_sizes": task.hidden},
        )
    elif task.algorithm == "dqn":
        algorithm = rejax.DQN.create(
            **common,
            **replay,
            exploration_fraction=0.5,
            polyak=0.0,
            target_update_freq=task.copy_every,
            agent_kwargs={"activation": "relu"},
        )
        if tuple(algorithm.agent.hidden_layer_sizes) != task.hidden:
            agent = algorithm.agent.clone(hidden_layer_sizes=task.hidden)
            algorithm = algorithm.replace(agent=agent)
    elif task.algorithm == "sac":
        algorithm = rejax.SAC.create(
            **common, **replay, polyak=0.995, hidden_layer_sizes=task.hidden
        )
    else:
        raise ValueError(f"rejax has no {task.algorithm}.")
    if evaluate_every is None:
        algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    return algorithm


def keys_for(task: Task, seed: int) -> jax.Array:
    key = jax.random.PRNGKey(seed)
    return key if task.seeds == 1 else jax.random.split(key, task.seeds)


def program(task: Task, algorithm: Any, devices: int) -> Any:
    def train(keys: jax.Array) -> Any:
        return algorithm.train(keys) if task.seeds == 1 else jax.vmap(algorithm.train)(keys)

    if devices > 1:
        mesh = jax.make_mesh((devices,), ("seed",))
        spec = PartitionSpec("seed")
        train = jax.shard_map(train, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(train)


def prepare(task: Task, options: Options) -> Prepared:
    if options.devices > 1:
        jax.config.update("jax_num_cpu_devices", options.devices)
    algorithm = algorithm_for(task, task.steps)
    seeds = itertools.count()
    began = time.perf_counter()
    compiled = program(task, algorithm, options.devices).lower(keys_for(task, 0)).compile()
    compile_seconds = time.perf_counter() - began
    state, _ = jax.block_until_ready(compiled(keys_for(task, next(seeds))))
    steps = int(np.max(state.global_step))
    finite = [bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(_parameters(state))]
    if not all(finite):
        raise RuntimeError("rejax's parameters are not finite.")

    def run(seconds: float) -> int:
        del seconds
        jax.block_until_ready(compiled(keys_for(task, next(seeds))))
        return (steps - task.idle) * task.seeds

    def curve() -> Curve:
        """Its own evaluation: 128 episodes, actions sampled, every thirtieth of the run."""
        every = task.threshold_steps // 30
        algorithm = algorithm_for(task, task.threshold_steps, every)
        learners = dataclasses.replace(task, seeds=LEARNERS)
        _, (_, returns) = program(learners, algorithm, 1)(keys_for(learners, 1000))
        returns = np.asarray(returns).mean(-1)
        unit = task.num_envs * (task.num_steps if task.algorithm == "ppo" else 1)
        each = -(-every // unit) * unit
        return each * np.arange(1, returns.shape[1] + 1), returns

    return Prepared(compile_seconds, run, curve)


def _parameters(state: Any) -> Any:
    names = ("actor_ts", "critic_ts", "q_ts")
    return [getattr(state, name).params for name in names if hasattr(state, name)]
