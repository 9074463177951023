"""Pendulum: swing a pendulum up with a motor that is too weak, and hold it there."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Canvas, Picture
from jaxrl.spaces import Box
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step

MAX_ACTION = 2.0


@struct
class Pendulum:
    """The cost is angle^2 + 0.1 speed^2 + 0.001 torque^2, with the angle measured from upright.
    It never terminates. The state is (angle, speed); the observation (cos, sin, speed).

    Actions lie in [-2, 2] whatever `max_torque` is (a space cannot depend on a traced number);
    2 means `max_torque`."""

    gravity: Float = param("gravity", default=10.0, low=0.0)
    mass: Float = param("mass", default=1.0, above=0.0)
    length: Float = param("length", default=1.0, above=0.0)
    dt: Float = param("seconds per step", default=0.05, above=0.0)
    max_speed: Float = param("angular speed is clipped to this", default=8.0, above=0.0)
    max_torque: Float = param("torque at action 2", default=2.0, above=0.0)
    start_angle: Float = param("starts are uniform within this of upright", default=jnp.pi, low=0.0)
    start_speed: Float = param("starts are uniform within this of rest", default=1.0, low=0.0)

    fps = 20

    @property
    def obs_space(self) -> Box:
        return Box([-1.0, -1.0, -8.0], [1.0, 1.0, 8.0])

    @property
    def action_space(self) -> Box:
        return Box(-MAX_ACTION, MAX_ACTION, (1,))

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        spread = jnp.stack([jnp.asarray(self.start_angle), jnp.asarray(self.start_speed)])
        state = jax.random.uniform(key, (2,), jnp.float32, -1, 1) * spread
        return state, self._observe(state)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        angle, speed = state[0], state[1]
        torque = jnp.clip(action[0], -MAX_ACTION, MAX_ACTION) * (self.max_torque / MAX_ACTION)
        from_upright = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = from_upright**2 + 0.1 * speed**2 + 0.001 * torque**2
        pull = 3 * self.gravity / (2 * self.length) * jnp.sin(angle)
        speed = speed + (pull + 3 / (self.mass * self.length**2) * torque) * self.dt
        speed = jnp.clip(speed, -self.max_speed, self.max_speed)
        state = jnp.stack([angle + speed * self.dt, speed])
        no = jnp.zeros((), bool)
        return state, Step(self._observe(state), -cost, no, no)

    def _observe(self, state: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def render(self, state: jax.Array) -> Picture:
        angle, length = float(np.asarray(state)[0]), float(self.length)
        reach = 1.35 * length
        canvas = Canvas(280, 280, (-reach, reach), (-reach, reach))
        end = (-length * math.sin(angle), length * math.cos(angle))  # turning left is positive
        canvas.line([(0, 0), end], palette.RED, 16)
        canvas.disc((0, 0), 0.05 * length, palette.INK)
        return canvas.picture()
