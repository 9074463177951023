"""CliffWalking: along a cliff to the goal (Sutton & Barto, example 6.6; Gymnasium's
CliffWalking-v1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.drawing import Picture
from jaxrl.envs.finite import Finite
from jaxrl.envs.gridworld import grid, picture
from jaxrl.struct import Float, param, static, struct

MAP: grid.Map = ("............", "............", "............", "SCCCCCCCCCCG")


@struct
class CliffWalking(Finite):
    """Every step costs 1, until the goal is reached. A step into the cliff costs 100 and leads back
    to the start; the episode goes on. When slippery, a move goes where it should or to one of the
    two sides, each with probability 1/3.

    Actions: up, right, down, left. The observation is the cell, row by row. The best return is
    -13."""

    is_slippery: bool = static("moves may go to the side", default=False)
    step_cost: Float = param("cost of a step", default=1.0)
    cliff_cost: Float = param("cost of a step into the cliff", default=100.0)

    fps = 5
    moves = grid.FOUR

    @property
    def num_states(self) -> int:
        return 48

    @property
    def num_actions(self) -> int:
        return 4

    @property
    def num_outcomes(self) -> int:
        return 3 if self.is_slippery else 1

    @property
    def starts(self) -> np.ndarray:
        return grid.cells(MAP, "S")

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del state, action
        return jnp.ones(self.num_outcomes) / self.num_outcomes

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        move = (action + k - 1) % 4 if self.is_slippery else action
        to = jnp.asarray(grid.destinations(MAP, grid.FOUR))[state, move]
        cliff = jnp.asarray(grid.letters(MAP) == "C")[to]
        goal = to == grid.cells(MAP, "G")[0]
        reward = jnp.where(cliff, -self.cliff_cost, -self.step_cost)
        return jnp.where(cliff, int(self.starts[0]), to), reward, goal

    def drawn(self, state: jax.Array | int = 0) -> grid.Map:
        del state
        return MAP

    def render(self, state: jax.Array) -> Picture:
        return picture.picture(MAP, int(state))


def cliff_walking_slippery(step_cost: Float = 1.0, cliff_cost: Float = 100.0) -> CliffWalking:
    return CliffWalking(True, step_cost, cliff_cost)
