"""Optimisers and schedules.

A schedule is a function of the share of the run that is behind us (0 at the start) giving a factor.
It is a static field of an agent, so `anneal=optim.linear` is a choice of program, while the number
it scales stays traced.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxrl.types import PyTree


def constant(share: jax.Array) -> jax.Array:
    return jnp.ones_like(share)


def linear(share: jax.Array) -> jax.Array:
    """From one to zero. The first update of ten has factor 1, the last 0.1."""
    return 1.0 - share


def cosine(share: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jnp.cos(jnp.pi * share))


def norm(tree: PyTree) -> jax.Array:
    """The length of all leaves as one vector."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def clip(max_norm: float | jax.Array) -> optax.GradientTransformation:
    """Scale all gradients together so that their *global* norm is at most `max_norm`: not leaf by
    leaf, and not element by element."""
    return optax.clip_by_global_norm(max_norm)


def adam(
    lr: float | jax.Array,
    max_grad_norm: float | jax.Array,
    eps: float | jax.Array = 1e-8,
) -> optax.GradientTransformation:
    """Adam behind `clip`, over all parameters as one vector: for small networks the number of
    operations is what costs, and this makes it independent of the number of layers."""
    return optax.flatten(optax.chain(clip(max_grad_norm), optax.adam(lr, eps=eps)))


def identity(x: jax.Array) -> jax.Array:
    return x
