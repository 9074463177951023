"""Return and length of the episode so far, for loops of your own.

`jaxrl.train` and `jaxrl.evaluate` keep these themselves and need no wrapper.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.drawing import Picture, render
from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.rollout import inherit
from jaxrl.struct import struct
from jaxrl.types import Key, PyTree, Step


@struct
class Statistics:
    """After the last step of an episode: its return and its length."""

    inner: PyTree
    episode_return: jax.Array  # float32
    episode_length: jax.Array  # int32


@struct
class EpisodeStatistics(Wrapper):
    """Sums the rewards that come out of `env`: put it inside a wrapper that changes rewards to see
    the original ones."""

    keeps_model = True

    def reset(self, key: Key) -> tuple[Statistics, PyTree]:
        state, obs = self.env.reset(key)
        return Statistics(state, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)), obs

    def step(self, state: Statistics, action: jax.Array, key: Key) -> tuple[Statistics, Step]:
        inner, step = self.env.step(state.inner, action, key)
        total = state.episode_return + step.reward
        return Statistics(inner, total, state.episode_length + 1), step

    def render(self, state: Statistics) -> Picture:
        return render(self.env, state.inner)

    def inherit(self, state: Statistics, fresh: Statistics) -> Statistics:
        return dataclasses.replace(fresh, inner=inherit(self.env, state.inner, fresh.inner))
