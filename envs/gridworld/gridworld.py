"""A gridworld drawn in text, with walls, wind, slipping, and walls that move on a schedule."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture
from jaxrl.envs.finite import Finite
from jaxrl.envs.gridworld import grid, picture
from jaxrl.spaces import Discrete
from jaxrl.struct import Float, param, static, struct

CORRIDOR: grid.Map = ("S....", ".###.", "....G")


@struct
class Gridworld(Finite):
    """S start (one of several at random), G goal, H hole, C cliff, # wall, anything else free.

    Goal and holes end the episode. A step into the cliff leads back to the first start, and the
    episode goes on. The observation is the cell, row by row.

    `slip`: with this probability the move is that of one of the two neighbours in `moves`. `wind`:
    cells by which each column lifts the one who leaves it, no wall stops it; with `gust` it is one
    stronger or one weaker with this probability, half each, in columns that have wind.

    `changes`: the map is `map` until so many steps were made, then another of the same size:
    ((1000, other),). The clock is a part of the state that is not observed. It starts at 0 in
    `reset`; `inherit` hands it on to the next episode."""

    map: grid.Map = static("the rows of the map", default=CORRIDOR)
    moves: grid.Moves = static("(rows down, columns right) of each action", default=grid.FOUR)
    wind: tuple[int, ...] = static("cells upwards in each column; () for none", default=())
    changes: tuple[tuple[int, grid.Map], ...] = static("(step, map from then on)", default=())
    slip: Float | None = param(
        "probability of a neighbouring move", default=None, low=0.0, high=1.0
    )
    gust: Float | None = param("probability of other wind", default=None, low=0.0, high=1.0)
    step_reward: Float = param("reward of a step", default=-1.0)
    goal_reward: Float = param("reward of the step to the goal", default=-1.0)
    hole_reward: Float = param("reward of the step into a hole", default=-100.0)
    cliff_reward: Float = param("reward of the step into the cliff", default=-100.0)

    fps = 5

    @property
    def cells(self) -> int:
        return len(grid.letters(self.map))

    @property
    def _clocks(self) -> int:
        """The clock stops at the last change: from then on nothing depends on it."""
        return 1 + max((when for when, _ in self.changes), default=0)

    @property
    def num_states(self) -> int:
        return self.cells * self._clocks

    @property
    def num_actions(self) -> int:
        return len(self.moves)

    @property
    def num_outcomes(self) -> int:
        return (1 if self.slip is None else 3) * (1 if self.gust is None else 3)

    @property
    def obs_space(self) -> Discrete:
        return Discrete(self.cells)

    def observe(self, state: jax.Array) -> jax.Array:
        return state % self.cells

    @property
    def starts(self) -> np.ndarray:
        starts = grid.cells(self.map, "S")
        if not len(starts):
            raise ValueError("map has no start: write S in at least one cell.")
        return starts

    def inherit(self, state: jax.Array, fresh: jax.Array) -> jax.Array:
        """A fresh state in a world as old as that of `state`."""
        return fresh % self.cells + self.cells * (state // self.cells)

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del action
        turns = _spread(self.slip)
        if self.gust is None:
            return turns
        windy = jnp.asarray(self._lift())[state % self.cells] > 0
        gusts = jnp.where(windy, _spread(self.gust), jnp.eye(3)[1])
        return (turns[:, None] * gusts).ravel()

    def _lift(self) -> np.ndarray:
        """[cells]: the wind in each."""
        width = len(self.map[0])
        wind = self.wind or (0,) * width
        if len(wind) != width:
            raise ValueError(f"wind={wind} must have one number per column, {width} in all.")
        return np.tile(wind, self.cells // width)

    def _maps(self) -> tuple[grid.Map, ...]:
        maps = (self.map, *(drawn for _, drawn in self.changes))
        if any((len(m), len(m[0])) != (len(self.map), len(self.map[0])) for m in maps):
            raise ValueError("changes: all maps must have the size of the first.")
        return maps

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        gusts = 1 if self.gust is None else 3
        turn, gust = k // gusts, k % gusts
        move = action if self.slip is None else (action + turn - 1) % len(self.moves)
        cell, clock = state % self.cells, state // self.cells
        maps = self._maps()
        index = jnp.sum(clock >= jnp.asarray([0, *(when for when, _ in self.changes)])) - 1
        to = jnp.asarray(np.stack([grid.destinations(m, self.moves) for m in maps]))
        to = to[index, cell, move]
        letter = jnp.asarray(np.stack([np.vectorize(ord)(grid.letters(m)) for m in maps]))[index]
        if self.wind:
            lift = jnp.asarray(self._lift())[cell]
            if self.gust is not None:
                lift = jnp.where(lift > 0, lift + gust - 1, 0)
            to = self._blown(cell, move, lift)
        hit = letter[to]
        goal, hole, cliff = hit == ord("G"), hit == ord("H"), hit == ord("C")
        reward = jnp.where(goal, self.goal_reward, self.step_reward)
        reward = jnp.where(hole, self.hole_reward, reward)
        reward = jnp.where(cliff, self.cliff_reward, reward)
        to = jnp.where(cliff, int(self.starts[0]), to)
        clock = jnp.minimum(clock + 1, self._clocks - 1)
        return to + self.cells * clock, reward, goal | hole

    def drawn(self, state: jax.Array | int = 0) -> grid.Map:
        """The map as it is in a state."""
        clock = int(state) // self.cells
        return self._maps()[sum(clock >= when for when, _ in self.changes)]

    def render(self, state: jax.Array) -> Picture:
        return picture.picture(self.drawn(state), int(state) % self.cells)

    def _blown(self, cell: jax.Array, move: jax.Array, lift: jax.Array) -> jax.Array:
        """Move and wind together, as one vector; only the edge stops it."""
        if any("#" in row for drawn in self._maps() for row in drawn):
            raise ValueError("wind and walls (#) in one map are not defined; leave one out.")
        height, width = len(self.map), len(self.map[0])
        delta = jnp.asarray(self.moves)[move]
        row = jnp.clip(cell // width + delta[0] - lift, 0, height - 1)
        column = jnp.clip(cell % width + delta[1], 0, width - 1)
        return row * width + column


def _spread(probability: Float | None) -> jax.Array:
    """Below, at and above, with the outer two sharing the probability."""
    if probability is None:
        return jnp.ones(1)
    side = jnp.asarray(probability) / 2
    return jnp.stack([side, 1 - 2 * side, side])


WINDY: grid.Map = (
    "..........",
    "..........",
    "..........",
    "S......G..",
    "..........",
    "..........",
    "..........",
)


def windy_gridworld(
    moves: grid.Moves = grid.FOUR, gust: Float | None = None, step_reward: Float = -1.0
) -> Gridworld:
    """Sutton & Barto, example 6.5: up, right, down, left, and 15 steps at best. With king's moves
    (`grid.KING`, exercise 6.9) 7 steps; with gust=2/3 the wind of exercise 6.10."""
    return Gridworld(
        WINDY,
        moves,
        (0, 0, 0, 1, 1, 1, 2, 2, 1, 0),
        gust=gust,
        step_reward=step_reward,
        goal_reward=step_reward,
    )


FIGURE_4_1: grid.Map = ("GSSS", "SSSS", "SSSS", "SSSG")


def small_gridworld() -> Gridworld:
    """Sutton & Barto, example 4.1: 4 x 4, two corners are goals, every step costs 1."""
    return Gridworld(FIGURE_4_1)


@struct
class CheeseMaze(Gridworld):
    """The observation is which of the four sides have walls: 1 up + 2 right + 4 down + 8 left, so
    that cells that look alike cannot be told apart (McCallum 1995). The cheese is at the foot of
    the middle corridor, whose neighbours look the same; one starts anywhere else."""

    map: grid.Map = static(
        "the rows of the map",
        default=("SSSSS", "S#S#S", "S#G#S"),
    )

    @property
    def obs_space(self) -> Discrete:
        return Discrete(16)

    def observe(self, state: jax.Array) -> jax.Array:
        cell, clock = state % self.cells, state // self.cells
        index = jnp.sum(clock >= jnp.asarray([0, *(when for when, _ in self.changes)])) - 1
        looks: list[np.ndarray] = []
        for drawn in self._maps():
            stuck = grid.destinations(drawn, grid.FOUR) == np.arange(self.cells)[:, None]
            looks.append(stuck @ np.array([1, 2, 4, 8], np.int32))
        return jnp.asarray(np.stack(looks), jnp.int32)[index, cell]


TV_ROOMS: grid.Map = ("S..#...", "...#...", ".......", "...#...", "T..#..G")


@struct
class NoisyTV(Gridworld):
    """On a cell T there is a television that shows one of `channels` pictures at random in every
    step. The observation is picture * cells + cell, picture 0 away from it: one who seeks what
    cannot be predicted stays there, and never sees the goal."""

    map: grid.Map = static("the rows of the map", default=TV_ROOMS)
    step_reward: Float = param("reward of a step", default=0.0)
    goal_reward: Float = param("reward of the step to the goal", default=1.0)
    channels: int = static("pictures of the television", default=16, low=2)

    @property
    def num_states(self) -> int:
        if self.changes:
            raise ValueError("NoisyTV has no clock: leave `changes` out.")
        return self.cells * self.channels

    @property
    def obs_space(self) -> Discrete:
        return Discrete(self.num_states)

    def observe(self, state: jax.Array) -> jax.Array:
        return state

    @property
    def num_outcomes(self) -> int:
        return super().num_outcomes * self.channels

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        ways = super().probabilities(state % self.cells, action)
        return (ways[:, None] * (jnp.ones(self.channels) / self.channels)).ravel()

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        cell = state % self.cells
        to, reward, over = super().outcome(cell, action, k // self.channels)
        watching = jnp.asarray(grid.letters(self.map) == "T")[to]
        return to + self.cells * jnp.where(watching, k % self.channels, 0), reward, over

    def drawn(self, state: jax.Array | int = 0) -> grid.Map:
        del state
        return self.map

    def render(self, state: jax.Array) -> Picture:
        """The television has the colour of its channel, for those who watch."""
        cell, channel = int(state) % self.cells, int(state) // self.cells
        share = channel / self.channels
        screen = palette.mix(palette.PURPLE, palette.YELLOW, share)
        return picture.picture(self.map, cell, {cell: screen} if channel else None)


DYNA: grid.Map = (
    ".......#G",
    "..#....#.",
    "S.#....#.",
    "..#......",
    ".....#...",
    ".........",
)
GAP_RIGHT: grid.Map = (
    "........G",
    ".........",
    ".........",
    "########.",
    ".........",
    "...S.....",
)
GAP_LEFT: grid.Map = (*GAP_RIGHT[:3], ".########", *GAP_RIGHT[4:])
BOTH_GAPS: grid.Map = (*GAP_RIGHT[:3], ".#######.", *GAP_RIGHT[4:])


def dyna_maze(goal_reward: Float = 1.0) -> Gridworld:
    """Sutton & Barto, figure 8.2: 14 steps at best."""
    return Gridworld(DYNA, step_reward=0.0, goal_reward=goal_reward)


def blocking_maze(change_at: int = 1000, goal_reward: Float = 1.0) -> Gridworld:
    """Figure 8.4: 10 steps past the wall on the right, until that way closes and a longer one
    opens on the left. `change_at=0` is the second maze from the start."""
    return _changing(GAP_RIGHT, GAP_LEFT, change_at, goal_reward)


def shortcut_maze(change_at: int = 3000, goal_reward: Float = 1.0) -> Gridworld:
    """Figure 8.5: 16 steps past the wall on the left, until a shorter way opens on the right."""
    return _changing(GAP_LEFT, BOTH_GAPS, change_at, goal_reward)


def _changing(before: grid.Map, after: grid.Map, when: int, goal_reward: Float) -> Gridworld:
    if when == 0:
        return Gridworld(after, step_reward=0.0, goal_reward=goal_reward)
    env = Gridworld(before, step_reward=0.0, goal_reward=goal_reward)
    return dataclasses.replace(env, changes=((when, after),))
