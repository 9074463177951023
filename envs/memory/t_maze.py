"""T-maze: a sign at the start says which way to turn at the end of a corridor (Bakker 2002)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Canvas, Picture
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step

NORTH, EAST, SOUTH, WEST = range(4)


@struct
class Place:
    north: jax.Array  # bool: the goal lies north of the junction
    x: jax.Array  # int32, 0 at the start and `length` at the junction


@struct
class TMaze:
    """The agent starts at the west end of a corridor of `length` steps. At the junction in the east
    it turns north or south, which ends the episode: 4 if the goal is there, else -0.1. Running into
    a wall costs 0.1 and moves nothing.

    The three bits of the observation are 011 (goal in the north) or 110 (south) at the start, 101
    in the corridor, 010 at the junction. With memory the best return is 4, without it 1.95, the
    mean of both turns."""

    goal: Float = param("reward for the right turn", default=4.0)
    cost: Float = param("cost of the wrong turn, and of running into a wall", default=0.1)
    length: int = static("steps from the start to the junction", default=10, low=1)

    fps = 5

    @property
    def obs_space(self) -> Box:
        return Box(0.0, 1.0, (3,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(4)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Place, jax.Array]:
        state = Place(jax.random.bernoulli(key), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, state: Place, action: jax.Array, key: Key) -> tuple[Place, Step]:
        del key
        across = (action == NORTH) | (action == SOUTH)
        turned = across & (state.x == self.length)
        move = jnp.where(action == EAST, 1, jnp.where(action == WEST, -1, 0))
        x = jnp.clip(state.x + move, 0, self.length).astype(jnp.int32)
        right = turned & ((action == NORTH) == state.north)
        reward = jnp.where(right, self.goal, jnp.where(x == state.x, -self.cost, 0.0))
        state = Place(state.north, x)
        step = Step(self._observe(state), reward.astype(jnp.float32), turned, jnp.zeros((), bool))
        return state, step

    def _observe(self, state: Place) -> jax.Array:
        sign = jnp.where(state.north, jnp.array([0, 1, 1]), jnp.array([1, 1, 0]))
        corridor, junction = jnp.array([1, 0, 1]), jnp.array([0, 1, 0])
        elsewhere = jnp.where(state.x == self.length, junction, corridor)
        return jnp.where(state.x == 0, sign, elsewhere).astype(jnp.float32)

    def render(self, state: Place) -> Picture:
        """The goal is green; the sign at the start is shown only while the agent sees it."""
        n, x, north = self.length, int(np.asarray(state.x)), bool(np.asarray(state.north))
        cell = max(16, min(40, 480 // (n + 2) // 2 * 2))
        canvas = Canvas((n + 2) * cell, 4 * cell, (-1, n + 1), (-2, 2))
        for place in [*((i, 0) for i in range(n + 1)), (n, 1), (n, -1)]:
            canvas.box((place[0], place[1]), 0.96, 0.96, palette.FAINT)
        side = 1 if north else -1
        canvas.box((n, side), 0.96, 0.96, palette.GREEN)
        canvas.box((n, -side), 0.96, 0.96, palette.RED)
        if x == 0:
            tip, foot = (0, side * 1.1), side * 0.65
            canvas.polygon([tip, (-0.25, foot), (0.25, foot)], palette.GREEN)
        canvas.disc((x, 0), 0.3, palette.BLUE)
        return canvas.picture()
