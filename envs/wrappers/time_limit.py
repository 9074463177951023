"""Episodes that stop although the task goes on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.drawing import Picture, render
from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.rollout import inherit
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Step


@struct
class Timed:
    """`t` steps have been made in this episode."""

    inner: PyTree
    t: jax.Array  # int32


@struct
class TimeLimit(Wrapper):
    """Truncates after `max_steps` steps. The observation does not tell how many are left: that the
    episode stops is no property of the task, and its value goes on."""

    keeps_model = True

    max_steps: int = static("steps in an episode at most", default=1000, low=1)

    @property
    def time_limit(self) -> int | None:
        inner = self.env.time_limit
        return self.max_steps if inner is None else min(inner, self.max_steps)

    def reset(self, key: Key) -> tuple[Timed, PyTree]:
        state, obs = self.env.reset(key)
        return Timed(state, jnp.zeros((), jnp.int32)), obs

    def step(self, state: Timed, action: jax.Array, key: Key) -> tuple[Timed, Step]:
        inner, step = self.env.step(state.inner, action, key)
        t = state.t + 1
        truncated = step.truncated | (t >= self.max_steps)
        return Timed(inner, t), dataclasses.replace(step, truncated=truncated)

    def render(self, state: Timed) -> Picture:
        return render(self.env, state.inner)

    def inherit(self, state: Timed, fresh: Timed) -> Timed:
        return dataclasses.replace(fresh, inner=inherit(self.env, state.inner, fresh.inner))
