"""Eligibility traces of linear values: how much each weight is credited with an error.

The same choices as for tables (`jaxrl.traces`), where a visit adds a feature vector instead of one
entry. `Whole` keeps a number for every weight; `Ring` only the `length` feature vectors seen last,
where few features are active: work that does not depend on the number of weights. A vector that is
forgotten has a trace of at most (gamma lam)^length.

Weights are [A, n], or [n] where there are no actions; traces are [A, n] with A = 1 then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxrl import features, traces
from jaxrl.features import Active, Vector
from jaxrl.rollout import select
from jaxrl.struct import struct


@dataclasses.dataclass(frozen=True)
class Whole:
    """A number for every weight."""

    actions: int
    size: int

    def init(self) -> jax.Array:
        return jnp.zeros((self.actions, self.size))

    def decay(self, z: jax.Array, rate: jax.Array) -> jax.Array:
        return z * rate

    def dot(self, z: jax.Array, x: Vector, action: jax.Array) -> jax.Array:
        return features.dot(z[action], x)

    def push(self, z: jax.Array, x: Vector, action: jax.Array, weight: Any) -> jax.Array:
        """Add `weight` times x to the row of the action."""
        return features.add(z, x, weight, action=action)

    def put(self, z: jax.Array, x: Active, action: jax.Array) -> jax.Array:
        """The traces of the active features are 1."""
        return z.at[action, x.index].set(1.0)

    def clear(self, z: jax.Array, x: Active) -> jax.Array:
        """Those of all actions are 0."""
        return z.at[:, x.index].set(0.0)

    def move(
        self, w: jax.Array, z: jax.Array, amount: jax.Array, rates: jax.Array | None
    ) -> jax.Array:
        """w + amount * rates * z"""
        return w + amount * (z if rates is None else z * rates).reshape(w.shape)


@struct
class Seen:
    index: jax.Array  # [L, K] int32
    action: jax.Array  # [L] int32
    weight: jax.Array  # [L, K], 0 for a place that is free
    next: jax.Array  # int32: the row that is written next


@dataclasses.dataclass(frozen=True)
class Ring:
    """The feature vectors seen last."""

    length: int
    active: int
    size: int

    def init(self) -> Seen:
        shape = (self.length, self.active)
        rows = jnp.zeros(self.length, jnp.int32)
        return Seen(jnp.zeros(shape, jnp.int32), rows, jnp.zeros(shape), jnp.zeros((), jnp.int32))

    def decay(self, z: Seen, rate: jax.Array) -> Seen:
        return dataclasses.replace(z, weight=z.weight * rate)

    def _same(self, z: Seen, x: Active) -> jax.Array:
        """[L, K]: how often a feature is among the active ones."""
        return jnp.sum(z.index[..., None] == x.index, axis=-1)

    def dot(self, z: Seen, x: Active, action: jax.Array) -> jax.Array:
        mine = (z.action == action)[:, None]
        return jnp.sum(jnp.where(mine, z.weight * self._same(z, x), 0.0))

    def push(self, z: Seen, x: Active, action: jax.Array, weight: Any) -> Seen:
        here = jnp.arange(self.length) == z.next
        return Seen(
            index=jnp.where(here[:, None], x.index, z.index),
            action=jnp.where(here, action, z.action),
            weight=jnp.where(here[:, None], weight, z.weight),
            next=(z.next + 1) % self.length,
        )

    def put(self, z: Seen, x: Active, action: jax.Array) -> Seen:
        old = (self._same(z, x) > 0) & (z.action == action)[:, None]
        z = dataclasses.replace(z, weight=jnp.where(old, 0.0, z.weight))
        before = jnp.tril(x.index[:, None] == x.index, -1)  # a hash may name a feature twice
        return self.push(z, x, action, jnp.where(before.any(-1), 0.0, 1.0))

    def clear(self, z: Seen, x: Active) -> Seen:
        return dataclasses.replace(z, weight=jnp.where(self._same(z, x) > 0, 0.0, z.weight))

    def move(self, w: jax.Array, z: Seen, amount: jax.Array, rates: jax.Array | None) -> jax.Array:
        del rates  # active features have none
        flat = w.reshape(-1).at[z.action[:, None] * self.size + z.index].add(amount * z.weight)
        return flat.reshape(w.shape)


Kind: TypeAlias = Callable[..., Any]
"""(storage, faded trace, x, action, step size, rates) -> trace after the visit"""


def accumulating_trace(
    kept: Any, z: Any, x: Vector, action: Any, alpha: jax.Array, rates: jax.Array | None
) -> Any:
    del alpha, rates
    return kept.push(z, x, action, 1.0)


def replacing_trace(
    kept: Any, z: Any, x: Vector, action: Any, alpha: jax.Array, rates: jax.Array | None
) -> Any:
    """The traces of the active features are 1 (Singh and Sutton 1996)."""
    del alpha, rates
    return kept.put(z, x, action)


def clearing_trace(
    kept: Any, z: Any, x: Vector, action: Any, alpha: jax.Array, rates: jax.Array | None
) -> Any:
    """As `replacing_trace`, and those of the other actions are 0."""
    del alpha, rates
    return kept.put(kept.clear(z, x), x, action)


def dutch_trace(
    kept: Any, z: Any, x: Vector, action: Any, alpha: jax.Array, rates: jax.Array | None
) -> Any:
    overlap = kept.dot(z, x if isinstance(x, Active) else features.times(x, rates), action)
    return kept.push(z, x, action, 1.0 - alpha * overlap)


def storage(
    name: str, trace: Any, kind: Kind, actions: int, size: int, active: int | None, rate: Any
) -> Any:
    """What keeps the traces, or a ValueError: `trace` is traces.Dense(), traces.Recent(length) or
    None, which is Dense for few weights."""
    if active is None and kind in (replacing_trace, clearing_trace):
        raise ValueError(
            f"{name}(kind={kind.__name__}) needs features that are 0 or 1, such as "
            "features.TileCoding(): write kind=eligibility.accumulating_trace."
        )
    chosen = traces.chosen(trace, actions * size)
    if active is None and trace is None:
        chosen = traces.Dense()
    if isinstance(chosen, traces.Dense):
        return Whole(actions, size)
    if active is None:
        raise ValueError(
            f"{name}(trace={trace}) keeps the features that were active, but here all are: write "
            "trace=traces.Dense()."
        )
    traces.check(chosen, actions * size, rate)
    return Ring(chosen.length, active, size)


def reset(z: Any, ended: jax.Array) -> Any:
    """No trace outlives its episode."""
    if isinstance(z, Seen):
        return dataclasses.replace(z, weight=jnp.where(ended, 0.0, z.weight))
    return jnp.where(ended, 0.0, z)


@struct
class Error:
    """What one transition says about the value w[action] . x."""

    x: Vector
    action: jax.Array
    delta: jax.Array  # the TD error
    value: jax.Array  # now
    old: jax.Array  # as it was when the transition before was learned from
    alpha: jax.Array  # step size
    rate: jax.Array  # gamma lam
    rho: jax.Array | float = 1.0  # importance ratio of the action
    valid: jax.Array | bool = True  # False changes nothing


def td(
    kept: Any, kind: Kind, w: jax.Array, trace: Any, e: Error, rates: jax.Array | None = None
) -> tuple[jax.Array, Any]:
    """TD(lambda): fade, renew the trace by the features, then move by error times trace."""
    z = kind(kept, kept.decay(trace, e.rate), e.x, e.action, e.alpha, rates)
    z = kept.decay(z, jnp.asarray(e.rho))
    w = kept.move(w, z, jnp.where(e.valid, e.alpha * e.delta, 0.0), rates)
    return w, select(jnp.asarray(e.valid), z, trace)


def true_online(
    kept: Any, w: jax.Array, trace: Any, e: Error, rates: jax.Array | None = None
) -> tuple[jax.Array, Any]:
    """True online TD(lambda) (van Seijen et al. 2016, algorithm 1): dutch traces, and the value is
    not credited with what it had already changed by since the last step."""
    full = dataclasses.replace(e, delta=e.delta + e.value - e.old)
    w, trace = td(kept, dutch_trace, w, trace, full, rates)
    back = jnp.where(e.valid, e.alpha * (e.old - e.value), 0.0)
    return features.add(w, e.x, back, rates, None if w.ndim == 1 else e.action), trace
