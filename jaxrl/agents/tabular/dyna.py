"""Dyna-Q and Dyna-Q+: Q-learning that also learns from a model of what it has seen.

After every transition, `planning_steps` more are drawn from the model and learned from in the same
way (Sutton 1990; Sutton and Barto 2018, section 8.2). Dyna-Q+ (section 8.3) expects of a pair that
was not tried for tau transitions a reward of kappa sqrt(tau) beside its own, also of actions never
tried, which it takes to lead back where they started: it keeps looking for what has changed.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl import outcomes
from jaxrl.outcomes import Drawn, Outcomes
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Table
from jaxrl.types import PyTree


@struct
class DynaQ(Control):
    """Dyna-Q."""

    planning_steps: int = static("transitions drawn from the model per real one", default=5, low=0)
    outcomes: int = static(
        "outcomes of a pair that the model keeps; 1 is a deterministic model", default=1, low=1
    )

    def model(self, states: int, actions: int) -> PyTree:
        return outcomes.init(states, actions, self.outcomes)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        table, error = self._learn(table, move, move.reward)
        model = outcomes.observe(table.model, move)
        table = dataclasses.replace(table, model=None)

        def plan(table: Table, u: jax.Array) -> tuple[Table, None]:
            drawn = self.draw(model, u)
            return self._learn(table, drawn, drawn.reward + self.bonus(model, drawn))[0], None

        if self.planning_steps:
            u = jax.random.uniform(move.key, (self.planning_steps, 3))
            table, _ = jax.lax.scan(plan, table, u)
        return dataclasses.replace(table, model=model), memory, error

    def _learn(self, table: Table, x: Move | Drawn, reward: jax.Array) -> tuple[Table, jax.Array]:
        value = jnp.where(x.terminated, 0.0, jnp.max(self.q(table, x.next_obs)))
        return self.moved(table, (x.obs, x.action), reward + self.gamma * value)

    def draw(self, model: Outcomes, u: jax.Array) -> Drawn:
        return outcomes.draw(model, u)

    def bonus(self, model: Outcomes, drawn: Drawn) -> jax.Array:
        return jnp.zeros(())


@struct
class DynaQPlus(DynaQ):
    """Dyna-Q+."""

    kappa: Float = param("reward expected per root of the time not tried", default=1e-3, low=0)

    def draw(self, model: Outcomes, u: jax.Array) -> Drawn:
        return outcomes.draw(model, u, untried=True)

    def bonus(self, model: Outcomes, drawn: Drawn) -> jax.Array:
        return self.kappa * jnp.sqrt(outcomes.since(model, drawn.obs, drawn.action))
