"""LongWalk: a walk in long jumps over a thousand places (Sutton & Barto, example 9.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.envs.tabular.random_walk import Walk
from jaxrl.struct import Float, param, static, struct


@struct
class LongWalk(Walk):
    """One starts in the middle of `length` places and jumps 1 to `jump` of them to the left or to
    the right, all equally likely; a jump beyond an end ends the episode there. States 1 to `length`
    are the places, 0 and `length` + 1 the ends. There is one action, which does nothing: the task
    is to predict with few features."""

    length: int = static("places", default=1000, low=1)
    jump: int = static("places of the longest jump", default=100, low=1)
    left_reward: Float = param("reward at the left end", default=-1.0)
    right_reward: Float = param("reward at the right end", default=1.0)

    @property
    def num_outcomes(self) -> int:
        return 2 * self.jump

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del state, action
        return jnp.full(2 * self.jump, 0.5 / self.jump)

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        del action
        by = jnp.where(k < self.jump, k - self.jump, k - self.jump + 1)  # never 0
        return self.arrive(state + by)
