"""SARSA(lambda) and true online SARSA(lambda) with linear values (Sutton and Barto 2018, 12.7).

With delta = r + gamma w[a'] . x' - w[a] . x, all weights move by lr delta z, where the trace z
fades by gamma lam per step and is renewed by the features of the pair. `kind` says how: `replacing`
traces of binary features are 1, `clearing` also forgets the other actions of what is seen now. The
true online form (van Seijen et al. 2016) equals the off-line lambda-return that could be computed
by then.

A transition waits until its next action is known, which was chosen before this update. Where an
episode was cut there is none, and the mean over the policy takes its place.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import eligibility, features
from jaxrl.eligibility import Error, Kind
from jaxrl.features import Vector
from jaxrl.linear import Control, Move, Weights, nothing, part
from jaxrl.struct import Float, param, static, struct
from jaxrl.traces import Dense, Recent
from jaxrl.types import PyTree, Spec


@struct
class Waiting:
    x: Vector
    action: jax.Array
    reward: jax.Array
    valid: jax.Array  # bool: nothing waits where an episode begins
    trace: PyTree
    old: jax.Array  # the value of the pair as it was a step ago


@struct
class LinearSARSALambda(Control):
    """SARSA(lambda) with accumulating, replacing, clearing or dutch traces."""

    lam: Float = param("how slowly traces fade", default=0.9, low=0, high=1)
    kind: Kind = static(
        "what the features seen make of a trace", default=eligibility.accumulating_trace
    )
    trace: Dense | Recent | None = static(
        "where traces are kept; None is Dense for few weights", default=None
    )

    def _kept(self, spec: Spec) -> Any:
        space, name = part(spec.obs_space), type(self).__name__
        size, active = self.features.size(space), self.features.active(space)
        count: int = spec.action_space.n  # pyright: ignore
        rate = self.gamma * self.lam
        return eligibility.storage(name, self.trace, self.kind, count, size, active, rate)

    def begin(self, spec: Spec) -> PyTree:
        x = nothing(self.features, spec)
        zero, no = jnp.zeros(()), jnp.zeros((), bool)
        return Waiting(x, jnp.zeros((), jnp.int32), zero, no, self._kept(spec).init(), zero)

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, share: jax.Array, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        value = features.value(weights.w, move.x, move.action)
        weights, trace, error = self._learn(weights, memory, value, spec)
        # Learned from now only where the episode ended: nothing will be chosen after it.
        now = Waiting(move.x, move.action, move.reward, move.ended, trace, value)
        beyond = self.after(weights, move, share)
        weights, trace, last = self._learn(weights, now, beyond, spec)
        trace = eligibility.reset(trace, move.ended)
        now = dataclasses.replace(now, valid=~move.ended, trace=trace)
        return weights, now, jnp.where(move.ended, last, error)

    def _learn(
        self, weights: Weights, waiting: Waiting, next_value: jax.Array, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        """From one transition, if it is valid, whose next pair is worth `next_value`."""
        value = features.value(weights.w, waiting.x, waiting.action)
        error = Error(
            x=waiting.x,
            action=waiting.action,
            delta=waiting.reward + self.gamma * next_value - value,
            value=value,
            old=waiting.old,
            alpha=self.alpha(spec),
            rate=jnp.asarray(self.gamma * self.lam),
            valid=waiting.valid,
        )
        kept, rates = self._kept(spec), self.rates(spec)
        w, trace = self.credit(kept, weights.w, waiting.trace, error, rates)
        weights = dataclasses.replace(weights, w=w)
        return weights, trace, jnp.where(waiting.valid, error.delta, jnp.nan)

    def credit(
        self, kept: Any, w: jax.Array, trace: PyTree, error: Error, rates: jax.Array | None
    ) -> tuple[jax.Array, PyTree]:
        return eligibility.td(kept, self.kind, w, trace, error, rates)


@struct
class LinearTrueOnlineSARSA(LinearSARSALambda):
    """True online SARSA(lambda)."""

    kind: Kind = static("what the features seen make of a trace", default=eligibility.dutch_trace)

    def credit(
        self, kept: Any, w: jax.Array, trace: PyTree, error: Error, rates: jax.Array | None
    ) -> tuple[jax.Array, PyTree]:
        return eligibility.true_online(kept, w, trace, error, rates)
