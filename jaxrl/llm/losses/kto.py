"""Learning from thumbs up and thumbs down: KTO and its unpaired relatives.

No pairs: each completion is desirable or not. Following Kahneman and Tversky's prospect theory,
what counts is the gain over a reference point, here the KL between policy and reference
(Ethayarajh et al. 2024, eq. 8):

    desirable     w_d * (1 - sigmoid(beta (l - z)))
    undesirable   w_u * (1 - sigmoid(beta (z - l)))       l = log pi - log ref of the completion

z is estimated from completions that do not belong to their prompts (each prompt with the completion
of the row before), because for those the policy has nothing to gain: z = max(0, mean l), over the
whole batch, without gradient. Compute it once for the batch and give the same number to every part.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.struct import Float


def mismatched(x: jax.Array) -> jax.Array:
    """To row i what belongs to row i - 1: completions for the KL term, [S, ...], S > 1."""
    if x.shape[0] < 2:
        raise ValueError(
            "KTO pairs each prompt with another row's completion; one row has no other: "
            "give at least 2 rows."
        )
    return jnp.roll(x, 1, axis=0)


def reference_point(
    log_prob: jax.Array, ref: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """z = max(0, mean (log pi - log ref)) of mismatched completions, sums over tokens [S]."""
    gap = jax.lax.stop_gradient(log_prob - ref)
    keep = jnp.ones(gap.shape, bool) if valid is None else valid.astype(bool)
    mean = jnp.where(keep, gap, 0.0).sum() / jnp.maximum(keep.sum(), 1)
    return jnp.maximum(mean, 0.0)


def kto(
    l: jax.Array,  # noqa: E741
    desirable: jax.Array,
    z: jax.Array | float,
    beta: Float = 0.1,
    desirable_weight: Float = 1.0,
    undesirable_weight: Float = 1.0,
) -> jax.Array:
    """l [S] = log pi - log ref, desirable [S] bool, z from `reference_point` -> [S]. Balance the
    weights so that w_d * number of desirable is 1 to 4/3 of w_u * number of undesirable."""
    z = jax.lax.stop_gradient(jnp.asarray(z))
    gain = 1.0 - jax.nn.sigmoid(beta * (l - z))
    loss = 1.0 - jax.nn.sigmoid(beta * (z - l))
    return jnp.where(desirable.astype(bool), desirable_weight * gain, undesirable_weight * loss)


def apo_zero_unpaired(
    l: jax.Array,  # noqa: E741
    desirable: jax.Array,
    beta: Float = 0.1,
    desirable_weight: Float = 1.0,
    undesirable_weight: Float = 1.0,
) -> jax.Array:
    """KTO with z = 0 (D'Oosterlinck et al. 2024)."""
    return kto(l, desirable, 0.0, beta, desirable_weight, undesirable_weight)


def bco_unpaired(
    l: jax.Array,  # noqa: E741
    desirable: jax.Array,
    shift: jax.Array | float = 0.0,
    beta: Float = 0.1,
) -> jax.Array:
    """-log sigmoid(+-(beta l - delta)): a binary classifier (Jung et al. 2024). `shift`
    delta is the mean of the batch's mean rewards of either kind, or its running average."""
    x = beta * l - jax.lax.stop_gradient(jnp.asarray(shift))
    return -jax.nn.log_sigmoid(jnp.where(desirable.astype(bool), x, -x))
