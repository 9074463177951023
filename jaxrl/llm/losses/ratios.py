"""Importance ratios: of what, and what to do where sampler and trainer disagree.

Three policies are in play: `log_prob` of the policy being trained, `old` of the policy that the
trainer started the step with, `sampler` of the program that drew the tokens. old / sampler should
be 1 and is not when the sampler has other numerics, older weights or cut the distribution (top-p).

A *level* says how the log-ratios of tokens, log pi - log old [R, L], become the one that is
clipped, again [R, L]:

    token            r_t                       PPO, GRPO
    sequence         (prod_t r_t)^(1/n)        GSPO, Zheng et al. 2025
    sequence_token   the same value, with the gradient of token t only: GSPO-token
    product          prod_t r_t                RLOO in TRL, VESPO: the true ratio of completions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.losses.kl import log_ratio
from jaxrl.struct import Float, param, static, struct

Level = Callable[[jax.Array, Layout], jax.Array]


def token(x: jax.Array, layout: Layout) -> jax.Array:
    """x_t."""
    del layout
    return x


def sequence(x: jax.Array, layout: Layout) -> jax.Array:
    """mean_t x_t at every token: a geometric mean of ratios, so that long completions are not
    clipped more often (GSPO, eq. 7). Differentiable through all tokens."""
    return layout.spread(layout.mean(x))


def sequence_token(x: jax.Array, layout: Layout) -> jax.Array:
    """sg(mean_t x_t) + x_t - sg(x_t), at most 10 (GSPO-token, eq. 14): tokens may have advantages
    of their own. With one advantage per sequence and `BySequence` it equals `sequence`."""
    value = jax.lax.stop_gradient(sequence(x, layout) - x)
    return jnp.minimum(value + x, 10.0)


def product(x: jax.Array, layout: Layout) -> jax.Array:
    """sum_t x_t at every token."""
    return layout.spread(layout.total(x))


class Correction(Protocol):
    def __call__(self, old: jax.Array, sampler: jax.Array, layout: Layout) -> jax.Array:
        """-> weights [R, L] of the tokens' losses, without gradient."""
        ...


@struct
class Truncated:
    """min(pi_old / pi_sampler, cap): truncated importance sampling. With the level `product`, of
    whole completions."""

    cap: Float = param("largest weight", default=2.0, above=0.0)
    level: Level = static("token or product", default=token)

    def __call__(self, old: jax.Array, sampler: jax.Array, layout: Layout) -> jax.Array:
        ratio = jnp.exp(self.level(log_ratio(old, sampler, layout), layout))
        return jax.lax.stop_gradient(jnp.minimum(ratio, self.cap))


@struct
class Masked:
    """pi_old / pi_sampler where it lies between low and high, else 0: what sampler and trainer see
    too differently is not learnt from."""

    low: Float = param("smallest ratio kept", default=0.0, low=0.0)
    high: Float = param("largest ratio kept", default=2.0, above=0.0)
    level: Level = static("token or product", default=token)

    def __call__(self, old: jax.Array, sampler: jax.Array, layout: Layout) -> jax.Array:
        ratio = jnp.exp(self.level(log_ratio(old, sampler, layout), layout))
        inside = (ratio >= self.low) & (ratio <= self.high)
        return jax.lax.stop_gradient(jnp.where(inside, ratio, 0.0))


def off_policy_mask(
    advantage: jax.Array,
    log_prob: jax.Array,
    sampler: jax.Array,
    layout: Layout,
    threshold: Float,
) -> jax.Array:
    """[R, L] bool: A >= 0, or mean_t (log sampler - log pi) <= threshold. Bad completions that the
    policy has long left are not pushed down further (DeepSeek-V3.2)."""
    gap = layout.spread(layout.mean(log_ratio(sampler, log_prob, layout)))
    return (layout.tokens(advantage) >= 0.0) | (gap <= threshold)


def entropy_mask(entropy: jax.Array, layout: Layout, quantile: Float) -> jax.Array:
    """[R, L] bool: counting tokens whose entropy is at or above the quantile (linear interpolation)
    of the whole batch; 0.8 keeps the fifth with the most entropy (Wang et al. 2025)."""
    seen = jnp.where(layout.mask.astype(bool), jax.lax.stop_gradient(entropy), jnp.nan)
    return layout.mask.astype(bool) & (seen >= jnp.nanquantile(seen, quantile))
