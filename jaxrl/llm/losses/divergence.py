"""What a preference loss may do to log-ratios before it compares them.

DPO turns the reward of a completion into beta * log(pi / ref), because that is what the optimum of
a KL-regularised objective implies. Another divergence implies another function of the ratio; long
answers and answers that the policy would not give can be made to count less.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Layout
from jaxrl.struct import Float, param, struct

Divergence = Callable[[jax.Array], jax.Array]
"""x = log(pi / ref) -> f'(exp x), the reward divided by beta (f-DPO, Wang et al. 2024)."""


def reverse_kl(x: jax.Array) -> jax.Array:
    """x: DPO."""
    return x


def forward_kl(x: jax.Array) -> jax.Array:
    """1 - exp(-x)."""
    return -jnp.expm1(-x)


def jensen_shannon(x: jax.Array) -> jax.Array:
    """log 2 + log sigmoid(x) = log(2 u / (1 + u)), u = exp x."""
    return math.log(2.0) + jax.nn.log_sigmoid(x)


@struct
class Alpha:
    """(exp((a - 1) x) - 1) / (a - 1), in the limit a = 1 the reverse KL.

    The paper's alpha is 1 - a. The exponent is kept below 80 or float32 overflows. (TRL looks that
    limit up by type and raises a KeyError in float64.)
    """

    a: Float = param("order", default=0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        power = jnp.asarray(self.a, x.dtype) - 1.0
        near = jnp.abs(power) < 1e-4
        safe = jnp.where(near, 1.0, power)
        general = jnp.expm1(jnp.clip(safe * x, None, 80.0)) / safe
        return jnp.where(near, x + 0.5 * power * jnp.square(x), general)


def length_desensitised(
    log_prob: jax.Array, layout: Layout, other_length: jax.Array, alpha: Float
) -> jax.Array:
    """sum of log pi over the first min(n, n_other) tokens + alpha * sum over the rest, [S]
    (LD-DPO, Liu et al. 2024): the tail by which an answer is longer than its rival counts
    less. `other_length` [S] is that of the rival; use the same for policy and reference."""
    shared = layout.spread(jnp.minimum(layout.lengths(), other_length))
    weight = jnp.where(layout.positions() <= shared, 1.0, alpha)
    return layout.total(weight * layout.keep(log_prob))


def policy_weight(log_prob: jax.Array, log_collision: jax.Array, layout: Layout) -> jax.Array:
    """exp(mean_t (log pi(y_t) - log sum_v pi(v)^2)) [S], without gradient: how likely the policy
    would have written this itself. WPO multiplies each pair's loss by the weights of both
    completions (Zhou et al. 2024). `log_collision` comes from `logprobs.token_scores`."""
    gap = layout.keep(log_prob) - layout.keep(log_collision)
    return jax.lax.stop_gradient(jnp.exp(layout.mean(gap)))
