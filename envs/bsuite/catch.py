"""Catch: a ball falls, a paddle at the bottom has to be under it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture, grid
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import static, struct
from jaxrl.types import Key, Step


@struct
class Falling:
    ball: jax.Array  # [2] int32: row, column
    paddle: jax.Array  # int32: column


@struct
class Catch:
    """+1 if the paddle is where the ball lands, else -1; nothing before. Actions: left, stay,
    right. The observation is the board with the ball and the paddle."""

    rows: int = static("height of the board", default=10, low=2)
    columns: int = static("width of the board", default=5, low=1)

    fps = 5

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (self.rows, self.columns), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Falling, jax.Array]:
        column = jax.random.randint(key, (), 0, self.columns, jnp.int32)
        ball = jnp.stack([jnp.zeros((), jnp.int32), column])
        state = Falling(ball, jnp.asarray(self.columns // 2, jnp.int32))
        return state, self._observe(state)

    def step(self, state: Falling, action: jax.Array, key: Key) -> tuple[Falling, Step]:
        del key
        paddle = jnp.clip(state.paddle + action - 1, 0, self.columns - 1)
        paddle = paddle.astype(jnp.int32)
        ball = state.ball.at[0].add(1)
        state = Falling(ball, paddle)
        landed = ball[0] == self.rows - 1
        reward = jnp.where(landed, jnp.where(ball[1] == paddle, 1.0, -1.0), 0.0)
        reward = reward.astype(jnp.float32)
        return state, Step(self._observe(state), reward, landed, jnp.zeros((), bool))

    def _observe(self, state: Falling) -> jax.Array:
        row, column = jnp.arange(self.rows)[:, None], jnp.arange(self.columns)
        ball = (row == state.ball[0]) & (column == state.ball[1])
        return ball | ((row == self.rows - 1) & (column == state.paddle))

    def render(self, state: Falling) -> Picture:
        rows, columns = self.rows, self.columns
        canvas = grid(rows, columns)
        row, column = map(int, np.asarray(state.ball))
        canvas.disc((column + 0.5, rows - row - 0.5), 0.3, palette.ORANGE)
        canvas.box((int(state.paddle) + 0.5, 0.2), 0.9, 0.25, palette.BLUE)
        return canvas.picture()
