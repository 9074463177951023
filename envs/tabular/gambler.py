"""Gambler: stake on the toss of a coin until you have the goal or nothing (Sutton & Barto,
example 4.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.finite import Finite
from jaxrl.struct import Float, param, static, struct


@struct
class Gambler(Finite):
    """Action a stakes a + 1, or as much of it as there is and as is needed for the goal. Heads wins
    the stake. Reaching the goal pays 1; the goal and ruin end the episode. One starts with any
    capital between them; the observation is the capital."""

    goal: int = static("capital to reach", default=100, low=2)
    heads: Float = param("probability of heads", default=0.4, low=0.0, high=1.0)

    @property
    def num_states(self) -> int:
        return self.goal + 1

    @property
    def num_actions(self) -> int:
        return self.goal // 2

    @property
    def num_outcomes(self) -> int:
        return 2

    @property
    def starts(self) -> np.ndarray:
        return np.arange(1, self.goal)

    def stake(self, state: jax.Array, action: jax.Array) -> jax.Array:
        """What is really staked."""
        return jnp.minimum(action + 1, jnp.minimum(state, self.goal - state))

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del state, action
        heads = jnp.asarray(self.heads)
        return jnp.stack([1 - heads, heads])

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        to = state + (2 * k - 1) * self.stake(state, action)
        won = to == self.goal
        return to, jnp.where(won, 1.0, 0.0), won | (to == 0)
