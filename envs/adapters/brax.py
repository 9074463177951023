"""Brax: `jaxrl.envs.make("brax/ant", backend="spring")`.

The raw environment is used, without Brax's training wrappers: those restart every environment from
one cached first state and put its observation where the final one belonged. Here every start is
fresh and the final observation is the true one. `max_steps` (1000) truncates, as Brax's
`episode_length` does. `backend` is "generalized", "positional", "spring" or "mjx", by default
Brax's own choice for the task. Brax breaks on new-style keys; it is given raw ones.
"""

from __future__ import annotations

import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks, spaces
from jaxrl.drawing import NoPicture, Picture
from jaxrl.envs.adapters import camera, settled
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Step

EPISODE = 1000


@struct
class Brax:
    """A Brax environment as it is: `env.step` under its own name for the end of an episode."""

    env: Any = static("the Brax environment, compared by identity")

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        for (name, *options), made in _made.items():
            if made.env is self.env:
                return f"brax/{name}", dict(options)
        return None

    @property
    def obs_space(self) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (int(self.env.observation_size),))

    @property
    def action_space(self) -> spaces.Box:
        limits = getattr(getattr(self.env, "sys", None), "actuator", None)
        ctrl = getattr(limits, "ctrl_range", None)
        size = int(self.env.action_size)
        if ctrl is None or not np.all(np.isfinite(np.asarray(ctrl))):
            return spaces.Box(-1.0, 1.0, (size,))
        ctrl = np.asarray(ctrl, np.float32)
        return spaces.Box(ctrl[:, 0], ctrl[:, 1], (size,))

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        state = settled(self.env.reset(jax.random.key_data(key)))
        return state, jnp.asarray(state.obs, jnp.float32)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        del key
        state = settled(self.env.step(state, action))
        over = jnp.asarray(state.done) > 0  # Brax's flag knows only natural ends here
        reward = jnp.asarray(state.reward, jnp.float32)
        false = jnp.zeros((), bool)
        return state, Step(jnp.asarray(state.obs, jnp.float32), reward, over, false)

    @property
    def fps(self) -> int:
        return max(1, round(1 / float(self.env.dt)))

    def render(self, state: PyTree) -> Picture:
        inner = state.pipeline_state
        if inner is None or not hasattr(self.env, "sys"):
            raise NoPicture(f"{type(self.env).__name__} has no bodies that could be drawn.")
        return camera.draw(self.env.sys.mj_model, camera.Pose(inner.q, inner.qd))


def names() -> list[str]:
    """What `make` accepts after "brax/"."""
    from brax import envs

    return sorted(envs._envs)  # pyright: ignore[reportPrivateUsage]


_made: dict[tuple[Any, ...], Brax] = {}


def make(name: str, max_steps: int = EPISODE, **options: Any) -> TimeLimit:
    """A Brax environment by its name there; `options` go to its constructor."""
    from brax import envs

    checks.positive_int(max_steps, "max_steps")
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3) or names()
        raise ValueError(f"name='brax/{name}' is unknown to Brax. There are {', '.join(near)}.")
    key = (name, *sorted(options.items()))
    if key not in _made:  # compared by identity: the same instance is the same program
        _made[key] = Brax(envs.get_environment(name, **options))
    return TimeLimit(_made[key], max_steps)
