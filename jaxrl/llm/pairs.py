"""Preferences as batches: {"chosen": rows, "rejected": rows}, and "margin" where there is one.

Rows are {"tokens": [B, L], "segments": [B, L], "mask": [B, L]}: prompt and answer one behind the
other, 0 in `segments` for padding, and the tokens of the answer in `mask`. Both sides go through
the model together.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm import scoring
from jaxrl.llm.losses import diagnostics, dpo, logprobs
from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.losses.reward import preference_accuracy
from jaxrl.llm.model import Transformer
from jaxrl.struct import struct
from jaxrl.types import Metrics, PyTree

SIDES = ("chosen", "rejected")


@struct
class Sides:
    chosen: logprobs.Scores  # [B, L]
    rejected: logprobs.Scores


def layout(rows: dict[str, jax.Array]) -> Layout:
    return Layout(rows["mask"].astype(bool) & (rows["segments"] > 0))


def stacked(batch: PyTree, name: str) -> jax.Array:
    """[2 B, L]: the chosen ones first."""
    return jnp.concatenate([batch[side][name] for side in SIDES])


def score(network: Transformer, params: Any, batch: PyTree, chunk: int) -> Sides:
    found = scoring.of_rows(
        network, params, stacked(batch, "tokens"), stacked(batch, "segments"), chunk=chunk
    )
    half = len(batch["chosen"]["tokens"])
    first, second = (
        jax.tree.map(lambda x, part=part: x[part], found)
        for part in (slice(half), slice(half, None))
    )
    return Sides(first, second)


def metrics(pairs: dpo.Pairs, own: Sides, good: Layout, bad: Layout) -> Metrics:
    """How far the two kinds of answers have moved, and how often in the right order."""
    return {
        "reward/chosen": pairs.l_c.mean(),
        "reward/rejected": pairs.l_r.mean(),
        "reward/margin": pairs.d.mean(),
        "reward/accuracy": preference_accuracy(pairs.l_c, pairs.l_r),
        "policy/log_prob_chosen": good.mean(own.chosen.log_prob).mean(),
        "policy/log_prob_rejected": bad.mean(own.rejected.log_prob).mean(),
        "policy/entropy": diagnostics.entropy(own.chosen.entropy, good),
        "length/chosen": good.lengths().mean(),
        "length/rejected": bad.lengths().mean(),
    }
