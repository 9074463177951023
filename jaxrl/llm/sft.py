"""Supervised fine-tuning: raise the probability of good answers, token by token.

A row is a prompt with its answer, or several of them one behind the other (packing): `segments`
tells them apart, and what belongs to one never sees another. `mask` says which tokens count, those
of the answers usually. With random parameters to begin with and every token counted, this is
pretraining.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm import answers, scoring, tuning
from jaxrl.llm.losses import sft
from jaxrl.llm.losses.aggregate import ByToken, Layout
from jaxrl.llm.model import Transformer
from jaxrl.llm.scoring import CHUNK
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tuning import AdamW, Lora, Tuned
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Spec


@struct
class SFT:
    network: Transformer = static("the model")
    lr: Float = param("Adam's step size", default=2e-5, above=0)
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    batch_size: int = static("rows per step", default=32, low=1)
    parts: int = static("of a batch that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    loss: Callable[..., jax.Array] = static("of log-probs: sft.nll or sft.dft", default=sft.nll)
    lora: Lora | None = static("train adapters only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    def init(self, key: Key, spec: Spec) -> Tuned:
        return tuning.begun(self, key, spec, watch=False)

    def start_from(self, state: Tuned, given: Any) -> Tuned:
        return tuning.begun_with(self, state, tuning.begin(state.params, given))

    def act(self, state: Tuned, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        return answers.reply(self, state, obs, key, explore)

    def learn(self, state: Tuned, batch: dict[str, jax.Array], key: Key) -> tuple[Tuned, Metrics]:
        """One gradient step on `tokens`, `segments` (0: padding) and `mask`, each [B, L]."""
        del key
        count = ByToken().count(_layout(batch))

        def loss(params: PyTree, part: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
            layout = _layout(part)
            found = scoring.of_rows(
                self.network, params, part["tokens"], part["segments"], chunk=self.chunk
            )
            value = self.loss(found.log_prob, layout, count=count)
            nll = sft.nll(found.log_prob, layout, count=count)
            entropy = ByToken()(found.entropy, layout)
            return value, {"loss/total": value, "loss/nll": nll, "policy/entropy": entropy}

        state, metrics = tuning.stepped(self, state, loss, batch)
        return state, metrics | {"policy/perplexity": jnp.exp(metrics["loss/nll"])}


def _layout(batch: dict[str, jax.Array]) -> Layout:
    """The first token of a segment has nothing before it that could foretell it."""
    segments = batch["segments"]
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return Layout(batch["mask"].astype(bool) & (segments > 0) & (segments == before))
