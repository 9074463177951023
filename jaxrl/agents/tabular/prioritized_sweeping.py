"""Prioritised sweeping: plan where values are about to change most.

The priority of a pair is how far its value is from what the model says it should be. After every
transition the pairs of highest priority above `theta` are updated, at most `planning_steps`, and
the pairs that lead to them get new priorities (Moore and Atkeson 1993; Peng and Williams 1993;
Sutton and Barto 2018, section 8.4). With a model of several outcomes an update is the full mean
over them. The queue is an array of all pairs and its head a maximum: planning costs a pass over the
table, in place of the pointers of a heap.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import outcomes, tables
from jaxrl.outcomes import Outcomes
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Table, masked
from jaxrl.types import PyTree


@struct
class Planner:
    model: Outcomes
    priority: jax.Array  # [S, A], 0 where there is nothing to do


@struct
class PrioritizedSweeping(Control):
    """Prioritised sweeping from experience."""

    lr: Float = param("step size", default=0.5, above=0)
    theta: Float = param("priority below which a pair is left alone", default=1e-4, low=0)
    planning_steps: int = static("updates per real transition, at most", default=5, low=1)
    outcomes: int = static(
        "outcomes of a pair that the model keeps; 1 is a deterministic model", default=1, low=1
    )

    def model(self, states: int, actions: int) -> PyTree:
        pairs = jnp.zeros((states, actions))
        return Planner(outcomes.init(states, actions, self.outcomes), pairs)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        s, a = move.obs, move.action
        model = outcomes.observe(table.model.model, move)
        error = (
            outcomes.target(model, s, a, masked(table.values, table.allowed), self.gamma)
            - table.values[s, a]
        )
        priority = table.model.priority.at[s, a].set(self._priority(error))
        table = dataclasses.replace(table, model=None)

        def plan(_: Any, carry: tuple[Table, jax.Array]) -> tuple[Table, jax.Array]:
            table, priority = carry
            head = jnp.argmax(priority)
            s, a = jnp.divmod(head, priority.shape[1])
            some = priority[s, a] > 0
            target = outcomes.target(model, s, a, masked(table.values, table.allowed), self.gamma)
            table, _ = self.moved(table, (s, a), target, some)
            priority = tables.add(priority, (s, a), -priority[s, a])
            best = jnp.max(masked(table.values, table.allowed), axis=-1)
            errors = outcomes.targets(model, best, self.gamma) - table.values
            leads = outcomes.predecessors(model, s) & some
            fresh = jnp.where(leads, self._priority(errors), 0.0)
            return table, jnp.maximum(priority, fresh)

        table, priority = jax.lax.fori_loop(0, self.planning_steps, plan, (table, priority))
        return dataclasses.replace(table, model=Planner(model, priority)), memory, error

    def _priority(self, error: jax.Array) -> jax.Array:
        size = jnp.abs(error)
        return jnp.where(size > self.theta, size, 0.0)
