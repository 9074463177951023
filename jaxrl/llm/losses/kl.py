"""Estimates of KL(pi || ref) from sampled tokens, and what their gradients are worth.

With x = log pi(token) - log ref(token), token drawn from pi (Schulman 2020, "Approximating KL
divergence"):

    k1 = x                    unbiased, may be negative
    k2 = x^2 / 2              biased, never negative
    k3 = exp(-x) - 1 + x      unbiased, never negative

Being a good estimate of the value says nothing about the gradient when the estimate is part of the
loss, because its derivative treats the sampled token as given:

    E[grad k1] = E[grad log pi] = 0        no penalty at all, only noise
    E[grad k2] = E[x grad log pi]          exactly grad KL(pi || ref)
    E[grad k3] = E[(1 - exp(-x)) grad log pi] = grad KL(ref || pi), the other divergence

(Tang and Munos 2025). So there are three right ways: k1 in the reward, `corrected` (k2's gradient
under any value), or `weighted`: the estimate times the importance ratio pi / old, differentiated
through the ratio, whose expected gradient is that of its expected value.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Layout
from jaxrl.struct import Float, param, static, struct

Estimator = Callable[[jax.Array], jax.Array]
"""Of x = log pi - log ref, any shape."""

Form = Callable[[Estimator, jax.Array, jax.Array], jax.Array]
"""(estimator, x, log pi - log old) -> the penalty of a token in the loss."""


def k1(x: jax.Array) -> jax.Array:
    """x."""
    return x


def k2(x: jax.Array) -> jax.Array:
    """x^2 / 2."""
    return 0.5 * jnp.square(x)


def k3(x: jax.Array) -> jax.Array:
    """exp(-x) - 1 + x, by expm1: near 0 it is x^2 / 2, which exp would round away."""
    return jnp.expm1(-x) + x


def plain(estimator: Estimator, x: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """The estimate as it is: with k3 GRPO as published, with k1 a penalty without effect."""
    del log_ratio
    return estimator(x)


def weighted(estimator: Estimator, x: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """Times pi / old, differentiably: unbiased value and gradient, also off-policy."""
    return jnp.exp(log_ratio) * estimator(x)


def corrected(estimator: Estimator, x: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """The value of the estimate with the gradient of k2 (verl's `k3+`)."""
    del log_ratio
    through = k2(x)
    return through + jax.lax.stop_gradient(estimator(x) - through)


@struct
class KLPenalty:
    """beta times a KL estimate, added to the loss of each token."""

    beta: Float = param("weight", default=0.04, low=0.0)
    estimator: Estimator = static("of the value: k1, k2 or k3", default=k3)
    form: Form = static("of the gradient: plain, weighted or corrected", default=weighted)
    inside: Float | None = param("|x| is kept below this before exp", default=None, above=0.0)
    outside: Float | None = param("|estimate| is kept below this", default=None, above=0.0)

    def estimate(self, x: jax.Array) -> jax.Array:
        if self.inside is not None:
            x = jnp.clip(x, -self.inside, self.inside)
        value = self.estimator(x)
        return value if self.outside is None else jnp.clip(value, -self.outside, self.outside)

    def __call__(self, x: jax.Array, log_ratio: jax.Array) -> jax.Array:
        """x = log pi - log ref [R, L], log_ratio = log pi - log old [R, L] -> [R, L]."""
        return self.beta * self.form(self.estimate, x, log_ratio)


def log_ratio(log_prob: jax.Array, other: jax.Array, layout: Layout) -> jax.Array:
    """log_prob - other [R, L], 0 where tokens do not count: padding may hold -inf or NaN."""
    keep = layout.mask.astype(bool)
    # Both are replaced before the difference: -inf - -inf would be NaN, and NaN times 0 is NaN in
    # every gradient behind it.
    return jnp.where(keep, log_prob, 0.0) - jnp.where(keep, other, 0.0)


def sequence_penalty(
    log_prob: jax.Array, ref: jax.Array, layout: Layout, estimator: Estimator = k1
) -> jax.Array:
    """The KL of whole completions [S] for the reward, r - beta * KL: sums over tokens, without a
    gradient. The expectation of k1's sum is the KL of the sequence distributions."""
    x = log_ratio(log_prob, ref, layout)
    return jax.lax.stop_gradient(layout.total(estimator(x)))


@struct
class AdaptiveKL:
    """A controller that keeps the measured KL near a target (Ziegler et al. 2019, section 2.2):

    e = clip(KL / target - 1, -0.2, 0.2),   beta <- beta * (1 + e * n / horizon)
    """

    beta: Float = param("current weight", default=0.2, low=0.0)
    target: Float = param("KL of a completion to aim at", default=6.0, above=0.0)
    horizon: Float = param("samples in which the weight can double or so", default=1e4, above=0.0)
    limit: Float = param("largest relative error", default=0.2, above=0.0)

    def step(self, kl: jax.Array, num_samples: Float) -> AdaptiveKL:
        """The controller after `num_samples` completions with mean KL `kl`."""
        error = jnp.clip(kl / self.target - 1.0, -self.limit, self.limit)
        beta = self.beta * (1.0 + error * num_samples / self.horizon)
        return AdaptiveKL(beta=beta, target=self.target, horizon=self.horizon, limit=self.limit)
