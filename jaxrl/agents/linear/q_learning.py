"""Q-learning and Expected SARSA with linear values: semi-gradient steps that need no next action.

w[a] moves by lr (r + gamma V(x') - w[a] . x) x. Q-learning takes the best action for V, which is
off-policy and may diverge with features that are shared; Expected SARSA takes the mean over the
policy that acts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.features import Vector
from jaxrl.linear import Control, Move, Weights
from jaxrl.struct import struct
from jaxrl.types import PyTree, Spec


@struct
class LinearQLearning(Control):
    """Semi-gradient Q-learning: towards r + gamma max_a w[a] . x'."""

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, share: jax.Array, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        allowed = None if move.allowed is None else move.allowed[1]
        value = self.next_value(weights, move.next_x, share, allowed)
        target = move.reward + self.gamma * jnp.where(move.terminated, 0.0, value)
        weights, error = self.moved(weights, move.x, move.action, target, spec)
        return weights, memory, error

    def next_value(
        self, weights: Weights, x: Vector, share: jax.Array, allowed: jax.Array | None
    ) -> jax.Array:
        return jnp.max(self.q(weights, x, allowed))


@struct
class LinearExpectedSARSA(LinearQLearning):
    """Semi-gradient Expected SARSA: towards r + gamma sum_a pi(a | x') w[a] . x'."""

    def next_value(
        self, weights: Weights, x: Vector, share: jax.Array, allowed: jax.Array | None
    ) -> jax.Array:
        return self.expected(weights, x, share, allowed)
