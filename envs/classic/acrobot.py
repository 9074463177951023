"""Acrobot: two links hang from a pivot, a motor sits between them; swing the end up.

Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse coding"
(1996), with the equations of Sutton and Barto's book and the constants of Gymnasium's Acrobot-v1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Canvas, Picture
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step

Four: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

SPEEDS = (4 * jnp.pi, 9 * jnp.pi)


@struct
class Acrobot:
    """-1 for every step until the end of the lower link is `goal_height` above the pivot.

    The state is two angles and their speeds; angle 1 is measured from hanging down, angle 2 from
    being in line with link 1. The observation is cos and sin of both, then the speeds."""

    gravity: Float = param("gravity", default=9.8, low=0.0)
    length_1: Float = param("length of link 1", default=1.0, above=0.0)
    mass_1: Float = param("mass of link 1", default=1.0, above=0.0)
    mass_2: Float = param("mass of link 2", default=1.0, above=0.0)
    center_1: Float = param(
        "from the pivot to the centre of mass of link 1", default=0.5, above=0.0
    )
    center_2: Float = param(
        "from the joint to the centre of mass of link 2", default=0.5, above=0.0
    )
    inertia: Float = param("moment of inertia of either link", default=1.0, above=0.0)
    max_speed_1: Float = param("speed 1 is clipped to this", default=SPEEDS[0], above=0.0)
    max_speed_2: Float = param("speed 2 is clipped to this", default=SPEEDS[1], above=0.0)
    torque: Float = param("torque of actions 0 (negative) and 2", default=1.0, above=0.0)
    dt: Float = param("seconds per step", default=0.2, above=0.0)
    goal_height: Float = param("height to reach, for links of length 1", default=1.0)
    start_range: Float = param(
        "starts are uniform within this of hanging down", default=0.1, low=0.0
    )

    fps = 15

    @property
    def obs_space(self) -> Box:
        high = np.array([1.0, 1.0, 1.0, 1.0, *SPEEDS], np.float32)
        return Box(-high, high)

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        state = jax.random.uniform(key, (4,), jnp.float32, -1, 1) * self.start_range
        return state, self._observe(state)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        torque = (action - 1) * self.torque
        angle_1, angle_2, speed_1, speed_2 = self._integrate(state, torque)
        angle_1, angle_2 = _wrap(angle_1), _wrap(angle_2)
        speed_1 = jnp.clip(speed_1, -self.max_speed_1, self.max_speed_1)
        speed_2 = jnp.clip(speed_2, -self.max_speed_2, self.max_speed_2)
        state = jnp.stack([angle_1, angle_2, speed_1, speed_2])
        reached = -jnp.cos(angle_1) - jnp.cos(angle_1 + angle_2) > self.goal_height
        reward = jnp.where(reached, 0.0, -1.0).astype(jnp.float32)
        return state, Step(self._observe(state), reward, reached, jnp.zeros((), bool))

    def render(self, state: jax.Array) -> Picture:
        angle_1, angle_2 = map(float, np.asarray(state)[:2])
        joint = (math.sin(angle_1), -math.cos(angle_1))
        both = angle_1 + angle_2
        end = (joint[0] + math.sin(both), joint[1] - math.cos(both))
        canvas = Canvas(320, 320, (-2.3, 2.3), (-2.3, 2.3))
        goal = float(self.goal_height)
        canvas.dashes((-2.3, goal), (2.3, goal), palette.GREEN, 2)
        canvas.line([(0, 0), joint], palette.INK, 10)
        canvas.line([joint, end], palette.BLUE, 10)
        canvas.disc((0, 0), 0.09, palette.GREY)
        canvas.disc(joint, 0.09, palette.ORANGE)
        return canvas.picture()

    def _observe(self, state: jax.Array) -> jax.Array:
        cos, sin = jnp.cos(state[:2]), jnp.sin(state[:2])
        return jnp.stack([cos[0], sin[0], cos[1], sin[1], state[2], state[3]])

    def _integrate(self, state: jax.Array, torque: jax.Array) -> Four:
        """One step of the classical Runge-Kutta method of fourth order."""
        y = (state[0], state[1], state[2], state[3])

        def moved(k: Four, dt: Float) -> Four:
            return (y[0] + dt * k[0], y[1] + dt * k[1], y[2] + dt * k[2], y[3] + dt * k[3])

        k1 = self._rates(y, torque)
        k2 = self._rates(moved(k1, self.dt / 2), torque)
        k3 = self._rates(moved(k2, self.dt / 2), torque)
        k4 = self._rates(moved(k3, self.dt), torque)
        a, b, c, d = (p + 2 * q + 2 * r + s for p, q, r, s in zip(k1, k2, k3, k4))
        return moved((a, b, c, d), self.dt / 6)

    def _rates(self, y: Four, torque: jax.Array) -> Four:
        """Time derivatives of the two angles and the two speeds."""
        angle_1, angle_2, speed_1, speed_2 = y
        m1, m2, l1, c1, c2 = self.mass_1, self.mass_2, self.length_1, self.center_1, self.center_2
        sin_2, cos_2 = jnp.sin(angle_2), jnp.cos(angle_2)
        coupling = m2 * l1 * c2
        d2 = m2 * c2**2 + coupling * cos_2 + self.inertia
        d1 = m1 * c1**2 + m2 * (l1**2 + c2**2) + 2 * coupling * cos_2 + 2 * self.inertia
        phi2 = m2 * c2 * self.gravity * jnp.sin(angle_1 + angle_2)
        phi1 = (
            -coupling * sin_2 * speed_2 * (speed_2 + 2 * speed_1)
            + (m1 * c1 + m2 * l1) * self.gravity * jnp.sin(angle_1)
            + phi2
        )
        acc_2 = (torque + d2 / d1 * phi1 - coupling * sin_2 * speed_1**2 - phi2) / (
            m2 * c2**2 + self.inertia - d2**2 / d1
        )
        acc_1 = -(d2 * acc_2 + phi1) / d1
        return speed_1, speed_2, acc_1, acc_2


def _wrap(angle: jax.Array) -> jax.Array:
    """The same angle in [-pi, pi]; one that is there already keeps its bits."""
    return angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))
