"""Best of n: several completions of each prompt, of which the one with the highest score is kept.

    out, scores = best_of(network, params, tokens, mask, key, sampling, n=8, max_new=64)

Without `score` it is the likeliest of them. A verifier, a reward model or a length-normalised sum
is a function of the completions:

    best_of(..., score=lambda out: out.log_probs.sum(1) / out.mask.sum(1))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm.generate import Completions, generate
from jaxrl.llm.sampling import Sampling

Score = Callable[[Completions], jax.Array]
"""Completions of R rows -> [R]"""


def likelihood(out: Completions) -> jax.Array:
    return out.log_probs.sum(axis=1)


def best_of(
    network: Any,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array | None,
    key: jax.Array,
    sampling: Sampling | None = None,
    *,
    n: int,
    score: Score = likelihood,
    **more: Any,
) -> tuple[Completions, jax.Array]:
    """-> the best completion of each prompt [B, L], and the scores of all, [B, n]. `more` is what
    `generate` takes. NaN is "cannot be scored": it is chosen only if there is nothing else."""
    out = generate(network, params, tokens, mask, key, sampling, group=n, **more)
    scores = score(out).reshape(-1, n)
    best = jnp.argmax(jnp.where(jnp.isnan(scores), -jnp.inf, scores), axis=1)
    return take(out, jnp.arange(len(best)) * n + best), scores


def take(out: Completions, rows: jax.Array) -> Completions:
    """Some of the rows."""
    return dataclasses.replace(
        out,
        tokens=out.tokens[rows],
        mask=out.mask[rows],
        log_probs=out.log_probs[rows],
        stopped=out.stopped[rows],
        kept=None if out.kept is None else out.kept[rows],
    )
