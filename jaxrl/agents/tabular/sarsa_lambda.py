"""SARSA(lambda) and true online SARSA(lambda): every error reaches all pairs that led to it.

With delta = r + gamma Q(s', a') - Q(s, a), each pair moves by lr * delta * e, where its trace e
fades by gamma lam per step and is renewed by a visit (Rummery and Niranjan 1994; `kind` says how).
The true online form (van Seijen et al. 2016) adds what makes it equal, at every step, to the
off-line lambda-return that could be computed by then; its traces are dutch.

A transition waits until its next action is known, which was chosen before this update. Where an
episode was cut there is none, and the mean over the policy takes its place.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import traces
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Table
from jaxrl.traces import Dense, Kind, Recent
from jaxrl.types import PyTree, Spec


@struct
class Waiting:
    obs: jax.Array  # int32
    action: jax.Array
    reward: jax.Array
    valid: jax.Array  # bool: nothing waits where an episode begins
    trace: PyTree
    old: jax.Array  # the value of the pair as it was a step ago


@struct
class SARSALambda(Control):
    """SARSA(lambda) with accumulating, replacing or dutch traces."""

    lam: Float = param("how slowly traces fade", default=0.9, low=0, high=1)
    kind: Kind = static("what a visit makes of a trace", default=traces.replacing)
    trace: Dense | Recent | None = static(
        "where traces are kept; None is Dense for small tables", default=None
    )

    def check(self, spec: Spec, size: int) -> None:
        traces.check(self.trace, size, self.gamma * self.lam)

    def begin(self, spec: Spec, size: int) -> PyTree:
        zero = jnp.zeros((), jnp.int32)
        trace = traces.chosen(self.trace, size).init(size)
        return Waiting(zero, zero, jnp.zeros(()), jnp.zeros((), bool), trace, jnp.zeros(()))

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        value = table.values[move.obs, move.action]
        table, trace, error = self._learn(table, memory, value)
        now = Waiting(move.obs, move.action, move.reward, move.ended, trace, value)
        mean = self.expected(table, move.next_obs, share)
        value = jnp.where(move.terminated, 0.0, mean)
        table, trace, last = self._learn(table, now, value)
        trace = traces.reset(trace, move.ended)
        now = Waiting(move.obs, move.action, move.reward, ~move.ended, trace, now.old)
        return table, now, jnp.where(move.ended, last, error)

    def _learn(self, table: Table, x: Waiting, value: jax.Array) -> tuple[Table, PyTree, Any]:
        """From one transition, if it is valid, whose next pair is worth `value`."""
        table, alpha = self.step_size(table, (x.obs, x.action), x.valid)
        q = table.values[x.obs, x.action]
        error = traces.Error(
            index=x.obs * table.values.shape[1] + x.action,
            delta=x.reward + self.gamma * value - q,
            value=q,
            old=x.old,
            alpha=alpha,
            rate=jnp.asarray(self.gamma * self.lam),
            valid=x.valid,
        )
        kept = traces.chosen(self.trace, table.values.size)
        values, trace = self.credit(kept, table.values, x.trace, error)
        table = dataclasses.replace(table, values=values)
        return table, trace, jnp.where(x.valid, error.delta, jnp.nan)

    def credit(
        self, kept: Any, values: jax.Array, trace: PyTree, error: traces.Error
    ) -> tuple[jax.Array, PyTree]:
        return traces.td(kept, self.kind, values, trace, error)


@struct
class TrueOnlineSARSA(SARSALambda):
    """True online SARSA(lambda)."""

    kind: Kind = static("what a visit makes of a trace: dutch", default=traces.dutch)

    def credit(
        self, kept: Any, values: jax.Array, trace: PyTree, error: traces.Error
    ) -> tuple[jax.Array, PyTree]:
        return traces.true_online(kept, values, trace, error)
