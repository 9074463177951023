"""`evaluate_policy` and `make_vec_env`, and what is taken as an environment."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl import checks, host, host_play, lanes, spaces
from jaxrl.evaluate import MAX_STEPS, play
from jaxrl.host import HostEnv
from jaxrl.types import Env, PyTree, Spec


def as_env(env: Any, n_envs: int | None = None) -> Any:
    """A name, an environment of Gymnasium or a list of such, or one of this library."""
    if isinstance(env, HostEnv):
        if n_envs not in (None, env.num_envs or n_envs):
            raise ValueError(f"n_envs={n_envs}, but env holds {env.num_envs}: leave n_envs out.")
        return env
    if isinstance(env, Env):
        return env
    if isinstance(env, str):
        return jaxrl.envs.from_gymnasium(env, n_envs or 1)
    return jaxrl.envs.from_gymnasium(env, n_envs)


def make_vec_env(
    env_id: Any,
    n_envs: int = 1,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    wrapper_class: Any = None,
    vec_env_cls: Any = None,
    **others: Any,
) -> HostEnv:
    """`n_envs` environments of Gymnasium. Their seeds follow from that of the model."""
    if others or vec_env_cls is not None:
        name = next(iter(others), "vec_env_cls")
        raise TypeError(
            f"make_vec_env({name}=...) is not supported: write jaxrl.envs.from_gymnasium(env, "
            "num_envs, vector=gymnasium.vector.AsyncVectorEnv) for processes, and wrappers inside "
            "of a function that makes the environment."
        )
    del seed
    import gymnasium

    kwargs = env_kwargs or {}
    if wrapper_class is None and isinstance(env_id, str):
        return jaxrl.envs.from_gymnasium(env_id, n_envs, **kwargs)

    def build() -> Any:
        env = gymnasium.make(env_id, **kwargs) if isinstance(env_id, str) else env_id(**kwargs)
        return env if wrapper_class is None else wrapper_class(env)

    return jaxrl.envs.from_gymnasium(build, n_envs)


def as_obs(space: spaces.Space, obs: Any) -> PyTree:
    """What a Gymnasium environment shows, in the types of ours."""
    if isinstance(space, spaces.Dict):
        parts = obs if isinstance(obs, dict) else {str(i): x for i, x in enumerate(obs)}
        return {name: as_obs(part, parts[name]) for name, part in space.items}
    return np.asarray(obs).astype(space.dtype)


@functools.partial(jax.jit, static_argnames=("spec", "episodes", "max_steps", "explore"))
def _play(
    agent: Any,
    env: Any,
    state: PyTree,
    key: Any,
    *,
    spec: Spec,
    episodes: int,
    max_steps: int,
    explore: bool,
) -> Any:
    return play(agent, env, spec, state, key, episodes, max_steps, explore)


def evaluate_policy(
    model: Any,
    env: Any = None,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Any = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
) -> Any:
    """Play `n_eval_episodes` episodes -> mean and standard deviation of their returns, or with
    `return_episode_rewards` the lists of returns and lengths."""
    del warn
    checks.positive_int(n_eval_episodes, "n_eval_episodes")
    if render or callback is not None:
        raise TypeError(
            f"evaluate_policy({'render' if render else 'callback'}=...) is not supported: step a "
            "Gymnasium environment with model.predict instead."
        )
    env = as_env(model.env if env is None else env)
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    checks.same_task(model.spec, spec)
    policy, key = model.policy, model._next_key()
    if isinstance(env, HostEnv):
        played = host_play.play(
            policy.agent,
            (None, lanes.stack_one(policy.state), key[None]),
            env,
            n_eval_episodes,
            MAX_STEPS,
            host.arrange(1, None),
            explore=not deterministic,
        )
        returns, lengths = played.returns[0], played.lengths[0]
    else:
        played = _play(
            policy.agent,
            jax.tree.map(jnp.asarray, env),
            policy.state,
            key,
            spec=spec,
            episodes=n_eval_episodes,
            max_steps=MAX_STEPS,
            explore=not deterministic,
        )
        returns, lengths = played.returns, played.lengths
    returns = np.asarray(returns, np.float64)
    if reward_threshold is not None and returns.mean() <= reward_threshold:
        raise AssertionError(
            f"mean return {returns.mean():.2f} is not above reward_threshold={reward_threshold}"
        )
    if return_episode_rewards:
        return returns.tolist(), np.asarray(lengths).tolist()
    return float(returns.mean()), float(returns.std())
