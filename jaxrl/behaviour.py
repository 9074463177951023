"""How an agent with a table chooses its actions: probabilities from values and counts.

Each is a struct with `probabilities(q, visits, share)`: the values of the actions [..., A], how
often each was taken here [..., A] (None unless `counts`), and the share of the run that lies
behind. One definition serves for acting, for expectations over the policy (Expected SARSA) and for
importance ratios. Actions of equal value are equally likely: a table that knows nothing yet must
not always go left. Actions that are not allowed have the value minus infinity. An optimistic start
is none of these but the agent's field `initial`.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.exploration import decayed
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key

UNROLLED = 16
"""Up to this many actions a cumulative sum is written out, which compilers fuse."""


class Behaviour(Protocol):
    @property
    def counts(self) -> bool: ...

    def probabilities(
        self, q: jax.Array, visits: jax.Array | None, share: jax.Array
    ) -> jax.Array: ...


Rows: TypeAlias = tuple[tuple[float, ...], ...]
"""Probabilities [S][A] of a policy, as a static field takes them."""


def rows(probabilities: Any) -> Rows:
    """An array [S, A] as `Rows`."""
    return tuple(tuple(float(p) for p in row) for row in np.asarray(probabilities))


def check(where: str, policy: Rows | None, states: int, actions: int) -> None:
    """Refuse what is no policy; None is one."""
    if policy is None:
        return
    p = np.asarray(policy, np.float64)
    if p.shape != (states, actions):
        raise ValueError(
            f"{where} has shape {p.shape}, but the task has {states} states and {actions} actions: "
            f"give probabilities [{states}, {actions}] through behaviour.rows, or None for all "
            "actions alike."
        )
    if not ((p >= 0).all() and (np.abs(p.sum(1) - 1) < 1e-4).all()):
        raise ValueError(f"{where} has a row that is negative somewhere or does not sum to 1.")


def followed(policy: Rows | None, s: jax.Array, actions: int) -> jax.Array:
    """Probabilities [..., A] in the states s."""
    if policy is None:
        return jnp.full((*s.shape, actions), 1.0 / actions)
    return jnp.asarray(policy, jnp.float32)[s]


def greedy(q: jax.Array) -> jax.Array:
    """Evenly over the best actions, [..., A]."""
    best = (q == jnp.max(q, axis=-1, keepdims=True)).astype(jnp.float32)
    return best / jnp.sum(best, axis=-1, keepdims=True)


def soft(q: jax.Array, epsilon: Any) -> jax.Array:
    """Greedy, and with probability epsilon [...] any action."""
    epsilon = jnp.asarray(epsilon)[..., None]
    allowed = (q > -jnp.inf).astype(jnp.float32)
    evenly = allowed / jnp.sum(allowed, axis=-1, keepdims=True)
    return epsilon * evenly + (1.0 - epsilon) * greedy(q)


def pick(u: jax.Array, weights: jax.Array) -> jax.Array:
    """The choice that u [...] in [0, 1) means among weights [..., A], which need not add up to 1;
    never one of weight zero. -> [...] int32"""
    actions = weights.shape[-1]
    if actions > UNROLLED:
        sums = jnp.cumsum(weights, axis=-1)
        u = u * sums[..., -1]
        return jnp.sum(u[..., None] >= sums[..., :-1], axis=-1).astype(jnp.int32)
    total, below = weights[..., 0], []
    for i in range(1, actions):
        below.append(total)
        total = total + weights[..., i]
    index = jnp.zeros(jnp.shape(u), jnp.int32)
    for bound in below:
        index = index + (u * total >= bound)
    return index


def sample(key: Key, probabilities: jax.Array) -> jax.Array:
    """[..., A] -> [...] int32, with one random number each."""
    return pick(jax.random.uniform(key, probabilities.shape[:-1]), probabilities)


@struct
class EpsilonGreedy:
    """With probability epsilon any action, else a best one. Epsilon goes from `epsilon` to `end` in
    a straight line over the first `over` of the run; it stays where `end` is None."""

    epsilon: Float = param("share of random actions at the start", default=0.1, low=0, high=1)
    end: Float | None = param("share of random actions at last", default=None, low=0, high=1)
    over: Float = param("share of the run in which epsilon changes", default=1.0, above=0, high=1)

    @property
    def counts(self) -> bool:
        return False

    def probabilities(self, q: jax.Array, visits: jax.Array | None, share: jax.Array) -> jax.Array:
        del visits
        epsilon = jnp.asarray(self.epsilon)
        if self.end is not None:
            epsilon = decayed(epsilon, self.end, share, self.over)
        return soft(q, epsilon)


@struct
class GLIE:
    """Greedy in the limit with infinite exploration (Singh et al. 2000): epsilon is c / N(s)^power
    with N(s) the visits of the state, at most 1."""

    c: Float = param("epsilon after the first visit", default=1.0, above=0)
    power: Float = param("how fast epsilon falls; 1 at most", default=1.0, above=0, high=1)

    @property
    def counts(self) -> bool:
        return True

    def probabilities(self, q: jax.Array, visits: jax.Array | None, share: jax.Array) -> jax.Array:
        del share
        assert visits is not None
        n = jnp.maximum(jnp.sum(visits, axis=-1), 1).astype(jnp.float32)
        return soft(q, jnp.minimum(self.c * n**-self.power, 1.0))


@struct
class Boltzmann:
    """Probabilities in proportion to exp(q / temperature)."""

    temperature: Float = param("values this far apart differ by a factor e", default=1.0, above=0)

    @property
    def counts(self) -> bool:
        return False

    def probabilities(self, q: jax.Array, visits: jax.Array | None, share: jax.Array) -> jax.Array:
        del visits, share
        return jax.nn.softmax(q / self.temperature, axis=-1)


@struct
class UCB:
    """The best of q + c sqrt(log N(s) / N(s, a)) (Auer et al. 2002); untried actions first."""

    c: Float = param("width of the confidence bound", default=1.0, low=0)

    @property
    def counts(self) -> bool:
        return True

    def probabilities(self, q: jax.Array, visits: jax.Array | None, share: jax.Array) -> jax.Array:
        del share
        assert visits is not None
        n = visits.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(n, axis=-1, keepdims=True), 1.0)
        bound = q + self.c * jnp.sqrt(jnp.log(total) / jnp.maximum(n, 1.0))
        return greedy(jnp.where((n == 0) & (q > -jnp.inf), jnp.inf, bound))


@struct
class CountBonus:
    """The best of q + beta / sqrt(N(s, a) + 1)."""

    beta: Float = param("bonus of an action that was never tried", default=1.0, low=0)

    @property
    def counts(self) -> bool:
        return True

    def probabilities(self, q: jax.Array, visits: jax.Array | None, share: jax.Array) -> jax.Array:
        del share
        assert visits is not None
        return greedy(q + self.beta * (visits.astype(jnp.float32) + 1.0) ** -0.5)
