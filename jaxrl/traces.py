"""Eligibility traces over the entries of a table.

`Dense` keeps a number for every entry and moves the whole table at every step. `Recent(K)` keeps
only the K entries visited last: work per step that does not depend on the size of the table. An
entry is forgotten K visits after its own last one, when its trace is (gamma lam)^K of what it was:
that is the whole error, and `length` gives the K for a bound on it. Cut traces make it smaller.

What a visit makes of a trace is a function of its decayed value and the step size: `accumulating`,
`replacing` (Singh and Sutton 1996) or `dutch` (van Seijen and Sutton 2014).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxrl import tables
from jaxrl.struct import struct

DENSE_UP_TO = 4096
"""Entries of a table up to which None means Dense."""

Kind: TypeAlias = Any
"""(decayed trace, step size) -> trace after the visit"""


def accumulating(old: jax.Array, alpha: jax.Array) -> jax.Array:
    del alpha
    return old + 1.0


def replacing(old: jax.Array, alpha: jax.Array) -> jax.Array:
    del alpha
    return jnp.ones_like(old)


def dutch(old: jax.Array, alpha: jax.Array) -> jax.Array:
    return (1.0 - alpha) * old + 1.0


def length(rate: float, bound: float = 1e-4) -> int:
    """The K with which `Recent(K)` forgets no more than `bound` of a trace, at a decay of `rate` =
    gamma lam per step."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} never decays: use Dense().")
    return 1 if rate == 0 else max(1, math.ceil(math.log(bound) / math.log(rate)))


@dataclasses.dataclass(frozen=True)
class Dense:
    """A number for every entry."""

    def init(self, size: int) -> jax.Array:
        return jnp.zeros(size)

    def decay(self, trace: jax.Array, rate: jax.Array) -> jax.Array:
        return trace * rate

    def value(self, trace: jax.Array, index: jax.Array) -> jax.Array:
        return trace[index]

    def put(
        self, trace: jax.Array, index: jax.Array, value: jax.Array, valid: jax.Array | bool = True
    ) -> jax.Array:
        return tables.add(trace, (index,), jnp.where(valid, value - trace[index], 0.0))

    def move(self, table: jax.Array, trace: jax.Array, amount: jax.Array) -> jax.Array:
        """Add `amount` times the trace to every entry."""
        return table + amount * trace.reshape(table.shape)


@struct
class Visited:
    index: jax.Array  # [K] int32
    weight: jax.Array  # [K], 0 for a place that is free
    next: jax.Array  # int32: the place that is written next


@dataclasses.dataclass(frozen=True)
class Recent:
    """The `length` entries visited last."""

    length: int = 64

    def init(self, size: int) -> Visited:
        del size
        zeros = jnp.zeros(self.length, jnp.int32)
        return Visited(zeros, jnp.zeros(self.length), jnp.zeros((), jnp.int32))

    def decay(self, trace: Visited, rate: jax.Array) -> Visited:
        return dataclasses.replace(trace, weight=trace.weight * rate)

    def value(self, trace: Visited, index: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(trace.index == index, trace.weight, 0.0))

    def put(
        self, trace: Visited, index: jax.Array, value: jax.Array, valid: jax.Array | bool = True
    ) -> Visited:
        """An entry has one place: its old one is freed. Nothing happens where not `valid`."""
        weight = jnp.where((trace.index == index) & valid, 0.0, trace.weight)
        here = (jnp.arange(self.length) == trace.next) & valid
        return Visited(
            index=jnp.where(here, index, trace.index),
            weight=jnp.where(here, value, weight),
            next=(trace.next + jnp.asarray(valid, jnp.int32)) % self.length,
        )

    def move(self, table: jax.Array, trace: Visited, amount: jax.Array) -> jax.Array:
        flat = table.reshape(-1).at[trace.index].add(amount * trace.weight)
        return flat.reshape(table.shape)


def chosen(trace: Dense | Recent | None, size: int) -> Any:
    """What None stands for."""
    if trace is not None:
        return trace
    return Dense() if size <= DENSE_UP_TO else Recent()


def check(trace: Dense | Recent | None, size: int, rate: Any, bound: float = 0.01) -> None:
    """Refuse a `Recent` that would forget more than `bound` of a trace."""
    kept = chosen(trace, size)
    if isinstance(kept, Dense) or isinstance(rate, Tracer):
        return
    rate = float(rate)
    if rate**kept.length > bound:
        advice = f"traces.Recent({length(rate, bound)}) or " if rate < 1 else ""
        raise ValueError(
            f"traces decay by gamma * lam = {rate:g} per step, and {kept} forgets what is left of "
            f"one after {kept.length} visits, {rate**kept.length:.2g}: write trace="
            f"{advice}traces.Dense()."
        )


def reset(trace: Any, ended: jax.Array) -> Any:
    """No trace outlives its episode."""
    if isinstance(trace, Visited):
        return dataclasses.replace(trace, weight=jnp.where(ended, 0.0, trace.weight))
    return jnp.where(ended, 0.0, trace)


@struct
class Error:
    """What one transition says about the entry `index` of a flat table."""

    index: jax.Array  # int32
    delta: jax.Array  # the TD error
    value: jax.Array  # of the entry, now
    old: jax.Array  # of the entry, as it was when the transition before was learned from
    alpha: jax.Array  # step size
    rate: jax.Array  # gamma lam
    valid: jax.Array  # bool: False changes nothing


def td(kept: Any, kind: Kind, table: jax.Array, trace: Any, x: Error) -> tuple[jax.Array, Any]:
    """TD(lambda): fade, renew the trace of the visited entry, then move by error times trace."""
    trace = kept.decay(trace, jnp.where(x.valid, x.rate, 1.0))
    trace = kept.put(trace, x.index, kind(kept.value(trace, x.index), x.alpha), x.valid)
    return kept.move(table, trace, jnp.where(x.valid, x.alpha * x.delta, 0.0)), trace


def true_online(kept: Any, table: jax.Array, trace: Any, x: Error) -> tuple[jax.Array, Any]:
    """True online TD(lambda) (van Seijen et al. 2016, algorithm 1), for tables: dutch traces, and
    the entry is not credited with what it had already changed by since the last step."""
    x = dataclasses.replace(x, delta=x.delta + x.value - x.old)
    table, trace = td(kept, dutch, table, trace, x)
    back = jnp.where(x.valid, x.alpha * (x.old - x.value), 0.0)
    flat = tables.add(table.reshape(-1), (x.index,), back)
    return flat.reshape(table.shape), trace
