"""Semi-gradient TD(0) and n-step TD with linear values (Sutton and Barto 2018, section 9.4).

w moves by lr (r + ... + gamma^(n-1) r' + gamma^n w . x' - w . x) x, n steps later. Where an episode
ends all observations that are left are learned from, oldest first, with the rewards there were.
With a `target` other than the policy that acts, the step is weighed with the ratios pi / mu of the
n actions (section 11.1): semi-gradient off-policy learning, which may diverge (see TDC,
EmphaticTD).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import features, tables
from jaxrl.features import Vector
from jaxrl.linear import Move, Prediction, Weights, nothing
from jaxrl.struct import static, struct
from jaxrl.types import PyTree, Spec


@struct
class Window:
    """The last n transitions of one environment that still wait, the newest at the end."""

    x: Vector  # [n, ...]
    reward: jax.Array  # [n]
    rho: jax.Array  # [n]
    count: jax.Array  # int32


@struct
class LinearTD(Prediction):
    """Semi-gradient TD(0), or n-step TD."""

    n_steps: int = static("rewards in a target", default=1, low=1)

    def begin(self, spec: Spec) -> PyTree:
        n = self.n_steps
        x = nothing(self.features, spec, n)
        return Window(x, jnp.zeros(n), jnp.ones(n), jnp.zeros((), jnp.int32))

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        n = self.n_steps
        x, reward, rho = tables.push(
            (memory.x, memory.reward, memory.rho), (move.x, move.reward, move.rho)
        )
        window = Window(x, reward, rho, jnp.minimum(memory.count + 1, n))

        def due(i: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            w, error = carry
            last = jnp.where(move.terminated, 0.0, features.dot(w, move.next_x))
            steps = jnp.arange(n) - i  # of the rewards, after the i-th observation
            discounts = jnp.where(steps >= 0, self.gamma ** jnp.maximum(steps, 0), 0.0)
            g = jnp.dot(discounts, window.reward) + self.gamma ** (n - i) * last
            ratio = jnp.prod(jnp.where(steps >= 0, window.rho, 1.0))
            here = jax.tree.map(lambda x: x[i], window.x)
            valid = move.ended | (window.count == n)
            new = g - features.dot(w, here)
            amount = jnp.where(valid, self.alpha(spec) * ratio * new, 0.0)
            w = features.add(w, here, amount, self.rates(spec))
            return w, jnp.where(valid, new, error)

        nothing = (weights.w, jnp.full((), jnp.nan))
        if n == 1:
            w, error = due(0, nothing)
        else:  # the oldest when the window is full; all of them at an end
            full = jnp.where(window.count == n, 1, 0)
            stop = jnp.where(move.ended, n, n - window.count + full)
            w, error = jax.lax.fori_loop(n - window.count, stop, due, nothing)
        window = dataclasses.replace(window, count=jnp.where(move.ended, 0, window.count))
        return dataclasses.replace(weights, w=w), window, error
