"""FrozenLake: across slippery ice to the other shore, past the holes (as Gymnasium's)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.drawing import Picture
from jaxrl.envs.finite import Finite
from jaxrl.envs.gridworld import grid, picture
from jaxrl.struct import Float, param, static, struct

MAPS: dict[str, grid.Map] = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": (
        "SFFFFFFF",
        "FFFFFFFF",
        "FFFHFFFF",
        "FFFFFHFF",
        "FFFHFFFF",
        "FHHFFFHF",
        "FHFFHFHF",
        "FFFHFFFG",
    ),
}
MOVES: grid.Moves = (grid.LEFT, grid.DOWN, grid.RIGHT, grid.UP)


def random_map(size: int = 8, p: float = 0.8, seed: int = 0) -> grid.Map:
    """A map with a way from start to goal; each other cell is frozen with probability `p`. The
    same seed gives Gymnasium's `generate_random_map`."""
    rng = np.random.default_rng(seed)
    while True:
        board = rng.choice(["F", "H"], (size, size), p=[p, 1 - p])
        board[0, 0], board[-1, -1] = "S", "G"
        drawn = tuple("".join(row) for row in board)
        if _passable(drawn):
            return drawn


def _passable(drawn: grid.Map) -> bool:
    letter, to = grid.letters(drawn), grid.destinations.__wrapped__(drawn, MOVES)
    reached, frontier = {0}, [0]
    while frontier:
        for cell in to[frontier.pop()].tolist():
            if cell not in reached and letter[cell] != "H":
                reached.add(cell)
                frontier.append(cell)
    return len(letter) - 1 in reached


@struct
class FrozenLake(Finite):
    """S start, F frozen, H hole, G goal; both holes and the goal end the episode. On slippery ice
    the move succeeds with `success_rate`, else it goes to one of the two sides.

    Actions: left, down, right, up. The observation is the cell, row by row. `desc` is "4x4", "8x8"
    or a map of your own, such as `random_map(size=6, seed=3)`."""

    desc: str | grid.Map = static('the map: "4x4", "8x8" or its rows', default="4x4")
    is_slippery: bool = static("moves may go to the side", default=True)
    success_rate: Float = param(
        "probability of the intended move on slippery ice", default=1 / 3, low=0.0, high=1.0
    )
    goal_reward: Float = param("reward at the goal", default=1.0)
    hole_reward: Float = param("reward in a hole", default=0.0)
    step_reward: Float = param("reward of every other step", default=0.0)

    fps = 5
    moves = MOVES

    @property
    def map(self) -> grid.Map:
        if not isinstance(self.desc, str):
            return tuple(self.desc)
        if self.desc not in MAPS:
            raise ValueError(f'desc={self.desc!r} must be "4x4", "8x8" or a tuple of rows.')
        return MAPS[self.desc]

    @property
    def num_states(self) -> int:
        return len(grid.letters(self.map))

    @property
    def num_actions(self) -> int:
        return 4

    @property
    def num_outcomes(self) -> int:
        return 3 if self.is_slippery else 1

    @property
    def starts(self) -> np.ndarray:
        return grid.cells(self.map, "S")

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del state, action
        if not self.is_slippery:
            return jnp.ones(1)
        side = (1 - self.success_rate) / 2
        return jnp.stack([side, jnp.asarray(self.success_rate), side])

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        drawn = self.map
        letter = grid.letters(drawn)
        goal, hole = jnp.asarray(letter == "G"), jnp.asarray(letter == "H")
        move = (action + k - 1) % 4 if self.is_slippery else action
        over = goal[state] | hole[state]  # nothing follows, as in Gymnasium's table
        to = jnp.where(over, state, jnp.asarray(grid.destinations(drawn, MOVES))[state, move])
        reward = jnp.where(
            goal[to], self.goal_reward, jnp.where(hole[to], self.hole_reward, self.step_reward)
        )
        return to, jnp.where(over, 0, reward), goal[to] | hole[to]

    def drawn(self, state: jax.Array | int = 0) -> grid.Map:
        del state
        return self.map

    def render(self, state: jax.Array) -> Picture:
        return picture.picture(self.map, int(state))


def frozen_lake_8x8(
    is_slippery: bool = True,
    success_rate: Float = 1 / 3,
    goal_reward: Float = 1.0,
    hole_reward: Float = 0.0,
    step_reward: Float = 0.0,
) -> FrozenLake:
    return FrozenLake("8x8", is_slippery, success_rate, goal_reward, hole_reward, step_reward)
