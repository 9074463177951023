"""Acting otherwise than seems best, to find out."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.distributions import Categorical
from jaxrl.losses import value as losses
from jaxrl.struct import Float
from jaxrl.types import Key


def decayed(start: Float, end: Float, share: jax.Array, over: Float) -> jax.Array:
    """From `start` to `end` in a straight line while the first `over` of the run is made; `share`
    of it lies behind us."""
    return start + (end - start) * jnp.minimum(share / over, 1.0)


def epsilon_greedy(key: Key, q: jax.Array, mask: jax.Array | None, epsilon: Float) -> jax.Array:
    """The best allowed action of q [N, A], or with probability epsilon any allowed one; each
    environment decides on its own."""
    best = losses.greedy(q, mask)
    if mask is None:  # one draw for both: which environments explore, and how
        coin, choice = jax.random.uniform(key, (2, *best.shape))
        random = (choice * q.shape[-1]).astype(jnp.int32)
    else:
        coin_key, key = jax.random.split(key)
        coin = jax.random.uniform(coin_key, best.shape)
        random = Categorical(jnp.zeros_like(q), mask).sample(key)
    return jnp.where(coin < epsilon, random, best)
