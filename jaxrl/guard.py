"""Noticing that a run has become non-finite, in the iteration in which it happens.

After every iteration the agent's state and its losses are looked through. A run in which one of
them is infinite or not a number is *sick*: the parameters of before that iteration are kept, beside
the run, and are what its result shows; the runs beside it go on.

A replay is left out (`store = True` marks such classes): it is too large to look through at every
iteration, and holds what was seen, not what was learned.

A metric that does not exist in an iteration is NaN by convention, so a loss that is NaN counts only
where it was a number in the two iterations before. (One that exists in every other iteration never
is; a NaN that reaches the parameters is caught there in any case.)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.struct import struct
from jaxrl.types import Counter, Metrics, PyTree

STEADY = 2


@struct
class Health:
    since: jax.Array  # int32: the first iteration that was not finite, -1 for none
    tensors: jax.Array  # [K] bool: what was not finite then, in the order of `names`
    steady: jax.Array  # [losses] int32: iterations in a row in which a loss was a number
    good: jax.Array  # [P] what is looked through, as it last was when all of it was finite


@dataclasses.dataclass(frozen=True)
class Sick:
    """One run that became non-finite; its parameters from before `iteration` are kept."""

    run: int | None  # its place among the runs; None for a single one
    iteration: int
    steps: int  # environment steps before that iteration
    tensors: tuple[str, ...]

    def __str__(self) -> str:
        run = "the run" if self.run is None else f"run {self.run}"
        shown = ", ".join(self.tensors[:4])
        more = len(self.tensors) - 4
        return (
            f"{run} became non-finite in iteration {self.iteration} (after {self.steps:,} steps): "
            f"{shown}" + (f" and {more} more" if more > 0 else "")
        )


class NonFinite(FloatingPointError):
    """Every run of a guarded call became infinite or NaN. `result` holds the last good state and
    the curves up to there; `result.sick` says when and where."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


def _is_store(x: Any) -> bool:
    return bool(getattr(type(x), "store", False))


def _unwatched(x: Any) -> bool:
    return _is_store(x) or isinstance(x, Counter)


def _watched(state: PyTree) -> list[tuple[str, jax.Array]]:
    """The floating-point leaves of an agent's state that are looked through, and their names."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=_unwatched)
    return [
        (f"state{jax.tree_util.keystr(path)}", x)
        for path, x in leaves
        if not _unwatched(x) and jnp.issubdtype(x.dtype, jnp.inexact)
    ]


def _losses(metrics: Any) -> list[str]:
    return sorted(name for name in metrics if name.startswith("loss/"))


def names(state: PyTree, metrics: Any) -> list[str]:
    return [*_losses(metrics), *(name for name, _ in _watched(state))]


def healthy(state: PyTree, metrics: Any) -> Health:
    losses = len(_losses(metrics))
    return Health(
        since=jnp.full((), -1, jnp.int32),
        tensors=jnp.zeros(losses + len(_watched(state)), bool),
        steady=jnp.zeros(losses, jnp.int32),
        good=flat(state),
    )


def flat(state: PyTree) -> jax.Array:
    """One vector: a reduction for each leaf would cost more than a small agent's iteration."""
    return jnp.concatenate([jnp.zeros(0), *(x.ravel() for _, x in _watched(state))])


def check(
    health: Health, state: PyTree, metrics: Metrics, count: jax.Array
) -> tuple[Health, Metrics]:
    """Look at what iteration `count` gave. The metrics of a sick run do not exist."""
    known = _losses(metrics)
    losses = jnp.stack([metrics[name] for name in known]) if known else jnp.zeros(0)
    lost = jnp.isinf(losses) | (jnp.isnan(losses) & (health.steady >= STEADY))
    values = flat(state)
    was = health.since >= 0
    now = ~was & (lost.any() | ~jnp.isfinite(values).all())
    sick = was | now

    def name(_: Any) -> jax.Array:
        broken = [~jnp.isfinite(x).all() for _, x in _watched(state)]
        return jnp.concatenate([lost, jnp.array(broken, bool)])

    health = Health(
        since=jnp.where(now, count, health.since),
        tensors=jax.lax.cond(now, name, lambda tensors: tensors, health.tensors),
        steady=jnp.where(jnp.isnan(losses), 0, jnp.minimum(health.steady + 1, STEADY)),
        good=jnp.where(sick, health.good, values),
    )
    return health, {name: jnp.where(sick, jnp.nan, x) for name, x in metrics.items()}


def mended(health: Health, state: PyTree) -> PyTree:
    """The state in which the sick ones are as they were before."""
    sick = np.asarray(health.since) >= 0  # [] or [lanes]
    if not sick.any():
        return state
    begun = 0

    def mend(x: Any) -> Any:
        nonlocal begun
        if _unwatched(x) or not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        size = math.prod(x.shape[sick.ndim :])
        good = health.good[..., begun : begun + size].reshape(x.shape).astype(x.dtype)
        begun += size
        return jnp.where(sick.reshape(sick.shape + (1,) * (x.ndim - sick.ndim)), good, x)

    return jax.tree.map(mend, state, is_leaf=_unwatched)


def message(sick: tuple[Sick, ...], saved: bool) -> str:
    """Of the error that ends a call in which no run is left."""
    shown = "; ".join(str(x) for x in sick[:3])
    more = f"; and {len(sick) - 3} runs more" if len(sick) > 3 else ""
    rest = " Checkpoints are those of before." if saved else ""
    return (
        f"{shown}{more}. The state before is in error.result.state.{rest} A smaller step size, a "
        "smaller max_grad_norm or scaled rewards (jaxrl.NormalizeReward) are the usual remedies."
    )


def report(
    health: Health, state: PyTree, metrics: Any, per_iteration: int, runs: int | None
) -> tuple[Sick, ...]:
    """The sick among the first `runs` lanes, with names."""
    since = np.asarray(health.since)
    if (since < 0).all():
        return ()
    known = names(state, metrics)
    each = np.atleast_2d(np.asarray(health.tensors))
    return tuple(
        Sick(
            run=None if runs is None else i,
            iteration=int(first),
            steps=int(first) * per_iteration,
            tensors=tuple(name for name, bad in zip(known, each[i], strict=True) if bad),
        )
        for i, first in enumerate(np.atleast_1d(since)[:runs])
        if first >= 0
    )
