"""Breakout from MinAtar (Young and Tian 2019): break bricks with a ball that must not fall."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture, board
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, Step

SIZE = 10
BOTTOM = SIZE - 1
ROW = np.arange(SIZE, dtype=np.int32)[:, None]
COLUMN = np.arange(SIZE, dtype=np.int32)[None, :]
WALL = np.broadcast_to((ROW >= 1) & (ROW < 4), (SIZE, SIZE))


def cell(position: jax.Array) -> jax.Array:
    """[2] row, column -> [10, 10] bool, true in that one place. A mask fuses; a gather does not."""
    return (position[0] == ROW) & (position[1] == COLUMN)


@struct
class Board:
    ball: jax.Array  # [2] int32: row, column
    trail: jax.Array  # [2] int32: where the ball was before
    velocity: jax.Array  # [2] int32: -1 or 1 each
    paddle: jax.Array  # int32: column
    bricks: jax.Array  # [10, 10] bool
    struck: jax.Array  # bool: the last step broke a brick or flew through one
    last_action: jax.Array  # int32


def serve(right: jax.Array) -> Board:
    """The first board: the ball falls to the left from the right side, or (`right` false) to the
    right from the left side."""
    ball = jnp.stack([jnp.asarray(3, jnp.int32), jnp.where(right, BOTTOM, 0).astype(jnp.int32)])
    velocity = jnp.stack([jnp.asarray(1, jnp.int32), jnp.where(right, -1, 1).astype(jnp.int32)])
    return Board(
        ball=ball,
        trail=ball,
        velocity=velocity,
        paddle=jnp.asarray(4, jnp.int32),
        bricks=jnp.asarray(WALL),
        struck=jnp.zeros((), bool),
        last_action=jnp.zeros((), jnp.int32),
    )


def advance(state: Board, action: jax.Array) -> tuple[Board, jax.Array, jax.Array]:
    """One step with the action that is really taken -> board, reward, terminated. No chance in it:
    all the game's luck is in the serve and in sticky actions."""
    move = (action == 2).astype(jnp.int32) - (action == 1).astype(jnp.int32)
    paddle = jnp.clip(state.paddle + move, 0, BOTTOM)

    row, column = state.ball[0], state.ball[1]
    down, right = state.velocity[0], state.velocity[1]
    new_row, new_column = row + down, column + right

    # At a side wall the ball slides along it for one step.
    right = jnp.where((new_column < 0) | (new_column > BOTTOM), -right, right)
    new_column = jnp.clip(new_column, 0, BOTTOM)

    # Above the board no brick can be met, nor where a brick is met the floor.
    above = new_row < 0
    new_row = jnp.maximum(new_row, 0)
    target = cell(jnp.stack([new_row, new_column]))
    on_brick = jnp.any(state.bricks & target) & ~above
    at_floor = (new_row == BOTTOM) & ~above & ~on_brick

    # Right after a strike the ball flies through the next brick and leaves it whole.
    broken = on_brick & ~state.struck
    bricks = state.bricks & ~(target & broken)
    bricks = jnp.where(at_floor & ~jnp.any(bricks), WALL, bricks)

    # A paddle under the ball sends it up; one that the ball reaches by its side also turns it back.
    under = at_floor & (column == paddle)
    aside = at_floor & ~under & (new_column == paddle)
    lost = at_floor & ~under & ~aside
    new_row = jnp.where(broken | under | aside, row, new_row)
    down = jnp.where(above | broken | under | aside, -down, down)
    right = jnp.where(aside, -right, right)

    state = Board(
        ball=jnp.stack([new_row, new_column]),
        trail=state.ball,
        velocity=jnp.stack([down, right]),
        paddle=paddle,
        bricks=bricks,
        struck=on_brick,
        last_action=action.astype(jnp.int32),
    )
    return state, broken.astype(jnp.float32), lost


def observe(state: Board) -> jax.Array:
    """-> [10, 10, 4] bool: paddle, ball, trail, bricks."""
    paddle = (ROW == BOTTOM) & (state.paddle == COLUMN)
    return jnp.stack([paddle, cell(state.ball), cell(state.trail), state.bricks], axis=-1)


_seen = jax.jit(observe)
CELL = 28
COLORS = (palette.RED, palette.mix(palette.GREY, "#15181c", 0.6), palette.PAPER, palette.SKY)
"""Of the planes as they are drawn, from below to the top."""


@struct
class Breakout:
    """+1 for each brick; when all are gone and the ball is back at the floor, a new wall stands.
    The episode ends when the ball falls past the paddle. Actions: stay, left, right."""

    sticky: Float = param(
        "probability that the last action is taken again", default=0.1, low=0.0, high=1.0
    )

    fps = 15

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (SIZE, SIZE, 4), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(3)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Board, jax.Array]:
        state = serve(jax.random.bernoulli(key))
        return state, observe(state)

    def step(self, state: Board, action: jax.Array, key: Key) -> tuple[Board, Step]:
        repeat = jax.random.uniform(key) < self.sticky
        action = jnp.where(repeat, state.last_action, action)
        state, reward, lost = advance(state, action)
        return state, Step(observe(state), reward, lost, jnp.zeros((), bool))

    def render(self, state: Board) -> Picture:
        planes = np.asarray(_seen(state))
        return board(planes[..., (3, 2, 1, 0)], COLORS, CELL)
