"""Semi-gradient SARSA and n-step SARSA with linear values (Sutton and Barto 2018, section 10.2).

w[a] moves by lr (r + ... + gamma^n w[a'] . x' - w[a] . x) x, n steps later, when the action a' that
follows is known: as in the book, it was chosen before the update that uses it. Where an episode
ends all that are left are learned from, oldest first; where it was cut a mean over the policy takes
the place of the next action.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import features, tables
from jaxrl.features import Vector
from jaxrl.linear import Control, Move, Weights, nothing
from jaxrl.struct import static, struct
from jaxrl.types import PyTree, Spec


@struct
class Window:
    """The last n transitions of one environment that still wait, the newest at the end."""

    x: Vector  # [n, ...]
    action: jax.Array  # [n] int32
    reward: jax.Array  # [n]
    count: jax.Array  # int32


@struct
class LinearSARSA(Control):
    """Semi-gradient SARSA, or n-step SARSA."""

    n_steps: int = static("rewards in a target", default=1, low=1)

    def begin(self, spec: Spec) -> PyTree:
        n = self.n_steps
        x = nothing(self.features, spec, n)
        return Window(x, jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros((), jnp.int32))

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, share: jax.Array, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        n, window = self.n_steps, memory
        last = features.value(weights.w, move.x, move.action)
        weights, error = self._towards(weights, window, 0, last, window.count == n, spec)
        x, action, reward = tables.push(
            (window.x, window.action, window.reward), (move.x, move.action, move.reward)
        )
        window = Window(x, action, reward, jnp.minimum(window.count + 1, n))

        def flush(i: Any, carry: tuple[Weights, jax.Array]) -> tuple[Weights, jax.Array]:
            weights, error = carry
            last = self.after(weights, move, share)
            weights, new = self._towards(weights, window, i, last, move.ended, spec)
            return weights, jnp.where(move.ended, new, error)

        if n == 1:
            weights, error = flush(0, (weights, error))
        else:
            oldest = jnp.where(move.ended, n - window.count, n)
            weights, error = jax.lax.fori_loop(oldest, n, flush, (weights, error))
        count = jnp.where(move.ended, 0, window.count)
        return weights, dataclasses.replace(window, count=count), error

    def _towards(
        self, weights: Weights, window: Window, i: Any, last: jax.Array, valid: Any, spec: Spec
    ) -> tuple[Weights, jax.Array]:
        """The i-th pair towards its return, when what follows the newest one is worth `last`."""
        n = self.n_steps
        steps = jnp.arange(n) - i
        discounts = jnp.where(steps >= 0, self.gamma ** jnp.maximum(steps, 0), 0.0)
        g = jnp.dot(discounts, window.reward) + self.gamma ** (n - i) * last
        x = jax.tree.map(lambda x: x[i], window.x)
        return self.moved(weights, x, window.action[i], g, spec, valid)
