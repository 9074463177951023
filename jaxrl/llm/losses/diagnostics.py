"""What to watch while a language model learns from rewards; no gradients pass through any of it.

Most collapses are announced: entropy falls, the effective sample size of the ratios falls, lengths
follow the reward, groups stop to disagree, or sampler and trainer were never the same policy. All
functions return scalars named as in the rest of the library, NaN where there is nothing to measure.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.advantages import degenerate
from jaxrl.llm.losses.aggregate import ByToken, Layout
from jaxrl.llm.losses.kl import k1, k2, k3, log_ratio
from jaxrl.struct import Float


def mean_of(x: jax.Array, where: jax.Array) -> jax.Array:
    """NaN of an empty selection: a share of nothing is not 0."""
    count = where.sum()
    mean = jnp.where(where, x, 0.0).sum() / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.nan)


def kl_estimates(
    log_prob: jax.Array, other: jax.Array, layout: Layout, name: str = "policy/kl"
) -> dict[str, jax.Array]:
    """k1, k2, k3 of KL(pi || other), token means, for tokens drawn from pi. If k1 and k3 disagree
    the estimate is noise; if k2 leaves both, the policies are far apart."""
    x = jax.lax.stop_gradient(log_ratio(log_prob, other, layout))
    mask = layout.mask.astype(bool)
    return {f"{name}_{k.__name__}": mean_of(k(x), mask) for k in (k1, k2, k3)}


def entropy(token_entropy: jax.Array, layout: Layout) -> jax.Array:
    """Mean entropy of counting tokens, in nats."""
    return ByToken()(jax.lax.stop_gradient(token_entropy), layout)


def effective_sample_size(log_weight: jax.Array, where: jax.Array) -> jax.Array:
    """(sum w)^2 / (N sum w^2): the share of the samples that is left after importance weighting, 1
    when all weights are equal, 1 / N when one has it all. Any shapes."""
    where = where.astype(bool)
    x = jnp.where(where, jax.lax.stop_gradient(log_weight), -jnp.inf)
    x = x - jnp.max(x, initial=-1e30)  # scale cancels, overflow does not
    weight = jnp.where(where, jnp.exp(x), 0.0)
    count = where.sum()
    size = jnp.square(weight.sum()) / jnp.maximum(count * jnp.square(weight).sum(), 1e-30)
    return jnp.where(count > 0, size, jnp.nan)


def ratio_metrics(log_ratio: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """Of log pi - log old [R, L]: KL(old || pi) by k3 for tokens of the old policy, the largest
    ratio, and what importance weighting leaves of the tokens."""
    x = jax.lax.stop_gradient(log_ratio)
    mask = layout.mask.astype(bool)
    return {
        "policy/kl": mean_of(k3(-x), mask),
        "policy/ratio_max": jnp.exp(jnp.max(jnp.where(mask, x, -jnp.inf))),
        "policy/ess": effective_sample_size(x, mask),
    }


def clip_fractions(
    log_ratio: jax.Array, advantage: jax.Array, layout: Layout, low: Float, high: Float
) -> dict[str, jax.Array]:
    """Where the clip bites, by sign: of tokens with A > 0 the share with r > 1 + high, of tokens
    with A < 0 the share with r < 1 - low. Ratios outside on the other side are not clipped."""
    ratio = jnp.exp(jax.lax.stop_gradient(log_ratio))
    mask = layout.mask.astype(bool)
    good, bad = mask & (advantage > 0.0), mask & (advantage < 0.0)
    return {
        "policy/clip_positive": mean_of((ratio > 1.0 + high).astype(jnp.float32), good),
        "policy/clip_negative": mean_of((ratio < 1.0 - low).astype(jnp.float32), bad),
    }


def length_by_correctness(length: jax.Array, correct: jax.Array) -> dict[str, jax.Array]:
    """Mean length of right and of wrong completions [S]. Wrong ones that grow while right ones do
    not are the trace of a loss that divides by length."""
    right = correct.astype(bool)
    return {
        "length/correct": mean_of(length, right),
        "length/wrong": mean_of(length, ~right),
    }


def length_reward_correlation(length: jax.Array, reward: jax.Array) -> jax.Array:
    """Pearson's r of length and reward [S]; completions that could not be scored (NaN) are left
    out. NaN when either is constant."""
    return correlation(length, reward)


def correlation(x: jax.Array, y: jax.Array) -> jax.Array:
    """Pearson's r over the pairs [S] of which both are known; NaN if either is constant."""
    known = ~jnp.isnan(x) & ~jnp.isnan(y)
    x = jnp.where(known, x - mean_of(x, known), 0.0)
    y = jnp.where(known, y - mean_of(y, known), 0.0)
    scale = jnp.sqrt(jnp.square(x).sum() * jnp.square(y).sum())
    return jnp.where(scale > 0.0, (x * y).sum() / jnp.where(scale > 0.0, scale, 1.0), jnp.nan)


def gold_gap(reward: jax.Array, gold: jax.Array) -> dict[str, jax.Array]:
    """A reward [S] beside what it stands for: how much higher it is on average, and how well both
    agree about which answer is better. A reward model is being exploited when the first grows, or
    when the second falls (Gao et al. 2022, arXiv:2210.10760)."""
    both = ~jnp.isnan(reward) & ~jnp.isnan(gold)
    return {
        "reward/gold_gap": mean_of(reward - gold, both),
        "reward/gold_correlation": correlation(reward, gold),
    }


def group_metrics(reward: jax.Array) -> dict[str, jax.Array]:
    """Rewards [P, G]: the share of groups that teach nothing, of those without a single score, and
    the mean deviation within groups (ddof 0)."""
    known = ~jnp.isnan(reward)
    mean = jax.vmap(mean_of)(reward, known)
    square = jax.vmap(mean_of)(jnp.square(reward - mean[:, None]), known)
    return {
        "group/degenerate": degenerate(reward).mean(),
        "group/unscored": (~known.any(axis=-1)).mean(),
        "group/std": mean_of(jnp.sqrt(square), known.any(axis=-1)),
    }


def sampler_mismatch(
    trainer: jax.Array, sampler: jax.Array, layout: Layout
) -> dict[str, jax.Array]:
    """Log-probabilities of the same tokens under the same weights, by the program that drew them
    and by the one that learns, both at the sampling temperature. All ratios should be 1."""
    x = jax.lax.stop_gradient(log_ratio(trainer, sampler, layout))
    mask = layout.mask.astype(bool)
    prob = jnp.abs(jnp.exp(layout.keep(trainer)) - jnp.exp(layout.keep(sampler)))
    return {
        "sampler/max_difference": jnp.max(jnp.abs(x), initial=0.0),
        "sampler/mean_difference": mean_of(jnp.abs(x), mask),
        "sampler/max_prob_difference": jnp.max(layout.keep(prob), initial=0.0),
        "sampler/mean_ratio": mean_of(jnp.exp(x), mask),
        "sampler/kl": mean_of(k3(-x), mask),
        "sampler/ess": effective_sample_size(x, mask),
    }
