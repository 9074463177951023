"""Preferences without a reference model: SimPO, AlphaPO, CPO, ORPO.

Half the memory and time of DPO, because no second model is run. What keeps the policy from drifting
is a likelihood term on the chosen answers, or nothing. All return one loss per pair [P].
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.dpo import smoothed
from jaxrl.struct import Float


def simpo(
    chosen_mean: jax.Array,
    rejected_mean: jax.Array,
    beta: Float = 2.0,
    gamma: Float = 0.5,
    smoothing: Float = 0.0,
) -> jax.Array:
    """-log sigmoid(beta (mean log pi_c - mean log pi_r) - gamma) (Meng et al. 2024, eq. 6).

    Means over tokens, [P]. gamma is a margin in units of reward, after beta. Pure: TRL reaches this
    loss through CPO, which adds 1.0 * NLL unless `cpo_alpha` is set to 0.
    """
    return smoothed(beta * (chosen_mean - rejected_mean) - gamma, smoothing)


def alpha_po(
    chosen_mean: jax.Array,
    rejected_mean: jax.Array,
    beta: Float = 2.0,
    gamma: Float = 0.5,
    alpha: Float = 0.1,
    smoothing: Float = 0.0,
) -> jax.Array:
    """SimPO with the reward r = (1 - p^-alpha) / alpha, p = exp(mean log pi) (Gupta et al.
    2025), for alpha -> 0 again log p."""
    alpha = jnp.asarray(alpha, jnp.float32)
    near = jnp.abs(alpha) < 1e-4
    safe = jnp.where(near, 1.0, alpha)

    def reward(mean: jax.Array) -> jax.Array:
        return jnp.where(
            near, mean - 0.5 * alpha * jnp.square(mean), -jnp.expm1(-safe * mean) / safe
        )

    return smoothed(beta * (reward(chosen_mean) - reward(rejected_mean)) - gamma, smoothing)


def cpo(
    chosen: jax.Array, rejected: jax.Array, beta: Float = 0.1, smoothing: Float = 0.0
) -> jax.Array:
    """-log sigmoid(beta (log pi_c - log pi_r)), sums over tokens [P]: DPO with a uniform reference
    (Xu et al. 2024). To be added: alpha * `sft.nll` of the chosen completions, alpha 1."""
    return smoothed(beta * (chosen - rejected), smoothing)


def log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(x)) for x < 0, without losing digits at either end (Maechler 2012)."""
    x = jnp.minimum(x, -1e-7)  # of a certain event the odds would be infinite
    near = x > -math.log(2.0)
    left = jnp.log(-jnp.expm1(jnp.where(near, x, -1.0)))
    return jnp.where(near, left, jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))))


def orpo(chosen_mean: jax.Array, rejected_mean: jax.Array) -> jax.Array:
    """-log sigmoid(log odds_c - log odds_r), odds = p / (1 - p), p = exp(mean log pi) (Hong et al.
    2024, eq. 7). The whole loss is NLL of the chosen one (TRL: over prompt and completion) plus
    beta (0.1) times this.

    The log-probabilities are means over tokens. With sums, p of any long answer is 0 and the odds
    term falls back to a plain ratio (Tunix). The odds are never formed, so nothing underflows.
    """
    odds = (chosen_mean - rejected_mean) - (log1mexp(chosen_mean) - log1mexp(rejected_mean))
    return -jax.nn.log_sigmoid(odds)
