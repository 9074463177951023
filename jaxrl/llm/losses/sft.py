"""Supervised fine-tuning: the negative log-likelihood of the tokens of good completions.

Prompts are left out by the mask, packed sequences stay apart by the layout (and by the attention
mask of the model). The denominator is the number of tokens of the whole step: give `count` when
the step is made of several micro-batches or devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Aggregate, ByToken, Layout
from jaxrl.struct import Float

_BY_TOKEN = ByToken()


def nll(
    log_prob: jax.Array,
    layout: Layout,
    *,
    aggregate: Aggregate = _BY_TOKEN,
    count: Float | None = None,
) -> jax.Array:
    """-sum_it m log pi / sum_it m. log_prob [R, L]."""
    return aggregate(-log_prob, layout, count)


def dft(
    log_prob: jax.Array,
    layout: Layout,
    *,
    aggregate: Aggregate = _BY_TOKEN,
    count: Float | None = None,
) -> jax.Array:
    """Each token's loss times its probability, which has no gradient itself: -sg(pi) log pi. The
    gradient of NLL is a policy gradient with weight 1 / pi; this takes the weight away (dynamic
    fine-tuning, Wu et al. 2025)."""
    log_prob = layout.keep(log_prob)
    prob = jax.lax.stop_gradient(jnp.exp(log_prob))
    return aggregate(-prob * log_prob, layout, count)


def accuracy(greedy: jax.Array, token: jax.Array, layout: Layout) -> jax.Array:
    """Share of counting tokens that the model would have chosen itself; both [R, L] int."""
    return ByToken()((greedy == token).astype(jnp.float32), layout)
