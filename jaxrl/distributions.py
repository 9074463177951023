"""Action distributions: structs with `sample`, `log_prob`, `entropy` and `mode`.

The leading axes are batch; the event is a scalar for `Categorical` and the last axis for all
others, whose log-probabilities and entropies are therefore already summed over the action. Written
out here rather than taken from a library because the details decide whether training survives:
log-probabilities of saturated tanh actions stay finite, forbidden actions have probability exactly
zero, and nothing here builds a one-hot vector.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxrl.struct import static, struct
from jaxrl.types import Key

_FORBIDDEN = -1e38  # finite: 0 * this is 0, where 0 * -inf is NaN
_FEW = 32  # up to here, comparing with every action is cheaper than a gather
_INSIDE = 1.0 - 2.0**-22  # the largest |tanh| that `log_prob` inverts, u = 7.97


@struct
class Categorical:
    """Integers 0 .. A-1. `mask` is True where an action is allowed; when none is, all are."""

    logits: jax.Array  # [..., A]
    mask: jax.Array | None = None  # [..., A] bool

    @property
    def log_probs(self) -> jax.Array:
        """-> [..., A], hugely negative but finite where forbidden."""
        logits = self.logits
        if self.mask is not None:
            logits = jnp.where(self.mask, logits, _FORBIDDEN)
        return jax.nn.log_softmax(logits)

    @property
    def probs(self) -> jax.Array:
        return jnp.exp(self.log_probs)

    def sample(self, key: Key) -> jax.Array:
        log_probs = self.log_probs
        gumbel = jax.random.gumbel(key, log_probs.shape, log_probs.dtype)
        return jnp.argmax(log_probs + gumbel, axis=-1).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        log_probs = self.log_probs
        if log_probs.shape[-1] > _FEW:
            return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]
        # Fused with its neighbours, and without the scatter that is a gather's gradient.
        chosen = jnp.arange(log_probs.shape[-1]) == action[..., None]
        return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        log_probs = self.log_probs
        probs = jnp.exp(log_probs)
        return -jnp.sum(probs * jnp.where(probs > 0, log_probs, 0.0), axis=-1)

    def mode(self) -> jax.Array:
        return jnp.argmax(self.log_probs, axis=-1).astype(jnp.int32)


@struct
class MultiCategorical:
    """A vector of independent integers, the i-th in 0 .. nvec[i]-1; logits lie side by side."""

    logits: jax.Array  # [..., sum(nvec)]
    nvec: tuple[int, ...] = static()
    mask: jax.Array | None = None  # [..., sum(nvec)] bool

    @property
    def parts(self) -> list[Categorical]:
        parts: list[Categorical] = []
        start = 0
        for n in self.nvec:
            mask = None if self.mask is None else self.mask[..., start : start + n]
            parts.append(Categorical(self.logits[..., start : start + n], mask))
            start += n
        return parts

    def sample(self, key: Key) -> jax.Array:
        keys = jax.random.split(key, len(self.nvec))
        return jnp.stack([part.sample(k) for part, k in zip(self.parts, keys, strict=True)], -1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        terms = [part.log_prob(action[..., i]) for i, part in enumerate(self.parts)]
        return jnp.sum(jnp.stack(terms), axis=0)

    def entropy(self) -> jax.Array:
        return jnp.sum(jnp.stack([part.entropy() for part in self.parts]), axis=0)

    def mode(self) -> jax.Array:
        return jnp.stack([part.mode() for part in self.parts], -1)


def _normal_log_prob(x: jax.Array, loc: jax.Array, log_std: jax.Array) -> jax.Array:
    """Per dimension."""
    z = (x - loc) * jnp.exp(-log_std)
    return -0.5 * jnp.square(z) - log_std - 0.5 * math.log(2 * math.pi)


def _log_tanh_slope(u: jax.Array) -> jax.Array:
    """log(1 - tanh(u)^2), exact where the square rounds to one."""
    return 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))


@struct
class Normal:
    """Independent normals over the last axis."""

    loc: jax.Array  # [..., A]
    log_std: jax.Array  # [..., A] or anything that broadcasts against loc

    def sample(self, key: Key) -> jax.Array:
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        return self.loc + jnp.exp(self.log_std) * noise

    def log_prob(self, action: jax.Array) -> jax.Array:
        return jnp.sum(_normal_log_prob(action, self.loc, self.log_std), axis=-1)

    def entropy(self) -> jax.Array:
        per_dimension = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return jnp.sum(jnp.broadcast_to(per_dimension, self.loc.shape), axis=-1)

    def mode(self) -> jax.Array:
        return self.loc


@struct
class TanhNormal:
    """`center + half_width * tanh(u)` with u normal: actions in a bounded box, with the density of
    the action itself, `log N(u) - log(1 - tanh(u)^2) - log(half_width)`.

    With the default box, -1 .. 1, the log-probability is free of the action's units, which is what
    a target entropy of `-A` presumes; with the environment's own box it is a density over the
    environment's actions, lower by `sum(log(half_width))`.
    """

    loc: jax.Array  # [..., A] of u
    log_std: jax.Array  # [..., A] of u
    center: jax.Array | float = 0.0
    half_width: jax.Array | float = 1.0

    def squash(self, u: jax.Array) -> jax.Array:
        return self.center + self.half_width * jnp.tanh(u)

    def sample_unsquashed(self, key: Key) -> jax.Array:
        """-> u; the action is `squash(u)` and its log-probability `log_prob_unsquashed(u)`."""
        return Normal(self.loc, self.log_std).sample(key)

    def log_prob_unsquashed(self, u: jax.Array) -> jax.Array:
        """Log-density of the action `squash(u)`, exact however saturated."""
        terms = _normal_log_prob(u, self.loc, self.log_std) - _log_tanh_slope(u)
        return jnp.sum(terms - jnp.log(self.half_width), axis=-1)

    def sample(self, key: Key) -> jax.Array:
        return self.squash(self.sample_unsquashed(key))

    def sample_and_log_prob(self, key: Key) -> tuple[jax.Array, jax.Array]:
        u = self.sample_unsquashed(key)
        return self.squash(u), self.log_prob_unsquashed(u)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Of an action given from outside. A float32 action at the bound has lost its u: it is
        moved inside to |u| = 7.97. Keep u from `sample_unsquashed` where ratios must be exact."""
        inside = jnp.clip((action - self.center) / self.half_width, -_INSIDE, _INSIDE)
        return self.log_prob_unsquashed(jnp.arctanh(inside))

    def entropy(self) -> jax.Array:
        """There is no closed form. This is the first-order estimate
        `H(u) + log(1 - tanh(loc)^2) + log(half_width)`, exact as the spread of u goes to zero; it
        has the right gradient signs for both parameters. For an unbiased estimate average
        `-sample_and_log_prob(key)[1]`."""
        slope = jnp.sum(_log_tanh_slope(self.loc) + jnp.log(self.half_width), axis=-1)
        return Normal(self.loc, self.log_std).entropy() + slope

    def mode(self) -> jax.Array:
        """The squashed mean of u: the action played without exploration."""
        return self.squash(self.loc)


Distribution: TypeAlias = Categorical | MultiCategorical | Normal | TanhNormal
