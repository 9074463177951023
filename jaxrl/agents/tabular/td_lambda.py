"""TD(lambda) and true online TD(lambda): the values of a policy, all lengths of return at once.

Every error delta = r + gamma V(s') - V(s) moves all states by lr * delta * e, where a state's trace
e fades by gamma lam per step and is renewed by a visit (Sutton 1988). `kind` says how: accumulating
traces are the book's, replacing ones keep a state visited often from being moved too far. True
online TD(lambda) (van Seijen et al. 2016) equals the forward view at every step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import traces
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Prediction, Table
from jaxrl.traces import Dense, Kind, Recent
from jaxrl.types import PyTree, Spec


@struct
class TDLambda(Prediction):
    """TD(lambda) with accumulating, replacing or dutch traces."""

    lam: Float = param("how slowly traces fade", default=0.9, low=0, high=1)
    kind: Kind = static("what a visit makes of a trace", default=traces.accumulating)
    trace: Dense | Recent | None = static(
        "where traces are kept; None is Dense for small tables", default=None
    )

    def check(self, spec: Spec, size: int) -> None:
        traces.check(self.trace, size, self.gamma * self.lam)

    def begin(self, spec: Spec, size: int) -> PyTree:
        """The trace, and the value of the state at hand before the last update."""
        return traces.chosen(self.trace, size).init(size), jnp.zeros(())

    def learn_from(
        self, table: Table, memory: PyTree, move: Move
    ) -> tuple[Table, PyTree, jax.Array]:
        trace, old = memory
        table, alpha = self.step_size(table, (move.obs,))
        value = table.values[move.obs]
        next_value = table.values[move.next_obs]
        error = traces.Error(
            index=move.obs,
            delta=move.reward + self.gamma * jnp.where(move.terminated, 0.0, next_value) - value,
            value=value,
            old=jnp.where(move.first, value, old),
            alpha=alpha,
            rate=jnp.asarray(self.gamma * self.lam),
            valid=jnp.ones((), bool),
        )
        kept = traces.chosen(self.trace, table.values.size)
        values, trace = self.credit(kept, table.values, trace, error)
        table = dataclasses.replace(table, values=values)
        return table, (traces.reset(trace, move.ended), next_value), error.delta

    def credit(
        self, kept: Any, values: jax.Array, trace: PyTree, error: traces.Error
    ) -> tuple[jax.Array, PyTree]:
        return traces.td(kept, self.kind, values, trace, error)


@struct
class TrueOnlineTD(TDLambda):
    """True online TD(lambda)."""

    kind: Kind = static("what a visit makes of a trace: dutch", default=traces.dutch)

    def credit(
        self, kept: Any, values: jax.Array, trace: PyTree, error: traces.Error
    ) -> tuple[jax.Array, PyTree]:
        return traces.true_online(kept, values, trace, error)
