"""How a step size falls with the number of updates of one entry of a table.

Each is a function of that number, 1 at the first update, and is multiplied by `lr`. Sums of step
sizes diverge and sums of their squares converge, as Robbins and Monro (1951) ask, for `harmonic`
and for powers above 0.5 and up to 1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


def fixed(n: jax.Array) -> jax.Array:
    """Always 1: the past is forgotten at a fixed rate."""
    return jnp.ones_like(n, jnp.float32)


def harmonic(n: jax.Array) -> jax.Array:
    """1 / n: with lr = 1 the entry is the mean of all its targets."""
    return 1.0 / n.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """1 / n^power (Even-Dar and Mansour 2003)."""

    power: float = 0.8

    def __call__(self, n: jax.Array) -> jax.Array:
        return n.astype(jnp.float32) ** -self.power
