"""DeepSea: a treasure that is found only by going right every time, each step at a cost.

A policy that tries actions at random finds it once in 2^size episodes; exploration with a purpose
needs about size^2 (Osband et al., "Deep exploration via randomized value functions", 2019).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import palette
from jaxrl.drawing import Picture, grid
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


@struct
class DeepSea:
    """A diver starts top left of a square and sinks one row per step, to the left or to the right.
    Every step to the right costs move_cost / size; one to the right in the last column, which is
    reached in the last row at the earliest, pays 1.

    Which of the two actions means right is drawn for every cell from `mapping_seed`; with None
    action 1 means right everywhere. In the stochastic variant a step to the right fails with
    probability 1 / size, and the reward at both bottom corners is noisy. The observation is
    one-hot, and all zero at the end of the episode."""

    size: int = static("rows and columns", default=8, low=2)
    move_cost: Float = param("cost of going right all the way", default=0.01, low=0.0)
    mapping_seed: Float | int | None = param("which action means right in which cell", default=0)
    stochastic: bool = static("slipping and noisy rewards", default=False)

    fps = 5

    @property
    def obs_space(self) -> Box:
        return Box(0, 1, (self.size, self.size), np.bool_)

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        cell = jnp.zeros(2, jnp.int32)  # row, column
        return cell, self._observe(cell)

    def right_action(self, cell: jax.Array) -> jax.Array:
        """The action that means right in a cell (row, column): int32, 0 or 1."""
        if self.mapping_seed is None:
            return jnp.ones((), jnp.int32)
        # A hash of seed and cell instead of a table: each lane of a vmap can have its own map, and
        # the state holds nothing of it.
        seed = jnp.asarray(self.mapping_seed).astype(jnp.int32)
        cell_key = jax.random.fold_in(jax.random.key(seed), cell[0] * self.size + cell[1])
        return jax.random.bernoulli(cell_key).astype(jnp.int32)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        row, column = state[0], state[1]
        last = self.size - 1
        right = action == self.right_action(state)
        treasure = right & (column == last)
        reward = treasure - right * (self.move_cost / self.size)
        moves = right
        if self.stochastic:
            slip_key, noise_key = jax.random.split(key)
            moves = right & (jax.random.uniform(slip_key) > 1 / self.size)
            corner = (row == last) & ((column == 0) | (column == last))
            reward = reward + corner * jax.random.normal(noise_key)
        shift = jnp.where(right, moves.astype(jnp.int32), -1)
        cell = jnp.stack([row + 1, jnp.clip(column + shift, 0, last)])
        ended = cell[0] == self.size
        reward = reward.astype(jnp.float32)
        return cell, Step(self._observe(cell), reward, ended, jnp.zeros((), bool))

    def _observe(self, cell: jax.Array) -> jax.Array:
        index = jnp.arange(self.size)
        return (index[:, None] == cell[0]) & (index == cell[1])

    def render(self, state: jax.Array) -> Picture:
        """The row below the last is the sea bed, where episodes end."""
        size = self.size
        canvas = grid(size + 1, size)
        canvas.box((size / 2, 0.5), size, 1, palette.FAINT)
        canvas.box((size - 0.5, 1.5), 0.8, 0.8, palette.YELLOW)
        row, column = map(int, np.asarray(state))
        canvas.disc((column + 0.5, size - row + 0.5), 0.3, palette.BLUE)
        return canvas.picture()
