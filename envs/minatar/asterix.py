"""Asterix from MinAtar (Young and Tian 2019): collect gold, keep away from enemies."""

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
LANES = 8
SPAWN_INTERVAL = 10
"""Frames from one arrival to the next, at first."""
MOVE_INTERVAL = 5
"""Frames from one move of all that is in the lanes to the next, at first."""
RAMP_INTERVAL = 100

ROW = np.arange(SIZE, dtype=np.int32)[:, None]
COLUMN = np.arange(SIZE, dtype=np.int32)
LANE = np.arange(LANES, dtype=np.int32)


@struct
class Lanes:
    """What is in each lane; lane i is row i + 1 and holds one thing at most. An empty lane is all
    zeros."""

    full: jax.Array  # [8] bool
    column: jax.Array  # [8] int32
    right: jax.Array  # [8] bool: where it is heading
    gold: jax.Array  # [8] bool: gold, or else an enemy


@struct
class Pace:
    spawn: jax.Array  # int32: frames from one arrival to the next
    move: jax.Array  # int32: frames from one move to the next
    level: jax.Array  # int32: how often it grew harder
    wait: jax.Array  # int32: frames until it grows harder, which is one frame after zero


@struct
class Field:
    player: jax.Array  # [2] int32: row 1 to 8, column
    lanes: Lanes
    spawn_wait: jax.Array  # int32: frames until something arrives
    move_wait: jax.Array  # int32: frames until everything moves
    pace: Pace
    last_action: jax.Array  # int32


@struct
class Arrival:
    lane: jax.Array  # [8] bool: where it arrives; nowhere when all lanes are full
    right: jax.Array  # bool: it comes from the left edge, heading right
    gold: jax.Array  # bool


def choose(chance: jax.Array, full: jax.Array) -> Arrival:
    """An arrival from one uniform number in [0, 1): any empty lane, either side, gold once in
    three, all equally likely."""
    empties = jnp.cumsum(~full, dtype=jnp.int32)  # [8], counted up to and with this lane
    outcome = jnp.floor(chance * (6 * empties[-1])).astype(jnp.int32)
    lane = ~full & (empties - 1 == outcome // 6)
    return Arrival(lane=lane, right=outcome % 2 == 1, gold=outcome % 6 < 2)


def open_field() -> Field:
    none = jnp.zeros(LANES, bool)
    return Field(
        player=jnp.full((2,), 5, jnp.int32),
        lanes=Lanes(full=none, column=jnp.zeros(LANES, jnp.int32), right=none, gold=none),
        spawn_wait=jnp.asarray(SPAWN_INTERVAL, jnp.int32),
        move_wait=jnp.asarray(MOVE_INTERVAL, jnp.int32),
        pace=Pace(
            spawn=jnp.asarray(SPAWN_INTERVAL, jnp.int32),
            move=jnp.asarray(MOVE_INTERVAL, jnp.int32),
            level=jnp.zeros((), jnp.int32),
            wait=jnp.asarray(RAMP_INTERVAL, jnp.int32),
        ),
        last_action=jnp.zeros((), jnp.int32),
    )


def ramp(pace: Pace) -> Pace:
    """One frame of the clock that makes the game harder; it stops when it cannot be harder."""
    running = (pace.spawn > 1) | (pace.move > 1)
    harder = running & (pace.wait < 0)
    faster = harder & (pace.move > 1) & (pace.level % 2 == 1)
    wait = pace.wait - running.astype(jnp.int32)
    return Pace(
        spawn=pace.spawn - (harder & (pace.spawn > 1)).astype(jnp.int32),
        move=pace.move - faster.astype(jnp.int32),
        level=pace.level + harder.astype(jnp.int32),
        wait=jnp.where(harder, RAMP_INTERVAL, wait),
    )


def advance(
    state: Field, action: jax.Array, arrival: Arrival, ramping: bool
) -> tuple[Field, jax.Array, jax.Array]:
    """One step with the action that is really taken -> field, reward, terminated. `arrival` is
    used when something is due to arrive."""
    lanes = state.lanes
    arrives = state.spawn_wait == 0
    new = arrival.lane & arrives
    full = lanes.full | new
    right = jnp.where(new, arrival.right, lanes.right)
    gold = jnp.where(new, arrival.gold, lanes.gold)
    column = jnp.where(new, jnp.where(arrival.right, 0, SIZE - 1), lanes.column)
    spawn_wait = jnp.where(arrives, state.pace.spawn, state.spawn_wait) - 1

    across = (action == 3).astype(jnp.int32) - (action == 1).astype(jnp.int32)
    down = (action == 4).astype(jnp.int32) - (action == 2).astype(jnp.int32)
    player_row = jnp.clip(state.player[0] + down, 1, LANES)
    player_column = jnp.clip(state.player[1] + across, 0, SIZE - 1)
    same_lane = player_row - 1 == LANE

    met = full & same_lane & (column == player_column)
    taken = met & gold
    lost = jnp.any(met & ~gold)
    full = full & ~taken

    # An enemy that was met goes on; only one thing is in the player's lane, so gold counts once.
    moves = state.move_wait == 0
    column = column + jnp.where(moves & full, jnp.where(right, 1, -1), 0)
    full = full & (column >= 0) & (column < SIZE)
    met = full & same_lane & (column == player_column) & moves
    lost = lost | jnp.any(met & ~gold)
    taken = taken | (met & gold)
    full = full & ~taken
    move_wait = jnp.where(moves, state.pace.move, state.move_wait) - 1

    state = Field(
        player=jnp.stack([player_row, player_column]),
        lanes=Lanes(
            full=full, column=jnp.where(full, column, 0), right=right & full, gold=gold & full
        ),
        spawn_wait=spawn_wait,
        move_wait=move_wait,
        pace=ramp(state.pace) if ramping else state.pace,
        last_action=action.astype(jnp.int32),
    )
    return state, jnp.any(taken).astype(jnp.float32), lost


def observe(state: Field) -> jax.Array:
    """-> [10, 10, 4] bool: player, enemies, trails, gold."""
    lanes = state.lanes
    player = (state.player[0] == ROW) & (state.player[1] == COLUMN)
    behind = lanes.column + jnp.where(lanes.right, -1, 1)
    here = lanes.full[:, None] & (lanes.column[:, None] == COLUMN)  # [8, 10]
    trail = lanes.full[:, None] & (behind[:, None] == COLUMN)
    gold = lanes.gold[:, None]
    rows = jnp.stack([here & ~gold, trail, here & gold], axis=-1)  # [8, 10, 3]
    planes = jnp.pad(rows, ((1, 1), (0, 0), (0, 0)))
    return jnp.concatenate([player[..., None], planes], axis=-1)


_seen = jax.jit(observe)
CELL = 28
COLORS = (palette.mix(palette.GREY, "#15181c", 0.6), palette.RED, palette.YELLOW, palette.PAPER)
"""Of the planes as they are drawn, from below to the top."""


@struct
class Asterix:
    """+1 for each gold. Things arrive from both sides, ever more often and faster; the episode ends
    when the player and an enemy meet. Actions: stay, left, up, right, down."""

    sticky: Float = param(
        "probability that the last action is taken again", default=0.1, low=0.0, high=1.0
    )
    ramping: bool = static("the game grows harder with time", default=True)

    fps = 15

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (SIZE, SIZE, 4), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(5)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Field, jax.Array]:
        del key
        state = open_field()
        return state, observe(state)

    def step(self, state: Field, action: jax.Array, key: Key) -> tuple[Field, Step]:
        chance = jax.random.uniform(key, (2,))
        action = jnp.where(chance[0] < self.sticky, state.last_action, action)
        arrival = choose(chance[1], state.lanes.full)
        state, reward, lost = advance(state, action, arrival, self.ramping)
        return state, Step(observe(state), reward, lost, jnp.zeros((), bool))

    def render(self, state: Field) -> Picture:
        planes = np.asarray(_seen(state))
        return board(planes[..., (2, 1, 3, 0)], COLORS, CELL)
