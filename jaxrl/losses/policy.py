"""Policy-gradient losses, to be minimised: pure functions of arrays of one shape."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.struct import Float


def normalize(advantage: jax.Array, eps: float = 1e-8) -> jax.Array:
    """Zero mean, unit variance (ddof 0). A single or constant advantage becomes 0, not NaN."""
    return (advantage - advantage.mean()) / (advantage.std() + eps)


def clipped_surrogate(log_ratio: jax.Array, advantage: jax.Array, clip: Float) -> jax.Array:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A), averaged (Schulman et al. 2017, eq. 7)."""
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


def value_error(value: jax.Array, old_value: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared error, averaged."""
    del old_value
    return 0.5 * jnp.square(value - target).mean()


@dataclasses.dataclass(frozen=True)
class ClippedValueError:
    """Half the larger of two squared errors: of the value, and of the value kept within `clip` of
    the old one. Pessimistic, as in OpenAI's baselines (detail 9 of PPO's 37)."""

    clip: float = 0.2

    def __call__(self, value: jax.Array, old_value: jax.Array, target: jax.Array) -> jax.Array:
        kept = old_value + jnp.clip(value - old_value, -self.clip, self.clip)
        worse = jnp.maximum(jnp.square(value - target), jnp.square(kept - target))
        return 0.5 * worse.mean()


def kl_estimate(log_ratio: jax.Array) -> jax.Array:
    """KL(old || new) from log-ratios log(new / old) of actions of the old policy: mean of
    rho - 1 - log rho, unbiased and never negative (Schulman's k3)."""
    return (jnp.expm1(log_ratio) - log_ratio).mean()


def clip_fraction(log_ratio: jax.Array, clip: Float) -> jax.Array:
    """Share of samples whose ratio lies outside the clipping interval."""
    return (jnp.abs(jnp.expm1(log_ratio)) > clip).mean()


def explained_variance(value: jax.Array, target: jax.Array) -> jax.Array:
    """1 - Var(target - value) / Var(target): 1 is perfect, 0 no better than a constant."""
    return 1.0 - jnp.var(target - value) / jnp.maximum(jnp.var(target), 1e-8)
