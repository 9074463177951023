"""Seaquest from MinAtar (Young and Tian 2019): fetch divers, shoot enemies, come up for air.

MinAtar keeps lists of unbounded length. The arrays here hold all that can be in them:

- Shots and torpedoes fly one cell a frame. The boat is no faster than its shots and five frames
  pass between two, so that no two shots share a cell. Torpedoes that do are as good as one.
- The enemies of a row all head the same way at one pace, and none overtakes another. They arrive
  on different frames, and while the pace still changes (levels 0 to 5) at least 15 frames or three
  cells apart, of which a change takes less than half a cell. Hence no two in one cell wait for the
  same number of frames, and cell and wait say which enemy is meant. Nor can two enter one cell in
  one frame. The first of a cell in MinAtar's lists is the one that waits the shortest.
- A diver is gone 60 frames after its arrival, and one arrives every 30 frames: two at a time.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture, board
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step

SIZE = 10
SEABED = 8
"""The lowest row of the sea; row 9 shows the gauges."""
AIR = 200
"""Frames under water."""
GAUGE = AIR // SIZE
CREW = 6
"""Divers that the boat can carry."""
RELOAD = 5
"""Frames from one shot of the boat to the next."""
TORPEDO_INTERVAL = 10
"""Frames between two shots of an enemy boat."""
ENEMY_INTERVAL = 20
"""Frames from one arrival of an enemy to the next, at level 0."""
DIVER_INTERVAL = 30
DIVER_PACE = 6
"""Frames in which a diver moves one cell."""
HARDEST = 19

BITS = 4
ONES = 0x111111
FISH = 15
"""An enemy is a digit of four bits: 15 is a fish, 1 to 11 is a boat that shoots in one frame less
than that. A cell has six digits; digit w is the enemy in it that moves in w frames, or else 0."""

ROW = np.arange(SIZE, dtype=np.int32)[:, None]
COLUMN = np.arange(SIZE, dtype=np.int32)


@struct
class Missiles:
    left: jax.Array  # [10, 10] bool
    right: jax.Array  # [10, 10] bool


@struct
class Divers:
    """The one that arrived before the last, and the last one. How far they came is in the clock for
    the next: they move in step with it."""

    there: jax.Array  # [2] bool
    row: jax.Array  # [2] int32, 0 where there is none
    right: jax.Array  # [2] bool


@struct
class Sea:
    row: jax.Array  # int32: of the boat, 0 is the surface
    column: jax.Array  # int32: of its bow
    right: jax.Array  # bool: where it is heading
    shots: Missiles
    torpedoes: Missiles  # the enemy boats'
    enemies: jax.Array  # [10, 10] int32: six digits
    heading: jax.Array  # [10] bool: the enemies of the row are heading right
    divers: Divers
    aboard: jax.Array  # int32: divers in the boat
    air: jax.Array  # int32
    surfaced: jax.Array  # bool
    reload: jax.Array  # int32: frames until the boat may shoot
    enemy_wait: jax.Array  # int32: frames until an enemy arrives
    diver_wait: jax.Array  # int32: frames until a diver arrives
    level: jax.Array  # int32: how often it grew harder
    last_action: jax.Array  # int32


@struct
class Arrivals:
    row: jax.Array  # int32, 1 to 8: where an enemy arrives
    right: jax.Array  # bool: it comes from the left edge, heading right
    fish: jax.Array  # bool: a fish, or else a boat
    diver_row: jax.Array  # int32, 1 to 8
    diver_right: jax.Array  # bool


def choose(chance: jax.Array) -> Arrivals:
    """Arrivals from two uniform numbers in [0, 1), an enemy's and a diver's: any row, either side,
    a boat once in three, all equally likely."""
    enemy = jnp.floor(chance[0] * (SEABED * 6)).astype(jnp.int32)
    diver = jnp.floor(chance[1] * (SEABED * 2)).astype(jnp.int32)
    return Arrivals(
        row=1 + enemy // 6,
        right=enemy % 2 == 1,
        fish=enemy % 6 < 4,
        diver_row=1 + diver // 2,
        diver_right=diver % 2 == 1,
    )


def open_sea() -> Sea:
    empty = jnp.zeros((SIZE, SIZE), bool)
    none = jnp.zeros(2, bool)
    zero = jnp.zeros((), jnp.int32)
    return Sea(
        row=zero,
        column=jnp.asarray(5, jnp.int32),
        right=jnp.zeros((), bool),
        shots=Missiles(empty, empty),
        torpedoes=Missiles(empty, empty),
        enemies=jnp.zeros((SIZE, SIZE), jnp.int32),
        heading=jnp.zeros(SIZE, bool),
        divers=Divers(there=none, row=jnp.zeros(2, jnp.int32), right=none),
        aboard=zero,
        air=jnp.asarray(AIR, jnp.int32),
        surfaced=jnp.ones((), bool),
        reload=zero,
        enemy_wait=jnp.asarray(ENEMY_INTERVAL, jnp.int32),
        diver_wait=jnp.asarray(DIVER_INTERVAL, jnp.int32),
        level=zero,
        last_action=zero,
    )


def eastward(plane: jax.Array) -> jax.Array:
    """Everything one cell to the right; what leaves is gone."""
    return jnp.pad(plane[:, :-1], ((0, 0), (1, 0)))


def westward(plane: jax.Array) -> jax.Array:
    return jnp.pad(plane[:, 1:], ((0, 0), (0, 1)))


def all_enemies(plane: jax.Array) -> jax.Array:
    """The lowest bit of each digit that is not 0."""
    return (plane | plane >> 1 | plane >> 2 | plane >> 3) & ONES


def all_fish(plane: jax.Array) -> jax.Array:
    """The lowest bit of each digit that is 15."""
    return plane & plane >> 1 & plane >> 2 & plane >> 3 & ONES


def shoot(enemies: jax.Array, shots: jax.Array) -> jax.Array:
    """The enemies without those that are shot: of each cell a fish before a boat, and of these the
    one that waits the shortest."""
    fish = all_fish(enemies)
    lowest = jnp.where(fish != 0, fish, all_enemies(enemies))
    lowest = lowest & -lowest
    return jnp.where(shots, enemies & ~(lowest * FISH), enemies)


def aim(enemies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One frame of the enemy boats' clocks -> enemies, [10, 10] bool: where a boat shoots."""
    boats = all_enemies(enemies) & ~all_fish(enemies)
    due = boats & enemies & ~(enemies >> 1 | enemies >> 2 | enemies >> 3)
    return enemies - boats + due * (TORPEDO_INTERVAL + 1), due != 0


def swim(divers: Divers, wait: jax.Array) -> jax.Array:
    """[2] int32: the divers' columns, `wait` frames before the next arrives; off the board when
    they have crossed it."""
    cells = (DIVER_INTERVAL - wait) // DIVER_PACE + np.array([DIVER_INTERVAL // DIVER_PACE, 0])
    return jnp.where(divers.right, cells, SIZE - 1 - cells)


def arrive(state: Sea, new: Arrivals, pace: jax.Array) -> Sea:
    """The enemy and the diver that are due, an enemy only where none is heading the other way."""
    crowded = jnp.any(state.enemies != 0, axis=1)  # [10]
    blocked = jnp.any((new.row == ROW[:, 0]) & crowded & (state.heading != new.right))
    due = (state.enemy_wait == 0) & ~blocked
    row = (new.row == ROW) & due  # [10, 1]
    edge = row & (jnp.where(new.right, 0, SIZE - 1) == COLUMN)
    digit = jnp.where(new.fish, FISH, TORPEDO_INTERVAL + 1) << BITS * pace

    diver_due = state.diver_wait == 0
    there = state.divers.there
    latest = Divers(
        there=jnp.stack([there[1], jnp.ones((), bool)]),
        row=jnp.stack([state.divers.row[1], new.diver_row]),
        right=jnp.stack([state.divers.right[1], new.diver_right]),
    )
    return dataclasses.replace(
        state,
        enemies=state.enemies | jnp.where(edge, digit, 0),
        heading=jnp.where(row[:, 0], new.right, state.heading),
        enemy_wait=jnp.where(state.enemy_wait == 0, ENEMY_INTERVAL - state.level, state.enemy_wait),
        divers=jax.tree.map(lambda a, b: jnp.where(diver_due, a, b), latest, state.divers),
        diver_wait=jnp.where(diver_due, DIVER_INTERVAL, state.diver_wait),
    )


def advance(
    state: Sea, action: jax.Array, new: Arrivals, ramping: bool
) -> tuple[Sea, jax.Array, jax.Array]:
    """One step with the action that is really taken -> sea, reward, terminated. `new` is used when
    something is due to arrive."""
    pace = jnp.maximum(5 - state.level // 2, 2)  # an enemy moves every pace + 1 frames
    state = arrive(state, new, pace)

    across = (action == 3).astype(jnp.int32) - (action == 1).astype(jnp.int32)
    down = (action == 4).astype(jnp.int32) - (action == 2).astype(jnp.int32)
    row = jnp.clip(state.row + down, 0, SEABED)
    column = jnp.clip(state.column + across, 0, SIZE - 1)
    right = jnp.where(across == 0, state.right, across > 0)
    boat = (row == ROW) & (column == COLUMN)

    fire = (action == 5) & (state.reload == 0)
    reload = jnp.maximum(jnp.where(fire, RELOAD, state.reload) - 1, 0)
    shots = Missiles(
        left=westward(state.shots.left | (boat & fire & ~right)),
        right=eastward(state.shots.right | (boat & fire & right)),
    )
    flying = shots.left | shots.right
    hit = flying & (state.enemies != 0)
    enemies = shoot(state.enemies, hit)

    # The last diver comes aboard first, if there is room.
    diver_wait = state.diver_wait - 1
    before, after = swim(state.divers, state.diver_wait), swim(state.divers, diver_wait)
    met = state.divers.there & (state.divers.row == row) & ((before == column) | (after == column))
    last = met[1] & (state.aboard < CREW)
    aboard = state.aboard + last
    first = met[0] & (aboard < CREW)
    aboard = aboard + first
    there = state.divers.there & (after >= 0) & (after < SIZE) & ~jnp.stack([first, last])

    # An enemy boat that is shot as it moves still shoots before it sinks.
    moving = enemies & FISH
    moved = jnp.where(state.heading[:, None], eastward(moving), westward(moving)) << BITS * pace
    lost = jnp.any(boat & ((enemies | moved) != 0))
    enemies, shoots = aim(enemies >> BITS | moved)
    rammed = flying & ~hit & ~boat & (moved != 0)
    enemies = jnp.where(rammed, enemies & ~(FISH << BITS * pace), enemies)
    flying = ~hit & ~rammed

    launched = Missiles(
        left=state.torpedoes.left | (shoots & ~state.heading[:, None]),
        right=state.torpedoes.right | (shoots & state.heading[:, None]),
    )
    torpedoes = Missiles(left=westward(launched.left), right=eastward(launched.right))
    lost = lost | jnp.any(
        boat & (launched.left | launched.right | torpedoes.left | torpedoes.right)
    )

    # Six divers go ashore for a reward and leave the boat with one less than none; while it has
    # less than none, surfacing is free. So it is in MinAtar.
    rises = (row == 0) & ~state.surfaced
    surfaces = rises & (aboard != 0)
    lost = lost | (state.air <= 0) | (rises & (aboard == 0))
    bonus = jnp.where(surfaces & (aboard == CREW), state.air // GAUGE, 0)
    air = jnp.where(surfaces, AIR, state.air - (row > 0))
    aboard = jnp.where(surfaces & (aboard == CREW), 0, aboard) - surfaces
    level = jnp.minimum(state.level + surfaces, HARDEST) if ramping else state.level

    state = Sea(
        row=row,
        column=column,
        right=right,
        shots=Missiles(shots.left & flying, shots.right & flying),
        torpedoes=torpedoes,
        enemies=enemies,
        heading=state.heading & jnp.any(enemies != 0, axis=1),
        divers=Divers(
            there=there,
            row=jnp.where(there, state.divers.row, 0),
            right=state.divers.right & there,
        ),
        aboard=aboard,
        air=air,
        surfaced=(row == 0) & (state.surfaced | surfaces),
        reload=reload,
        enemy_wait=state.enemy_wait - 1,
        diver_wait=diver_wait,
        level=level,
        last_action=action.astype(jnp.int32),
    )
    reward = jnp.sum(hit | rammed, dtype=jnp.int32) + bonus
    return state, reward.astype(jnp.float32), lost


def observe(state: Sea) -> jax.Array:
    """-> [10, 10, 10] bool: bow, stern, the boat's shots, trails, torpedoes, fish, enemy boats, air
    gauge, diver gauge, divers."""
    bow = (state.row == ROW) & (state.column == COLUMN)
    stern = (state.row == ROW) & (state.column + jnp.where(state.right, -1, 1) == COLUMN)
    fish = all_fish(state.enemies)
    boats = all_enemies(state.enemies) & ~fish
    heading = state.heading[:, None]
    there = state.enemies != 0
    trails = jnp.where(heading, westward(there), eastward(there))

    columns = swim(state.divers, state.diver_wait)
    behind = columns + jnp.where(state.divers.right, -1, 1)
    rows = state.divers.there & (state.divers.row == ROW)  # [10, 2]
    divers = jnp.zeros((SIZE, SIZE), bool)
    for i in range(2):
        divers = divers | (rows[:, i, None] & (columns[i] == COLUMN))
        trails = trails | (rows[:, i, None] & (behind[i] == COLUMN))

    gauges = ROW == SIZE - 1
    air = gauges & (state.air // GAUGE > COLUMN)
    aboard = gauges & (SIZE - 1 - state.aboard <= COLUMN) & (SIZE - 1 > COLUMN)
    shots = state.shots.left | state.shots.right
    torpedoes = state.torpedoes.left | state.torpedoes.right
    planes = [bow, stern, shots, trails, torpedoes, fish != 0, boats != 0, air, aboard, divers]
    # One number per cell with a bit for each plane, then unpacked.
    bits = jnp.zeros((SIZE, SIZE), jnp.int32)
    for i, plane in enumerate(planes):
        bits = bits | jnp.where(plane, 1 << i, 0)
    return bits[:, :, None] >> np.arange(len(planes), dtype=np.int32) & 1 == 1


_seen = jax.jit(observe)
CELL = 28
COLORS = (
    palette.mix(palette.GREY, "#15181c", 0.6),  # trails
    palette.PURPLE,  # divers aboard
    palette.SKY,  # air
    palette.PURPLE,  # divers
    palette.mix(palette.ORANGE, palette.PAPER, 0.6),  # torpedoes
    palette.RED,  # fish
    palette.ORANGE,  # enemy boats
    palette.YELLOW,  # shots
    palette.mix(palette.GREEN, "#15181c", 0.3),  # stern
    palette.GREEN,  # bow
)
"""Of the planes as they are drawn, from below to the top."""


@struct
class Seaquest:
    """+1 for each enemy shot. The air lasts 200 frames under water; surfacing renews it, takes one
    diver, and makes the game harder. Surfacing with six takes all, for up to 10 by the air that is
    left. The episode ends when an enemy or its torpedo meets the bow, when the air is used up, or
    when the boat surfaces without a diver. Actions: stay, left, up, right, down, fire."""

    sticky: Float = param(
        "probability that the last action is taken again", default=0.1, low=0.0, high=1.0
    )
    ramping: bool = static("the game grows harder each time the boat surfaces", default=True)

    fps = 15

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (SIZE, SIZE, 10), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(6)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Sea, jax.Array]:
        del key
        state = open_sea()
        return state, observe(state)

    def step(self, state: Sea, action: jax.Array, key: Key) -> tuple[Sea, Step]:
        chance = jax.random.uniform(key, (3,))
        action = jnp.where(chance[0] < self.sticky, state.last_action, action)
        state, reward, lost = advance(state, action, choose(chance[1:]), self.ramping)
        return state, Step(observe(state), reward, lost, jnp.zeros((), bool))

    def render(self, state: Sea) -> Picture:
        planes = np.asarray(_seen(state))
        return board(planes[..., (3, 8, 7, 9, 4, 5, 6, 2, 1, 0)], COLORS, CELL)
