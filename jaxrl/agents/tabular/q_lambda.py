"""Q(lambda): off-policy control with traces, after Watkins, Peng, and Munos.

All move every pair by lr * delta * e, with delta = r + gamma V(s') - Q(s, a); V is the mean over
the policy that is learned about, by default the greedy one. A trace fades by gamma lam c, where c
asks the action just taken whether what follows still says something about that policy. `cut` is
that c, from pi(a | s) of the policy that is learned about and mu(a | s) of the one that acted:

- `watkins`: 1 for actions pi would take, else 0 (Watkins 1989);
- `retrace`: min(1, pi / mu), safe for every mu and still as long as it can be (Munos et al. 2016);
- `tree_backup`: pi (Precup et al. 2000);
- `importance`: pi / mu, unbiased and of unbounded variance.

Peng's Q(lambda) (Peng and Williams 1996) never cuts: exploratory actions are part of its returns,
which end in a best value, and it is neither on- nor off-policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import tables, traces
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Table, mean
from jaxrl.traces import Dense, Kind, Recent
from jaxrl.types import PyTree, Spec

Cut = Callable[[jax.Array, jax.Array], jax.Array]


def watkins(pi: jax.Array, mu: jax.Array) -> jax.Array:
    del mu
    return jnp.where(pi > 0, 1.0, 0.0)


def retrace(pi: jax.Array, mu: jax.Array) -> jax.Array:
    return jnp.minimum(1.0, pi / mu)


def tree_backup(pi: jax.Array, mu: jax.Array) -> jax.Array:
    del mu
    return pi


def importance(pi: jax.Array, mu: jax.Array) -> jax.Array:
    return pi / mu


@struct
class QLambda(Control):
    """Watkins's Q(lambda), Retrace(lambda) and their relatives, by how traces are cut."""

    lam: Float = param("how slowly traces fade", default=0.9, low=0, high=1)
    target: Any = param("policy that is learned about", default=EpsilonGreedy(0.0))
    cut: Cut = static("pi(a | s), mu(a | s) -> factor on traces", default=watkins)
    kind: Kind = static("what a visit makes of a trace", default=traces.accumulating)
    trace: Dense | Recent | None = static(
        "where traces are kept; None is Dense for small tables", default=None
    )

    def check(self, spec: Spec, size: int) -> None:
        traces.check(self.trace, size, self.gamma * self.lam)

    def begin(self, spec: Spec, size: int) -> PyTree:
        return traces.chosen(self.trace, size).init(size)

    def extras(self, probability: jax.Array, action: jax.Array) -> PyTree:
        return jnp.take_along_axis(probability, action[:, None], axis=1)[:, 0]

    def learned(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        visits = None if table.visits is None else table.visits[s]
        return self.target.probabilities(self.q(table, s), visits, share)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        s, a = move.obs, move.action
        c = self.cut(self.learned(table, s, share)[a], move.extras)
        value = mean(self.learned(table, move.next_obs, share), self.q(table, move.next_obs))
        q = table.values[s, a]
        table, alpha = self.step_size(table, (s, a))
        error = traces.Error(
            index=s * table.values.shape[1] + a,
            delta=move.reward + self.gamma * jnp.where(move.terminated, 0.0, value) - q,
            value=q,
            old=q,
            alpha=alpha,
            rate=self.gamma * self.lam * c,
            valid=jnp.ones((), bool),
        )
        kept = traces.chosen(self.trace, table.values.size)
        values, trace = traces.td(kept, self.kind, table.values, memory, error)
        table = dataclasses.replace(table, values=values)
        return table, traces.reset(trace, move.ended), error.delta


@struct
class PengQLambda(Control):
    """Peng's Q(lambda): the pairs before are credited with r + gamma max Q(s', .) - max Q(s, .),
    the newest one with its own error."""

    lam: Float = param("how slowly traces fade", default=0.9, low=0, high=1)
    trace: Dense | Recent | None = static(
        "where traces are kept; None is Dense for small tables", default=None
    )

    def check(self, spec: Spec, size: int) -> None:
        traces.check(self.trace, size, self.gamma * self.lam)

    def begin(self, spec: Spec, size: int) -> PyTree:
        return traces.chosen(self.trace, size).init(size)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        s, a = move.obs, move.action
        table, alpha = self.step_size(table, (s, a))
        best = jnp.where(move.terminated, 0.0, jnp.max(self.q(table, move.next_obs)))
        target = move.reward + self.gamma * best
        own = target - table.values[s, a]
        kept = traces.chosen(self.trace, table.values.size)
        trace = kept.decay(memory, jnp.asarray(self.gamma * self.lam))
        values = kept.move(table.values, trace, alpha * (target - jnp.max(self.q(table, s))))
        values = tables.add(values, (s, a), alpha * own)
        index = s * values.shape[1] + a
        trace = kept.put(trace, index, traces.accumulating(kept.value(trace, index), alpha))
        table = dataclasses.replace(table, values=values)
        return table, traces.reset(trace, move.ended), own
