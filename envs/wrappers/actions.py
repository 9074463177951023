"""Other actions than those the agent chose."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import spaces
from jaxrl.drawing import Picture, render
from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.rollout import inherit
from jaxrl.spaces import Box
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, PyTree, Step


@struct
class RescaleAction(Wrapper):
    """Actions in [-1, 1], clipped and mapped linearly onto the bounds of `env`."""

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, self._inner_space().shape)

    def _inner_space(self) -> Box:
        space = self.env.action_space
        if not isinstance(space, Box) or not space.bounded:
            raise TypeError(
                f"RescaleAction needs a Box of actions with finite bounds, not "
                f"{spaces.describe(space)}; leave the wrapper out, or give the space bounds."
            )
        return space

    def step(self, state: Any, action: jax.Array, key: Key) -> tuple[Any, Step]:
        space = self._inner_space()
        low, high = jnp.asarray(space.low), jnp.asarray(space.high)
        part = (jnp.clip(action, -1.0, 1.0) + 1) / 2  # 0 .. 1
        inner = low + part * (high - low)
        return self.env.step(state, inner.astype(space.dtype), key)


@struct
class Sticky:
    """The action that was executed last, and whether there is one."""

    inner: PyTree
    last_action: jax.Array
    first: jax.Array  # bool


@struct
class StickyAction(Wrapper):
    """With probability `prob` the last executed action is repeated instead of the chosen one
    (Machado et al., 2018, section 5.2). The first action of an episode is always the chosen one."""

    prob: Float = param("probability of repeating the last action", default=0.25, low=0.0, high=1.0)

    def reset(self, key: Key) -> tuple[Sticky, PyTree]:
        state, obs = self.env.reset(key)
        return Sticky(state, spaces.zeros(self.action_space), jnp.ones((), bool)), obs

    def step(self, state: Sticky, action: jax.Array, key: Key) -> tuple[Sticky, Step]:
        stick_key, env_key = jax.random.split(key)
        repeat = jax.random.bernoulli(stick_key, self.prob) & ~state.first
        action = jnp.where(repeat, state.last_action, action).astype(state.last_action.dtype)
        inner, step = self.env.step(state.inner, action, env_key)
        return Sticky(inner, action, jnp.zeros((), bool)), step

    def render(self, state: Sticky) -> Picture:
        return render(self.env, state.inner)

    def inherit(self, state: Sticky, fresh: Sticky) -> Sticky:
        return dataclasses.replace(fresh, inner=inherit(self.env, state.inner, fresh.inner))
