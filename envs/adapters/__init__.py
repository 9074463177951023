"""Environments of other libraries. Each module imports its library only when it is asked for one.

None of them uses the library's own auto-reset: it hides the true final observation. The driver
resets, and truncation is told apart from termination.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.types import PyTree


def settled(state: PyTree) -> PyTree:
    """`state` as arrays whose types are final.

    JAX marks what it made of a bare Python number as of weak type, and a program that was compiled
    for one is compiled again for the other. These libraries return some numbers weak from a reset
    and strong from a step; the contract wants both alike.
    """

    def settle(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return x.astype(x.dtype) if x.weak_type else x

    return jax.tree.map(settle, state)
