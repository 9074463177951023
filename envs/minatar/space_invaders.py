"""Space Invaders from MinAtar (Young and Tian 2019): shoot the aliens before they come down."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture, board
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step

SIZE = 10
BOTTOM = SIZE - 1
RELOAD = 5
"""Frames from one shot of the cannon to the next."""
SLOWEST = 12
"""Most frames from one move of the aliens to the next, in the first wave."""
FASTEST = 6
"""The same in the last of the waves that still grow faster."""
SHOT_INTERVAL = 10
"""Frames from one shot of the aliens to the next."""

ROW = np.arange(SIZE, dtype=np.int32)[:, None]
COLUMN = np.arange(SIZE, dtype=np.int32)
WAVE = np.broadcast_to(ROW < 4, (SIZE, SIZE)) & (COLUMN >= 2) & (COLUMN < 8)


@struct
class Invasion:
    cannon: jax.Array  # int32: column
    shots: jax.Array  # [10, 10] bool: the cannon's, on their way up
    bombs: jax.Array  # [10, 10] bool: the aliens', on their way down
    aliens: jax.Array  # [10, 10] bool
    right: jax.Array  # bool: where all aliens are heading
    reload: jax.Array  # int32: frames until the cannon may shoot
    move_wait: jax.Array  # int32: frames until the aliens move
    shot_wait: jax.Array  # int32: frames until an alien shoots
    interval: jax.Array  # int32: what `move_wait` starts from while the aliens are many
    last_action: jax.Array  # int32


def first_wave() -> Invasion:
    empty = jnp.zeros((SIZE, SIZE), bool)
    return Invasion(
        cannon=jnp.asarray(5, jnp.int32),
        shots=empty,
        bombs=empty,
        aliens=jnp.asarray(WAVE),
        right=jnp.zeros((), bool),
        reload=jnp.zeros((), jnp.int32),
        move_wait=jnp.asarray(SLOWEST, jnp.int32),
        shot_wait=jnp.asarray(SHOT_INTERVAL, jnp.int32),
        interval=jnp.asarray(SLOWEST, jnp.int32),
        last_action=jnp.zeros((), jnp.int32),
    )


def shooter(aliens: jax.Array, cannon: jax.Array) -> jax.Array:
    """[10, 10] bool, true at the alien that shoots: the lowest one of the column nearest to the
    cannon, of two as near the left one."""
    distance = 2 * jnp.abs(COLUMN - cannon) + (cannon < COLUMN)  # [10], all different
    distance = jnp.where(jnp.any(aliens, axis=0), distance, 2 * SIZE)
    lowest = jnp.max(jnp.where(aliens, ROW, -1), axis=0)  # [10]
    return aliens & (lowest == ROW) & (distance == jnp.min(distance))


def advance(
    state: Invasion, action: jax.Array, ramping: bool
) -> tuple[Invasion, jax.Array, jax.Array]:
    """One step with the action that is really taken -> invasion, reward, terminated. No chance in
    it: all the game's luck is in sticky actions."""
    move = (action == 2).astype(jnp.int32) - (action == 1).astype(jnp.int32)
    cannon = jnp.clip(state.cannon + move, 0, BOTTOM)
    below = (ROW == BOTTOM) & (cannon == COLUMN)  # where the cannon is

    fire = (action == 3) & (state.reload == 0)
    shots = jnp.roll(state.shots | (below & fire), -1, axis=0) & (ROW < BOTTOM)
    reload = jnp.where(fire, RELOAD, state.reload)
    bombs = jnp.roll(state.bombs, 1, axis=0) & (ROW > 0)
    lost = jnp.any((bombs | state.aliens) & below)

    # At the edge they are heading for, the aliens turn round and come down a row instead.
    moves = state.move_wait == 0
    edge = jnp.where(state.right, BOTTOM, 0)
    turn = moves & jnp.any(state.aliens & (edge == COLUMN))
    landed = turn & jnp.any(state.aliens[BOTTOM])
    right = state.right ^ turn
    sideways = jnp.where(
        right, jnp.roll(state.aliens, 1, axis=1), jnp.roll(state.aliens, -1, axis=1)
    )
    aliens = jnp.where(turn, jnp.roll(state.aliens, 1, axis=0), sideways)
    aliens = jnp.where(moves, aliens, state.aliens)
    lost = lost | landed | jnp.any(aliens & below)
    # The last few move faster and faster.
    pace = jnp.minimum(jnp.sum(state.aliens, dtype=jnp.int32), state.interval)
    move_wait = jnp.where(moves, pace, state.move_wait) - 1

    shoots = state.shot_wait == 0
    bombs = bombs | (shooter(aliens, cannon) & shoots)
    shot_wait = jnp.where(shoots, SHOT_INTERVAL, state.shot_wait) - 1

    hit = aliens & shots
    aliens = aliens & ~hit
    cleared = ~jnp.any(aliens)
    faster = cleared & (state.interval > FASTEST) & ramping

    state = Invasion(
        cannon=cannon,
        shots=shots & ~hit,
        bombs=bombs,
        aliens=jnp.where(cleared, WAVE, aliens),
        right=right,
        reload=jnp.maximum(reload - 1, 0),
        move_wait=move_wait,
        shot_wait=shot_wait,
        interval=state.interval - faster.astype(jnp.int32),
        last_action=action.astype(jnp.int32),
    )
    return state, jnp.sum(hit, dtype=jnp.float32), lost


def observe(state: Invasion) -> jax.Array:
    """-> [10, 10, 6] bool: cannon, aliens, those heading left, those heading right, the cannon's
    shots, the aliens' shots."""
    cannon = (ROW == BOTTOM) & (state.cannon == COLUMN)
    left, right = state.aliens & ~state.right, state.aliens & state.right
    return jnp.stack([cannon, state.aliens, left, right, state.shots, state.bombs], axis=-1)


_seen = jax.jit(observe)
CELL = 28
COLORS = (palette.GREEN, palette.RED, palette.YELLOW, palette.SKY)
"""Of the planes as they are drawn, from below to the top."""


@struct
class SpaceInvaders:
    """+1 for each alien shot; when all are gone the next wave comes, and moves a little faster. The
    episode ends when an alien or its shot reaches the cannon, or an alien on the lowest row would
    come down further. Actions: stay, left, right, fire."""

    sticky: Float = param(
        "probability that the last action is taken again", default=0.1, low=0.0, high=1.0
    )
    ramping: bool = static("each wave moves faster than the one before", default=True)

    fps = 15

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (SIZE, SIZE, 6), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(4)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Invasion, jax.Array]:
        del key
        state = first_wave()
        return state, observe(state)

    def step(self, state: Invasion, action: jax.Array, key: Key) -> tuple[Invasion, Step]:
        repeat = jax.random.uniform(key) < self.sticky
        action = jnp.where(repeat, state.last_action, action)
        state, reward, lost = advance(state, action, self.ramping)
        return state, Step(observe(state), reward, lost, jnp.zeros((), bool))

    def render(self, state: Invasion) -> Picture:
        planes = np.asarray(_seen(state))
        return board(planes[..., (1, 5, 4, 0)], COLORS, CELL)
