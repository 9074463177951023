"""Differential semi-gradient SARSA: tasks without end, judged by their average reward.

With delta = r - m + w[a'] . x' - w[a] . x, the mean reward m moves by lr_mean * delta and w[a] by
lr * delta * x (Sutton and Barto 2018, section 10.3). There is no discount. An end of an episode is
only a change of place: where it leads is not known, and the transition is not learned from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl import features
from jaxrl.features import Vector
from jaxrl.linear import Control, Move, Weights, nothing
from jaxrl.struct import Float, param, struct
from jaxrl.types import PyTree, Spec


@struct
class Waiting:
    x: Vector
    action: jax.Array
    reward: jax.Array
    valid: jax.Array


@struct
class DifferentialSARSA(Control):
    """Differential semi-gradient SARSA."""

    lr_mean: Float = param("step size of the mean reward", default=0.01, above=0)
    gamma: Float = param("not used: an average has no discount", default=1.0, low=1, high=1)

    def begin(self, spec: Spec) -> PyTree:
        x = nothing(self.features, spec)
        return Waiting(x, jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool))

    def extra(self, spec: Spec) -> PyTree:
        """The mean reward."""
        return jnp.zeros(())

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, share: jax.Array, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        mean, value = weights.extra, features.value(weights.w, move.x, move.action)
        delta = memory.reward - mean + value - features.value(weights.w, memory.x, memory.action)
        step = jnp.where(memory.valid, delta, 0.0)
        w = features.add(
            weights.w, memory.x, self.alpha(spec) * step, self.rates(spec), memory.action
        )
        weights = Weights(w, mean + self.lr_mean * step)
        waiting = Waiting(move.x, move.action, move.reward, ~move.ended)
        return weights, waiting, jnp.where(memory.valid, delta, jnp.nan)
