"""Reward models: scores learnt from preferences, from outcomes, or step by step.

An outcome model puts one score on a completion, read at its last token; a process model puts one on
the end of every step of reasoning.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Aggregate, ByToken, Layout, average
from jaxrl.struct import Float

_BY_TOKEN = ByToken()


def last_score(score: jax.Array, layout: Layout) -> jax.Array:
    """The score at the last counting token of each sequence: [R, L] -> [S]. Found by the mask, not
    by comparing ids with the padding token, which is often the end token as well."""
    return layout.total(jnp.where(layout.last(), score, 0.0))


def bradley_terry(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    margin: jax.Array | float = 0.0,
    centring: Float = 0.0,
    valid: jax.Array | None = None,
    count: Float | None = None,
) -> jax.Array:
    """mean -log sigmoid(r_c - r_r - margin) + centring * mean (r_c + r_r)^2; scores [P].

    Only differences of scores matter to preferences (Bradley and Terry 1952; Ouyang et al. 2022,
    eq. 1). The margin [P] is how much better the chosen one was judged (Touvron et al. 2023, eq.
    2); centring keeps scores near 0 (Eisenstein et al. 2023), 0.01 typically, off by default.
    """
    loss = -jax.nn.log_sigmoid(chosen - rejected - margin)
    return average(loss + centring * jnp.square(chosen + rejected), valid, count)


def log_exp(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    valid: jax.Array | None = None,
    count: Float | None = None,
) -> jax.Array:
    """mean log(1 + exp(r_r - r_c)): Bradley-Terry without a margin, by OpenRLHF's name."""
    return average(jax.nn.softplus(rejected - chosen), valid, count)


def outcome(
    score: jax.Array,
    correct: jax.Array,
    *,
    valid: jax.Array | None = None,
    count: Float | None = None,
) -> jax.Array:
    """Cross-entropy of sigmoid(score) with a label in [0, 1], both [S] (Cobbe et al. 2021)."""
    return average(_cross_entropy(score, correct), valid, count)


def process(
    score: jax.Array,
    correct: jax.Array,
    ends: Layout,
    *,
    aggregate: Aggregate = _BY_TOKEN,
    count: Float | None = None,
) -> jax.Array:
    """The same at the end of every step: score and label [R, L], `ends.mask` marks the last token
    of each step (Lightman et al. 2023). By default every step weighs the same."""
    return aggregate(_cross_entropy(ends.keep(score), ends.keep(correct)), ends, count)


def _cross_entropy(score: jax.Array, label: jax.Array) -> jax.Array:
    """-y log sigmoid(s) - (1 - y) log sigmoid(-s), finite for every score."""
    return jax.nn.softplus(score) - label * score


def preference_accuracy(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    """Share of pairs in the right order; a tie is half right, or constant scores would look good
    or bad by the choice of > or >=."""
    return jnp.mean((chosen > rejected) + 0.5 * (chosen == rejected))
