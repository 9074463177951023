"""Rewards for lengths, counted in tokens.

A length must be counted in the unit of its limit: a completion's characters against a budget of
tokens (as one library does) punish answers of a quarter of the length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.struct import Float


def overlong_penalty(
    length: jax.Array, limit: Float, buffer: Float, factor: Float = 1.0
) -> jax.Array:
    """DAPO's soft punishment, to be added to the reward (Yu et al. 2025, eq. 13). length [...]:

    0 up to limit - buffer,  (limit - buffer - n) / buffer inside,  -1 beyond the limit

    times `factor`. Tokens, without the prompt's; the end token counts.
    """
    excess = (length - (limit - buffer)) / buffer
    return -factor * jnp.clip(excess, 0.0, 1.0)


def truncated_reward(reward: jax.Array, ended: jax.Array) -> jax.Array:
    """NaN ("cannot be scored") for completions that were cut off, so that they count in no group
    mean and get no advantage. reward, ended [...]. DAPO's overlong filtering silences their tokens
    but leaves their reward in the mean: for that, clear their rows in the mask of the layout."""
    return jnp.where(ended.astype(bool), reward, jnp.nan)
