"""TD(lambda) and true online TD(lambda) with linear values.

Every error delta = r + gamma w . x' - w . x moves w by lr delta z, where the trace z fades by gamma
lam per step and is renewed by the features x (Sutton and Barto 2018, sections 12.2 and 12.5). True
online TD(lambda) (van Seijen et al. 2016) equals the forward view at every step. With a `target`
the trace of TD(lambda) is weighed with pi / mu (section 12.9), and may diverge.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import eligibility, features
from jaxrl.eligibility import Error, Kind
from jaxrl.linear import Move, Prediction, Weights, part
from jaxrl.struct import Float, param, static, struct
from jaxrl.traces import Dense, Recent
from jaxrl.types import PyTree, Spec


@struct
class LinearTDLambda(Prediction):
    """TD(lambda) with accumulating, replacing or dutch traces."""

    lam: Float = param("how slowly traces fade", default=0.9, low=0, high=1)
    kind: Kind = static(
        "what the features seen make of a trace", default=eligibility.accumulating_trace
    )
    trace: Dense | Recent | None = static(
        "where traces are kept; None is Dense for few weights", default=None
    )

    def _kept(self, spec: Spec) -> Any:
        space = part(spec.obs_space)
        size, active = self.features.size(space), self.features.active(space)
        name, rate = type(self).__name__, self.gamma * self.lam
        return eligibility.storage(name, self.trace, self.kind, 1, size, active, rate)

    def begin(self, spec: Spec) -> PyTree:
        """The trace, and the value of the observation at hand before the last update."""
        return self._kept(spec).init(), jnp.zeros(())

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        trace, old = memory
        value, next_value = features.dot(weights.w, move.x), features.dot(weights.w, move.next_x)
        assert move.rho is not None
        error = Error(
            x=move.x,
            action=jnp.zeros((), jnp.int32),
            delta=move.reward + self.gamma * jnp.where(move.terminated, 0.0, next_value) - value,
            value=value,
            old=jnp.where(move.first, value, old),
            alpha=self.alpha(spec),
            rate=jnp.asarray(self.gamma * self.lam),
            rho=move.rho,
        )
        w, trace = self.credit(self._kept(spec), weights.w, trace, error, self.rates(spec))
        weights = dataclasses.replace(weights, w=w)
        return weights, (eligibility.reset(trace, move.ended), next_value), error.delta

    def credit(
        self, kept: Any, w: jax.Array, trace: PyTree, error: Error, rates: jax.Array | None
    ) -> tuple[jax.Array, PyTree]:
        return eligibility.td(kept, self.kind, w, trace, error, rates)


@struct
class LinearTrueOnlineTD(LinearTDLambda):
    """True online TD(lambda)."""

    kind: Kind = static("what the features seen make of a trace", default=eligibility.dutch_trace)

    def check(self, spec: Spec) -> None:
        if self.target is not None:
            raise ValueError(
                "LinearTrueOnlineTD(target=...) is not off-policy: use jaxrl.TDC, jaxrl.EmphaticTD "
                "or jaxrl.LinearTDLambda."
            )

    def credit(
        self, kept: Any, w: jax.Array, trace: PyTree, error: Error, rates: jax.Array | None
    ) -> tuple[jax.Array, PyTree]:
        return eligibility.true_online(kept, w, trace, error, rates)
