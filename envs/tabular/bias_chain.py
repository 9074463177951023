"""MaximizationBias: where the largest of noisy estimates misleads (Sutton & Barto, example 6.7)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.finite import Finite
from jaxrl.spaces import Box, Dict, Discrete, Space
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, PyTree, Step

A, B, END = range(3)


@struct
class MaximizationBias(Finite):
    """Two states. In A, action 1 (right) ends the episode and action 0 (left) leads to B, both with
    reward 0. In B every action ends it with a reward from N(mean, std^2), so that left loses on
    average. Only two actions are allowed in A: the observation is {"observation": the state,
    "action_mask": ...}, or the state alone with masked=False; other actions then go right."""

    count: int = static("actions in B", default=10, low=2)
    masked: bool = static("whether the observation has an action mask", default=True)
    mean: Float = param("mean reward in B", default=-0.1)
    std: Float = param("standard deviation of the reward in B", default=1.0, low=0.0)

    @property
    def num_states(self) -> int:
        return 3

    @property
    def num_actions(self) -> int:
        return self.count

    @property
    def starts(self) -> np.ndarray:
        return np.array([A])

    @property
    def obs_space(self) -> Space:
        if not self.masked:
            return Discrete(3)
        mask = Box(0, 1, (self.count,), np.bool_)
        return Dict({"observation": Discrete(3), "action_mask": mask})

    def observe(self, state: jax.Array) -> PyTree:
        if not self.masked:
            return state
        mask = (state != A) | (jnp.arange(self.count) < 2)
        return {"observation": state, "action_mask": mask}

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        del k
        left = (state == A) & (action == 0)
        return jnp.where(left, B, END), jnp.where(state == B, self.mean, 0.0), ~left

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        after, step = super().step(state, action, key)
        noise = jnp.where(state == B, self.std * jax.random.normal(key), 0.0)
        return after, dataclasses.replace(step, reward=(step.reward + noise).astype(jnp.float32))
