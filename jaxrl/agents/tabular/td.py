"""TD(0) and n-step TD: the values of a policy, from up to n rewards and an estimate.

V(s) moves towards r + ... + gamma^(n-1) r' + gamma^n V(s'), n steps later (Sutton 1988; Sutton and
Barto 2018, section 7.1). n = 1 is TD(0). Each environment keeps its last n transitions; where an
episode ends all that are left are updated, oldest first, with the rewards there were.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import tables
from jaxrl.struct import static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Prediction, Table
from jaxrl.types import PyTree, Spec


@struct
class Window:
    """The last n transitions of one environment that still wait, the newest at the end."""

    obs: jax.Array  # [n] int32
    reward: jax.Array  # [n]
    count: jax.Array  # int32


@struct
class TD(Prediction):
    """TD(0), or n-step TD."""

    n_steps: int = static("rewards in a target", default=1, low=1)

    def begin(self, spec: Spec, size: int) -> PyTree:
        n = self.n_steps
        return Window(jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros((), jnp.int32))

    def learn_from(
        self, table: Table, memory: PyTree, move: Move
    ) -> tuple[Table, PyTree, jax.Array]:
        n = self.n_steps
        obs, reward = tables.push((memory.obs, memory.reward), (move.obs, move.reward))
        window = Window(obs, reward, jnp.minimum(memory.count + 1, n))

        def due(i: Any, carry: tuple[Table, jax.Array]) -> tuple[Table, jax.Array]:
            table, error = carry
            last = jnp.where(move.terminated, 0.0, table.values[move.next_obs])
            steps = jnp.arange(n) - i  # of the rewards, after the i-th state
            discounts = jnp.where(steps >= 0, self.gamma ** jnp.maximum(steps, 0), 0.0)
            g = jnp.dot(discounts, window.reward) + self.gamma ** (n - i) * last
            valid = move.ended | (window.count == n)
            table, new = self.moved(table, (window.obs[i],), g, valid)
            return table, jnp.where(valid, new, error)

        nothing = (table, jnp.full((), jnp.nan))
        if n == 1:
            table, error = due(0, nothing)
        else:  # the oldest when the window is full; all of them at an end
            full = jnp.where(window.count == n, 1, 0)
            stop = jnp.where(move.ended, n, n - window.count + full)
            table, error = jax.lax.fori_loop(n - window.count, stop, due, nothing)
        window = dataclasses.replace(window, count=jnp.where(move.ended, 0, window.count))
        return table, window, error
