"""Emphatic TD(lambda): off-policy prediction that is stable because it weighs what it learns from.

The followon F says how much of the interest in earlier observations leads here under the target
policy; with the emphasis M = lam i + (1 - lam) F the trace is z = rho (gamma lam z + M x), and w
moves by lr delta z (Sutton, Mahmood and White 2016). F <- gamma rho' F + i, with rho' of the action
before. The variance of F can be large: step sizes must be small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import eligibility
from jaxrl.linear import Move, Prediction, Weights, part
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import PyTree, Spec


def followon(before: jax.Array, rho: jax.Array, gamma: jax.Array, interest: jax.Array) -> jax.Array:
    """F, from F and rho a step before."""
    return gamma * rho * before + interest


def emphasis(f: jax.Array, lam: jax.Array, interest: jax.Array) -> jax.Array:
    return lam * interest + (1.0 - lam) * f


@struct
class EmphaticTD(Prediction):
    """Emphatic TD(lambda)."""

    lr: Float = param("step size; the active features share it", default=0.01, above=0)
    lam: Float = param("how slowly traces fade", default=0.0, low=0, high=1)
    weight: Callable[[PyTree], jax.Array] | None = static(
        "observations [...] -> how much their values matter [...]; None is 1", default=None
    )

    def _kept(self, spec: Spec) -> Any:
        return eligibility.Whole(1, self.features.size(part(spec.obs_space)))

    def interest(self, spec: Spec, obs: PyTree) -> jax.Array | None:
        if self.weight is not None:
            return self.weight(obs)
        return jnp.ones(self.probabilities(spec, obs).shape[:-1])

    def begin(self, spec: Spec) -> PyTree:
        """The trace, and F and rho of the step before."""
        return self._kept(spec).init(), (jnp.zeros(()), jnp.zeros(()))

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        assert move.rho is not None and move.interest is not None
        trace, (before, rho_before) = memory
        kept, delta = self._kept(spec), self.error(weights.w, move)
        f = followon(before, rho_before, jnp.asarray(self.gamma), move.interest)
        m = emphasis(f, jnp.asarray(self.lam), move.interest)
        zero = jnp.zeros((), jnp.int32)
        trace = kept.push(kept.decay(trace, jnp.asarray(self.gamma * self.lam)), move.x, zero, m)
        trace = kept.decay(trace, move.rho)
        w = kept.move(weights.w, trace, self.alpha(spec) * delta, self.rates(spec))
        after = jnp.where(move.ended, 0.0, f), move.rho
        weights = dataclasses.replace(weights, w=w)
        return weights, (eligibility.reset(trace, move.ended), after), delta
