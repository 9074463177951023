"""MountainCarContinuous: the same hill with a motor that can be dosed and must be paid for.

The constants are those of Gymnasium's MountainCarContinuous-v0; its flag stands at 0.45.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.drawing import Picture
from jaxrl.envs.classic import hill
from jaxrl.spaces import Box
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step


@struct
class MountainCarContinuous:
    """+100 at the flag, minus 0.1 action^2 in every step: standing still is a local optimum.
    The state is the observation: position, velocity. A wall on the left stops the car."""

    min_position: Float = param("where the wall is", default=-1.2)
    max_position: Float = param("end of the world on the right", default=0.6)
    max_speed: Float = param("speed is clipped to this", default=0.07, above=0.0)
    goal_position: Float = param("where the flag is", default=0.45)
    goal_speed: Float = param("the flag counts only at this velocity or more", default=0.0)
    goal_reward: Float = param("reward at the flag", default=100.0)
    action_cost: Float = param("cost of a step with action 1 or -1", default=0.1, low=0.0)
    power: Float = param("acceleration at action 1", default=0.0015, above=0.0)
    gravity: Float = param("acceleration by the steepest slope", default=0.0025, low=0.0)
    start_low: Float = param("starts are uniform from here", default=-0.6)
    start_high: Float = param("starts are uniform to here", default=-0.4)

    fps = 30

    @property
    def obs_space(self) -> Box:
        return Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32))

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (1,))

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
        force = jnp.clip(action[0], -1.0, 1.0) * self.power
        speed = speed + force - jnp.cos(3 * position) * self.gravity
        speed = jnp.clip(speed, -self.max_speed, self.max_speed)
        position = jnp.clip(position + speed, self.min_position, self.max_position)
        speed = jnp.where((position <= self.min_position) & (speed < 0), 0, speed)
        reached = (position >= self.goal_position) & (speed >= self.goal_speed)
        # As in Gymnasium the cost is that of the action as given, even beyond [-1, 1].
        reward = jnp.where(reached, self.goal_reward, 0.0) - self.action_cost * action[0] ** 2
        state = jnp.stack([position, speed])
        return state, Step(state, reward, reached, jnp.zeros((), bool))

    def render(self, state: jax.Array) -> Picture:
        ends = float(self.min_position), float(self.max_position)
        return hill.draw(float(np.asarray(state)[0]), *ends, float(self.goal_position))
