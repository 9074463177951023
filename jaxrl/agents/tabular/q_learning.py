"""Q-learning, Expected SARSA and Double Q-learning: one-step methods that need no next action.

Q(s, a) moves towards r + gamma V(s'). Q-learning (Watkins 1989) takes the best action for V, what
the greedy policy is worth, whatever was done to explore; Expected SARSA (van Seijen et al. 2009)
takes the mean over the policy that acts. Double Q-learning (van Hasselt 2010) keeps two tables: one
says which action is best and the other what it is worth, so that chance is not taken for value.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.struct import struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Table, masked
from jaxrl.types import PyTree


@struct
class QLearning(Control):
    """Q-learning: towards r + gamma max_a Q(s', a)."""

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        value = self.next_value(table, move.next_obs, share)
        target = move.reward + self.gamma * jnp.where(move.terminated, 0.0, value)
        table, error = self.moved(table, (move.obs, move.action), target)
        return table, memory, error

    def next_value(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        return jnp.max(self.q(table, s))


@struct
class ExpectedSARSA(QLearning):
    """Expected SARSA: towards r + gamma sum_a pi(a | s') Q(s', a), with pi as it acts."""

    def next_value(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        return self.expected(table, s, share)


@struct
class DoubleQLearning(Control):
    """Double Q-learning: a coin says which table learns; it chooses, the other one evaluates."""

    def zeros(self, pairs: tuple[int, int]) -> jax.Array:
        return jnp.zeros((2, *pairs))

    def q(self, table: Table, s: jax.Array) -> jax.Array:
        """It acts by the mean of both."""
        mean = (table.values[0, s] + table.values[1, s]) / 2
        return masked(mean, None if table.allowed is None else table.allowed[s])

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        one = jax.random.bernoulli(move.key).astype(jnp.int32)
        allowed = None if table.allowed is None else table.allowed[move.next_obs]
        best = jnp.argmax(masked(table.values[one, move.next_obs], allowed))
        value = table.values[1 - one, move.next_obs, best]
        target = move.reward + self.gamma * jnp.where(move.terminated, 0.0, value)
        table, error = self.moved(table, (one, move.obs, move.action), target)
        return table, memory, error
