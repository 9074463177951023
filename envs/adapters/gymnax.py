"""gymnax (1.0.1 or newer): `jaxrl.envs.make("gymnax/Asterix-MinAtar")`.

Only the raw `step_env` and `reset_env` are used. The natural end of an episode comes from there;
the time limit is gymnax's own `is_truncated`. Options are fields of the environment's parameters:
`make("gymnax/CartPole-v1", gravity=5.0)`; those that are floats are traced.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.envs.adapters import settled
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Step


@struct
class Gymnax:
    """A gymnax environment. `constants` are its float parameters, `settings` all others."""

    constants: dict[str, Any]
    env: Any = static("the gymnax environment, compared by identity")
    settings: Any = static("its parameters that are not floats")
    obs_space: spaces.Space = static("what it shows")
    action_space: spaces.Space = static("what it takes")

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        for name, (env, _) in _made.items():
            if env is self.env:
                fields = dataclasses.fields(self.settings.value)
                settings = {f.name: getattr(self.settings.value, f.name) for f in fields}
                return f"gymnax/{name}", settings | self.constants
        return None

    @property
    def params(self) -> Any:
        return dataclasses.replace(self.settings.value, **self.constants)

    @property
    def time_limit(self) -> int | None:
        limit = getattr(self.settings.value, "max_steps_in_episode", None)
        if limit is None:
            return 1
        return max(1, int(limit))

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        obs, state = self.env.reset_env(key, self.params)
        return settled(state), self._typed(obs)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        params = self.params
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, params)
        terminated = jnp.asarray(terminated, bool).reshape(())
        truncated = jnp.asarray(self.env.is_truncated(state, params), bool).reshape(())
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return settled(state), Step(self._typed(obs), reward, terminated, truncated & ~terminated)

    def _typed(self, obs: PyTree) -> PyTree:
        space = self.obs_space
        if isinstance(space, spaces.Dict):
            return settled(obs)
        return jnp.asarray(obs).astype(space.dtype).reshape(space.shape)


HUGE = 1e38
"""gymnax writes the largest float32 where it means that there is no bound."""


class _Settings:
    """Static parameters: hashable by the values of their fields."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._key = (type(value).__name__, repr(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)


def convert(space: Any) -> spaces.Space:
    """A gymnax space as one of ours."""
    match type(space).__name__:
        case "Discrete":
            return spaces.Discrete(int(space.n))
        case "Box":
            low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
            low = np.where(low <= -HUGE, -np.inf, low)
            high = np.where(high >= HUGE, np.inf, high)
            return spaces.Box(low, high, space.shape, space.dtype)
        case "Dict":
            return spaces.Dict({name: convert(part) for name, part in space.spaces.items()})
        case other:
            raise TypeError(
                f"gymnax space {other} has no counterpart here; wrap the environment so that it "
                "gives a Box, Discrete or Dict."
            )


def names() -> list[str]:
    """What `make` accepts after "gymnax/"."""
    import gymnax

    return list(gymnax.registered_envs)


_made: dict[str, tuple[Any, Any]] = {}


def make(name: str, **constants: Any) -> Gymnax:
    """A gymnax environment by its name there."""
    import gymnax

    if name not in _made:  # one instance per name: gymnax compiles for each anew
        if name not in names():
            near = difflib.get_close_matches(name, names(), 3) or names()[:3]
            raise ValueError(
                f"name='gymnax/{name}' is unknown to gymnax. Did you mean {', '.join(near)}? "
                "jaxrl.envs.adapters.gymnax.names() lists all."
            )
        _made[name] = gymnax.make(name)
    env, params = _made[name]
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    for constant in constants:
        if constant not in fields:
            near = difflib.get_close_matches(constant, fields, 3) or sorted(fields)
            raise ValueError(
                f"gymnax/{name} has no constant {constant!r}. Did you mean {', '.join(near)}?"
            )
    params = dataclasses.replace(params, **constants)
    limit = "max_steps_in_episode"
    floats = {
        f: float(getattr(params, f))
        for f in fields
        if f != limit and isinstance(fields[f], float | np.floating)
    }
    return Gymnax(
        constants=floats,
        env=env,
        settings=_Settings(dataclasses.replace(params, **{f: fields[f] for f in floats})),
        obs_space=convert(env.observation_space(params)),
        action_space=convert(env.action_space(params)),
    )
