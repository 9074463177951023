"""CartPole: keep a pole upright on a cart by pushing left or right.

The equations are those of Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve
difficult learning control problems" (1983), with the constants of Gymnasium's CartPole-v1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Canvas, Picture
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step

ANGLE = 12 * jnp.pi / 180


@struct
class CartPole:
    """+1 for every step, up to and including the one in which the pole falls or the cart leaves
    the track. The state is the observation: position, velocity, angle, angular velocity."""

    gravity: Float = param("gravity", default=9.8, low=0.0)
    mass_cart: Float = param("mass of the cart", default=1.0, above=0.0)
    mass_pole: Float = param("mass of the pole", default=0.1, above=0.0)
    half_length: Float = param("half the length of the pole", default=0.5, above=0.0)
    force: Float = param("force of a push", default=10.0, above=0.0)
    dt: Float = param("seconds per step", default=0.02, above=0.0)
    max_position: Float = param("half the length of the track", default=2.4, above=0.0)
    max_angle: Float = param("angle at which the pole counts as fallen", default=ANGLE, above=0.0)
    start_range: Float = param("starts are uniform within this of zero", default=0.05, low=0.0)

    fps = 50

    @property
    def obs_space(self) -> Box:
        high = [2 * 2.4, jnp.inf, 2 * ANGLE, jnp.inf]
        return Box([-h for h in high], high)

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (4,), jnp.float32, -1, 1) * self.start_range
        return state, state

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        x_dot, theta, theta_dot = state[1], state[2], state[3]
        force = jnp.where(action == 1, self.force, -self.force)
        sin, cos = jnp.sin(theta), jnp.cos(theta)
        mass = self.mass_cart + self.mass_pole
        moment = self.mass_pole * self.half_length
        push = (force + moment * theta_dot**2 * sin) / mass
        theta_acc = (self.gravity * sin - cos * push) / (
            self.half_length * (4 / 3 - self.mass_pole * cos**2 / mass)
        )
        x_acc = push - moment * theta_acc * cos / mass
        rates = jnp.stack([x_dot, x_acc, theta_dot, theta_acc])  # [4]
        state = state + self.dt * rates
        fallen = (jnp.abs(state[0]) > self.max_position) | (jnp.abs(state[2]) > self.max_angle)
        return state, Step(state, jnp.ones((), jnp.float32), fallen, jnp.zeros((), bool))

    def render(self, state: jax.Array) -> Picture:
        x, _, angle, _ = map(float, np.asarray(state))
        limit = float(self.max_position)
        length = 2 * float(self.half_length)
        reach = limit + 0.3
        canvas = Canvas(480, 200, (-reach, reach), (-0.45, reach * 400 / 480 - 0.45))
        canvas.line([(-reach, -0.15), (reach, -0.15)], palette.FAINT, 2)
        for end in (-limit, limit):
            canvas.line([(end, -0.25), (end, -0.05)], palette.GREY, 2)
        canvas.box((x, 0), 0.5, 0.28, palette.INK)
        tip = (x + length * math.sin(angle), length * math.cos(angle))
        canvas.line([(x, 0), tip], palette.ORANGE, 8)
        canvas.disc((x, 0), 0.05, palette.PAPER)
        return canvas.picture()
