"""Taxi: fetch a passenger and bring them where they want to go (Dietterich 2000; Gymnasium's
Taxi-v4)."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import drawing, palette
from jaxrl.drawing import Picture
from jaxrl.envs.finite import Finite
from jaxrl.spaces import Discrete
from jaxrl.struct import Float, param, static, struct

STANDS = ((0, 0), (0, 4), (4, 0), (4, 3))
COLORS = (palette.RED, palette.GREEN, palette.YELLOW, palette.BLUE)
ABOARD = 4
SOUTH, NORTH, EAST, WEST, PICK_UP, DROP_OFF = range(6)
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))
LEFT_OF, RIGHT_OF = (EAST, WEST, NORTH, SOUTH), (WEST, EAST, SOUTH, NORTH)
WALLS = ((0, 1), (1, 1), (3, 0), (4, 0), (3, 2), (4, 2))  # cells with a wall on their east side


def _roads() -> np.ndarray:
    """[25, 4] int32: the cell each move leads to."""
    table = np.empty((25, 4), np.int32)
    for row in range(5):
        for column in range(5):
            for m, (down, right) in enumerate(MOVES):
                r, c = row + down, column + right
                wall = right != 0 and (row, min(column, c)) in WALLS
                free = 0 <= r < 5 and 0 <= c < 5 and not wall
                table[row * 5 + column, m] = r * 5 + c if free else row * 5 + column
    return table


ROADS = _roads()
STAND_OF = np.full(25, -1, np.int32)
for _i, (_r, _c) in enumerate(STANDS):
    STAND_OF[_r * 5 + _c] = _i


Number = TypeVar("Number", int, jax.Array)


def encode(cell: Number, passenger: Number, goal: Number) -> Number:
    return (cell * 5 + passenger) * 4 + goal


@struct
class Taxi(Finite):
    """A step costs 1, an illegal pick-up or drop-off 10; the right drop-off pays 20 and ends the
    episode. Actions: south, north, east, west, pick up, drop off.

    The observation is ((row * 5 + column) * 5 + passenger) * 4 + destination, with stands 0 red,
    1 green, 2 yellow, 3 blue, and passenger 4 aboard. In the rain a move that is not blocked goes
    to one of the two sides with probability 1 - rainy_probability. A fickle passenger changes their
    mind with `fickle_probability` at the first move after they were picked up first; that they have
    not done so yet is a part of the state that is not observed."""

    is_rainy: bool = static("moves may go to the side", default=False)
    fickle_passenger: bool = static("the destination may change", default=False)
    rainy_probability: Float = param(
        "probability of the intended move in the rain", default=0.8, low=0.0, high=1.0
    )
    fickle_probability: Float = param(
        "probability of another destination", default=0.3, low=0.0, high=1.0
    )
    step_cost: Float = param("cost of a step", default=1.0)
    illegal_cost: Float = param("cost of an illegal pick-up or drop-off", default=10.0)
    delivery_reward: Float = param("reward for the right drop-off", default=20.0)

    fps = 5

    @property
    def num_states(self) -> int:
        return 1000 if self.fickle_passenger else 500

    @property
    def num_actions(self) -> int:
        return 6

    @property
    def num_outcomes(self) -> int:
        return (3 if self.is_rainy else 1) * (4 if self.fickle_passenger else 1)

    @property
    def obs_space(self) -> Discrete:
        return Discrete(500)

    def observe(self, state: jax.Array) -> jax.Array:
        return state % 500

    @property
    def starts(self) -> np.ndarray:
        states = [
            encode(cell, passenger, goal)
            for cell in range(25)
            for passenger in range(4)
            for goal in range(4)
            if passenger != goal
        ]
        # States from 500 on: the passenger may still change their mind.
        return np.array(states) + (500 if self.fickle_passenger else 0)

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        side = (1 - self.rainy_probability) / 2
        rain = jnp.stack([jnp.asarray(self.rainy_probability), side, side])
        ways = rain if self.is_rainy else jnp.ones(1)
        ways = jnp.where(action < PICK_UP, ways, jnp.eye(len(ways))[0])
        if not self.fickle_passenger:
            return ways
        other = self.fickle_probability / 3
        minds = jnp.stack([jnp.asarray(1 - self.fickle_probability), other, other, other])
        # Whether the taxi moves may depend on the way it slips.
        change = jax.vmap(lambda way: self._may_change(state, self._drive(state, action, way)))(
            jnp.arange(len(ways))
        )
        minds = jnp.where(change[:, None], minds, jnp.eye(4)[0])  # [ways, 4]
        return (ways[:, None] * minds).ravel()

    def _drive(self, state: jax.Array, action: jax.Array, way: jax.Array) -> jax.Array:
        """-> the cell after a move; 25 cells, one of up to three ways."""
        cell = state % 500 // 20
        roads = jnp.asarray(ROADS)
        move = jnp.minimum(action, WEST)
        ahead = roads[cell, move]
        if not self.is_rainy:
            return jnp.where(action < PICK_UP, ahead, cell)
        turned = jnp.stack([move, jnp.asarray(LEFT_OF)[move], jnp.asarray(RIGHT_OF)[move]])[way]
        # Where the way ahead is blocked the taxi does not slip either.
        to = jnp.where(ahead == cell, cell, roads[cell, turned])
        return jnp.where(action < PICK_UP, to, cell)

    def _may_change(self, state: jax.Array, to: jax.Array) -> jax.Array:
        aboard = state // 4 % 5 == ABOARD
        return (state >= 500) & aboard & (to != state % 500 // 20)

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        minds = 4 if self.fickle_passenger else 1
        way, mind = k // minds, k % minds
        cell, passenger, goal = state % 500 // 20, state // 4 % 5, state % 4
        to = self._drive(state, action, way)
        stand = jnp.asarray(STAND_OF)[cell]
        picks, drops = action == PICK_UP, action == DROP_OFF
        boards = picks & (passenger < ABOARD) & (stand == passenger)
        leaves = drops & (passenger == ABOARD) & (stand >= 0)
        delivered = leaves & (stand == goal)
        illegal = (picks & ~boards) | (drops & ~leaves)
        after = jnp.where(boards, ABOARD, jnp.where(leaves, stand, passenger))
        reward = jnp.where(illegal, -self.illegal_cost, -self.step_cost)
        reward = jnp.where(delivered, self.delivery_reward, reward)
        if not self.fickle_passenger:
            return encode(to, after, goal), reward, delivered
        decides = self._may_change(state, to)
        new_goal = jnp.where(decides, (goal + mind) % 4, goal)
        undecided = (state >= 500) & ~decides
        return encode(to, after, new_goal) + 500 * undecided, reward, delivered

    def render(self, state: jax.Array) -> Picture:
        """Stands in their colours, the destination larger than the others; the passenger is the
        dark disc, aboard inside the taxi."""
        number = int(state) % 500
        cell, passenger, goal = number // 20, number // 4 % 5, number % 4
        canvas = drawing.grid(5, 5)

        def at(row: int, column: int) -> tuple[float, float]:
            return column + 0.5, 4.5 - row

        for i, stand in enumerate(STANDS):
            side = 0.94 if i == goal else 0.4
            canvas.box(at(*stand), side, side, COLORS[i])
        for row, column in WALLS:
            canvas.line([(column + 1, 5 - row), (column + 1, 4 - row)], palette.INK, 5)
        taxi = at(*divmod(cell, 5))
        canvas.disc(taxi, 0.35, palette.ORANGE)
        canvas.disc(taxi if passenger == ABOARD else at(*STANDS[passenger]), 0.15, palette.INK)
        return canvas.picture()
