"""Our environments for programs that want Gymnasium's: `jaxrl.envs.to_gymnasium(env)`.

One is a `gymnasium.Env`, several are a vector environment that resets in the step in which an
episode ends and keeps the true final observation in `infos["final_obs"]`. Each step is one compiled
call; all randomness comes from the seed of `reset`.
"""

from __future__ import annotations

from typing import Any, ClassVar

try:
    import gymnasium
except ImportError as error:
    raise ImportError("to_gymnasium needs Gymnasium: pip install 'jaxrl[envs]'.") from error

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from jaxrl import checks, spaces
from jaxrl.envs.adapters import gymnasium_spaces as convert
from jaxrl.rollout import select
from jaxrl.types import Env, Key, PyTree, Step

FPS = 30


def _reset(env: Env, key: Key) -> tuple[PyTree, PyTree]:
    return env.reset(key)


def _step(env: Env, state: PyTree, action: Any, key: Key) -> tuple[PyTree, Step]:
    return env.step(state, action, key)


def _reset_many(env: Env, keys: Key) -> tuple[PyTree, PyTree]:
    return jax.vmap(env.reset)(keys)


def _step_many(env: Env, state: PyTree, action: Any, keys: Key) -> tuple[Any, ...]:
    """-> states, observations and steps, where an episode ended those of the next one."""
    step_keys, reset_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    state, step = jax.vmap(env.step)(state, action, step_keys)
    ended = step.terminated | step.truncated
    fresh = jax.vmap(env.reset)(reset_keys)
    state, obs = select(ended, fresh, (state, step.obs))
    return state, obs, step


_reset_jit, _step_jit = jax.jit(_reset), jax.jit(_step)
_reset_many_jit, _step_many_jit = jax.jit(_reset_many), jax.jit(_step_many)


def _key(rng: np.random.Generator) -> Key:
    return jax.random.key(int(rng.integers(2**31)))


def _action(space: spaces.Space, action: Any) -> Any:
    return np.asarray(action, space.dtype if not isinstance(space, spaces.Dict) else None)


def _strong(env: Env) -> Env:
    """Constants as arrays of definite type, so that an equal environment is the same program."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), env)


class GymnasiumEnv(gymnasium.Env[Any, Any]):
    """One of our environments behind Gymnasium's interface."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "render_fps": FPS}

    def __init__(self, env: Env, render_mode: str | None = None) -> None:
        if hasattr(env, "render"):
            fps = getattr(env, "fps", FPS)
            self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}  # pyright: ignore
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode={render_mode!r}: this environment offers "
                f"{self.metadata['render_modes'] or 'no picture'}."
            )
        self.env, self.render_mode = _strong(env), render_mode
        self.observation_space = convert.back(env.obs_space)
        self.action_space = convert.back(env.action_space)
        self._state: PyTree = None
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, obs = _reset_jit(self.env, _key(self.np_random))
        self._running = True
        return self._sent(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise gymnasium.error.ResetNeeded("call reset() before the first step of an episode.")
        if not self.action_space.contains(action):
            raise ValueError(f"action={action!r} is not in {self.action_space}.")
        action = _action(self.env.action_space, action)
        self._state, step = _step_jit(self.env, self._state, action, _key(self.np_random))
        step = jax.device_get(step)
        terminated = bool(step.terminated)
        truncated = bool(step.truncated) and not terminated
        self._running = not (terminated or truncated)
        return self._sent(step.obs), float(step.reward), terminated, truncated, {}

    def _sent(self, obs: PyTree) -> Any:
        seen = convert.sent(self.env.obs_space, obs)
        return seen[()] if isinstance(self.env.obs_space, spaces.Discrete) else seen

    def render(self) -> Any:
        if self.render_mode is None:
            raise ValueError('make it with to_gymnasium(env, render_mode="rgb_array") to see it.')
        return np.asarray(self.env.render(self._state))  # pyright: ignore


class GymnasiumVectorEnv(VectorEnv[Any, Any, Any]):
    """N of our environments, in one compiled step."""

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "autoreset_mode": AutoresetMode.SAME_STEP
    }

    def __init__(self, env: Env, num_envs: int) -> None:
        self.env, self.num_envs = _strong(env), num_envs
        self.single_observation_space = convert.back(env.obs_space)
        self.single_action_space = convert.back(env.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: PyTree = None

    def _keys(self) -> Key:
        return jax.random.split(_key(self.np_random), self.num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if options:
            raise ValueError(f"options={options}: this environment takes none.")
        if isinstance(seed, list):
            keys = jnp.stack([jax.random.key(int(s)) for s in seed])
            seed = seed[0]
        else:
            keys = None
        super().reset(seed=seed)
        keys = self._keys() if keys is None else keys
        self._state, obs = _reset_many_jit(self.env, keys)
        return convert.sent(self.env.obs_space, obs), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        action = _action(self.env.action_space, actions)
        self._state, obs, step = _step_many_jit(self.env, self._state, action, self._keys())
        obs, step = jax.device_get((obs, step))
        terminated, infos = np.array(step.terminated), {}
        truncated = np.array(step.truncated) & ~terminated
        ended = terminated | truncated
        if ended.any():
            infos = {"final_obs": self._final(step.obs, ended), "_final_obs": ended}
        seen = convert.sent(self.env.obs_space, obs)
        return seen, np.array(step.reward), terminated, truncated, infos

    def _final(self, obs: PyTree, ended: Any) -> Any:
        """As Gymnasium's own have it: an array of objects, or a dict of such."""
        sent = convert.sent(self.env.obs_space, obs)
        if isinstance(sent, dict):
            return sent
        rows = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            rows[i] = sent[i]
        return rows


def to_gymnasium(env: Env, num_envs: int | None = None, render_mode: str | None = None) -> Any:
    """`env` as a `gymnasium.Env`, or `num_envs` of it as a `gymnasium.vector.VectorEnv`."""
    if isinstance(env, type) or not isinstance(env, Env):
        raise TypeError(f"env is {env!r}; give an environment such as jaxrl.envs.make(...).")
    if num_envs is None:
        return GymnasiumEnv(env, render_mode)
    checks.positive_int(num_envs, "num_envs")
    if render_mode is not None:
        raise ValueError("render_mode is for a single environment: leave num_envs out.")
    return GymnasiumVectorEnv(env, num_envs)
