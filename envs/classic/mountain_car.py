"""MountainCar: a car too weak to climb a hill has to swing up to the flag on top.

Moore, "Efficient memory-based learning for robot control" (1990), in the form of Sutton and Barto,
"Reinforcement learning", example 10.1, with the constants of Gymnasium's MountainCar-v0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.drawing import Picture
from jaxrl.envs.classic import hill
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step


@struct
class MountainCar:
    """-1 for every step until the flag is reached. Actions: push left, nothing, push right. The
    state is the observation: position, velocity. A wall on the left stops the car."""

    min_position: Float = param("where the wall is", default=-1.2)
    max_position: Float = param("end of the world on the right", default=0.6)
    max_speed: Float = param("speed is clipped to this", default=0.07, above=0.0)
    goal_position: Float = param("where the flag is", default=0.5)
    goal_speed: Float = param("the flag counts only at this velocity or more", default=0.0)
    force: Float = param("acceleration of a push", default=0.001, above=0.0)
    gravity: Float = param("acceleration by the steepest slope", default=0.0025, low=0.0)
    start_low: Float = param("starts are uniform from here", default=-0.6)
    start_high: Float = param("starts are uniform to here", default=-0.4)

    fps = 30

    @property
    def obs_space(self) -> Box:
        return Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32))

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        part = jax.random.uniform(key)
        position = self.start_low + part * (self.start_high - self.start_low)
        state = jnp.stack([position, jnp.zeros(())])
        return state, state

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        position, speed = state[0], state[1]
        speed = speed + (action - 1) * self.force - jnp.cos(3 * position) * self.gravity
        speed = jnp.clip(speed, -self.max_speed, self.max_speed)
        position = jnp.clip(position + speed, self.min_position, self.max_position)
        speed = jnp.where((position <= self.min_position) & (speed < 0), 0, speed)
        reached = (position >= self.goal_position) & (speed >= self.goal_speed)
        state = jnp.stack([position, speed])
        return state, Step(state, -jnp.ones((), jnp.float32), reached, jnp.zeros((), bool))

    def render(self, state: jax.Array) -> Picture:
        ends = float(self.min_position), float(self.max_position)
        return hill.draw(float(np.asarray(state)[0]), *ends, float(self.goal_position))
