"""SARSA, n-step SARSA, n-step Tree Backup and n-step Q(sigma) (Sutton and Barto 2018, chapter 7).

Each environment keeps its last n transitions. When the action after them is known the oldest is
updated: as in the book, an action is chosen before the update that uses it. Where an episode ends
all that are left are updated, oldest first. SARSA is n-step SARSA with n = 1.

Going back from the end, the value of being at s and having taken a, when it turned out to be G, is
counted as V(s) + c (G - Q(s, a)): V is the mean over the policy, and c what the choice of a says
about the policy. c = pi(a | s) is Tree Backup, c = pi / mu corrects for the policy that acted;
Q(sigma) mixes the two (De Asis et al. 2018). SARSA takes G as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import tables
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Table, mean
from jaxrl.types import PyTree, Spec


@struct
class Window:
    """The last n transitions of one environment that still wait, the newest at the end."""

    obs: jax.Array  # [n] int32
    action: jax.Array  # [n] int32
    reward: jax.Array  # [n]
    mu: jax.Array  # [n]: the probability with which the action was taken
    count: jax.Array  # int32


@struct
class SARSA(Control):
    """n-step SARSA (Rummery and Niranjan 1994): towards n rewards and Q(s', a') after them."""

    n_steps: int = static("rewards in a target", default=1, low=1)

    def begin(self, spec: Spec, size: int) -> PyTree:
        ints, floats = jnp.zeros(self.n_steps, jnp.int32), jnp.zeros(self.n_steps)
        return Window(ints, ints, floats, floats + 1.0, jnp.zeros((), jnp.int32))

    def extras(self, probability: jax.Array, action: jax.Array) -> PyTree:
        return jnp.take_along_axis(probability, action[:, None], axis=1)[:, 0]

    def back(
        self, table: Table, window: Window, k: jax.Array, g: jax.Array, share: jax.Array
    ) -> jax.Array:
        """What being at the k-th pair counts for, when it turned out to be g."""
        return g

    def ahead(self, table: Table, move: Move, share: jax.Array) -> jax.Array:
        """What being where the newest action was chosen counts for."""
        return table.values[move.obs, move.action]

    def learned(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        """The policy that is learned about, [A]."""
        return self.policy(table, s, share)

    def worth(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        """A state under that policy."""
        return mean(self.learned(table, s, share), self.q(table, s))

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        n = self.n_steps
        window: Window = memory
        last = self.ahead(table, move, share)
        table, error = self._update(table, window, 0, last, window.count == n, share)
        window = Window(
            obs=tables.push(window.obs, move.obs),
            action=tables.push(window.action, move.action),
            reward=tables.push(window.reward, move.reward),
            mu=tables.push(window.mu, move.extras),
            count=jnp.minimum(window.count + 1, n),
        )

        def flush(i: Any, carry: tuple[Table, jax.Array]) -> tuple[Table, jax.Array]:
            table, error = carry
            value = self.worth(table, move.next_obs, share)
            last = jnp.where(move.terminated, 0.0, value)  # a cut has no next action
            table, new = self._update(table, window, i, last, move.ended, share)
            return table, jnp.where(move.ended, new, error)

        if n == 1:
            table, error = flush(0, (table, error))
        else:
            oldest = jnp.where(move.ended, n - window.count, n)
            table, error = jax.lax.fori_loop(oldest, n, flush, (table, error))
        count = jnp.where(move.ended, 0, window.count)
        return table, dataclasses.replace(window, count=count), error

    def _update(
        self, table: Table, window: Window, i: Any, last: jax.Array, valid: jax.Array, share: Any
    ) -> tuple[Table, jax.Array]:
        """The i-th pair towards its return, when what follows the newest one counts for `last`."""
        n = self.n_steps

        def step(j: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            k = n - 1 - j
            g = window.reward[k] + self.gamma * carry[1]
            return g, self.back(table, window, k, g, share)

        if n == 1:
            g = window.reward[0] + self.gamma * last
        else:
            g, _ = jax.lax.fori_loop(0, n - i, step, (jnp.zeros(()), last))
        return self.moved(table, (window.obs[i], window.action[i]), g, valid)


@struct
class TreeBackup(SARSA):
    """n-step Tree Backup (Precup et al. 2000): off-policy without importance ratios."""

    n_steps: int = static("rewards in a target", default=3, low=1)
    target: Any | None = param(
        "policy that is learned about; None is the one that acts", default=None
    )

    def learned(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        policy = self.exploration if self.target is None else self.target
        visits = None if table.visits is None else table.visits[s]
        return policy.probabilities(self.q(table, s), visits, share)

    def weight(self, probability: jax.Array, mu: jax.Array) -> jax.Array:
        """How much of a return counts, from pi(a | s) and mu(a | s)."""
        return probability

    def back(
        self, table: Table, window: Window, k: jax.Array, g: jax.Array, share: jax.Array
    ) -> jax.Array:
        s, a = window.obs[k], window.action[k]
        c = self.weight(self.learned(table, s, share)[a], window.mu[k])
        return self.worth(table, s, share) + c * (g - table.values[s, a])

    def ahead(self, table: Table, move: Move, share: jax.Array) -> jax.Array:
        return self.worth(table, move.obs, share)


@struct
class QSigma(TreeBackup):
    """n-step Q(sigma): importance ratios for sigma = 1, Tree Backup for sigma = 0."""

    sigma: Float = param("share of sampling in a backup", default=0.5, low=0, high=1)

    def weight(self, probability: jax.Array, mu: jax.Array) -> jax.Array:
        ratio = jnp.ones(()) if self.target is None else probability / mu
        return self.sigma * ratio + (1.0 - self.sigma) * probability
