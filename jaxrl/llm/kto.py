"""Learning from thumbs up and thumbs down (KTO, Ethayarajh et al. 2024, arXiv:2402.01306).

Every answer is desirable or not; no pairs. What counts is the gain over a reference point, the KL
to the model that we began with, estimated from answers that belong to other prompts: of the row
before. `point=False` with the right `loss` gives the relatives that do without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm import answers, scoring, tuning
from jaxrl.llm.losses import diagnostics, kto
from jaxrl.llm.losses.aggregate import Layout, average
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling
from jaxrl.llm.scoring import CHUNK
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tasks.task import PAD
from jaxrl.llm.tuning import AdamW, Lora, Tuned
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Spec

PLAIN = partial(kto.kto, beta=0.1)


@struct
class KTO:
    network: Transformer = static("the policy")
    lr: Float = param("Adam's step size", default=1e-6, above=0)
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    batch_size: int = static("answers per step", default=32, low=2)
    parts: int = static("of a batch that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    loss: Callable[..., jax.Array] = static("of log-ratio, desirable and point", default=PLAIN)
    point: bool = static("the loss takes the reference point", default=True)
    lora: Lora | None = static("train adapters only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    def init(self, key: Key, spec: Spec) -> Tuned:
        return tuning.begun(self, key, spec, watch=True)

    def start_from(self, state: Tuned, given: Any) -> Tuned:
        """Parameters to begin with, which are the reference as well."""
        return tuning.begun_with(self, state, tuning.begin(state.params, given))

    def act(self, state: Tuned, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        return answers.reply(self, state, obs, key, explore)

    def learn(self, state: Tuned, batch: dict[str, jax.Array], key: Key) -> tuple[Tuned, Metrics]:
        """One gradient step on `prompt` [B, P] (padded on the left), `answer` [B, L] (on the
        right), both with -1 for padding, and `desirable` [B]."""
        del key
        original = tuning.reference(state.params, state.reference)

        def score(params: PyTree, rows: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return self._score(params, rows)

        ref = tuning.in_parts(lambda rows: score(original, rows)[0], batch, self.parts)
        z = jnp.zeros(())
        if self.point:
            others = batch | {"answer": kto.mismatched(batch["answer"])}
            layout = _layout(others)
            own, theirs = (
                layout.total(tuning.in_parts(lambda r, p=p: score(p, r)[0], others, self.parts))
                for p in (state.params, original)
            )
            z = kto.reference_point(own, theirs)

        def loss(params: PyTree, part: PyTree) -> tuple[jax.Array, Metrics]:
            rows, ref = part
            layout, good = _layout(rows), rows["desirable"].astype(bool)
            log_prob, entropy = score(params, rows)
            ratio = layout.total(log_prob) - layout.total(ref)
            each = self.loss(ratio, good, z) if self.point else self.loss(ratio, good)
            total = average(each, count=self.batch_size)
            return total, {
                "loss/total": total,
                "reward/desirable": diagnostics.mean_of(ratio, good),
                "reward/undesirable": diagnostics.mean_of(ratio, ~good),
                "policy/entropy": diagnostics.entropy(entropy, layout),
            }

        state, metrics = tuning.stepped(self, state, loss, (batch, ref))
        return state, metrics | {"reference/point": z}

    def _score(self, params: PyTree, rows: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        prompt, answer = rows["prompt"], rows["answer"]
        return scoring.of_completions(
            self.network,
            params,
            jnp.maximum(prompt, 0),
            prompt != PAD,
            jnp.maximum(answer, 0),
            answer != PAD,
            None,
            Sampling(),
            chunk=self.chunk,
        )


def _layout(rows: dict[str, jax.Array]) -> Layout:
    return Layout(rows["answer"] != PAD)
