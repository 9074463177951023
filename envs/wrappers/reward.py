"""Rewards within bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step


@struct
class ClipReward(Wrapper):
    """Rewards clipped to [low, high]. Evaluate without it: the returns change."""

    low: Float = param("smallest reward", default=-1.0)
    high: Float = param("largest reward", default=1.0)

    def step(self, state: Any, action: jax.Array, key: Key) -> tuple[Any, Step]:
        state, step = self.env.step(state, action, key)
        reward = jnp.clip(step.reward, self.low, self.high)
        return state, dataclasses.replace(step, reward=reward)
