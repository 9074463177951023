"""Reward models: a number for an answer, learned from preferences, outcomes or steps.

`RewardModel` learns from pairs (Bradley and Terry 1952; Ouyang et al. 2022), `StepModel` from
labels at the ends of steps (Lightman et al. 2023), which for one step, the last, is an outcome
model (Cobbe et al. 2021). `scores` gives the numbers for rows of tokens.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm import pairs, scorer, tuning
from jaxrl.llm.losses import reward
from jaxrl.llm.losses.aggregate import ByToken, Layout
from jaxrl.llm.model import Transformer
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tasks.task import PAD
from jaxrl.llm.tuning import AdamW, Lora, Tuned
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Metrics, PyTree, Spec


@struct
class RewardModel:
    network: Transformer = static("what reads the answers")
    lr: Float = param("Adam's step size", default=1e-5, above=0)
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    centring: Float = param("pulls the scores towards 0", default=0.0, low=0)
    batch_size: int = static("pairs per step", default=32, low=1)
    parts: int = static("of a batch that follow one another, for memory", default=1, low=1)
    lora: Lora | None = static("train adapters and the head only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    def init(self, key: Key, spec: Spec) -> Tuned:
        return tuning.begun(self, key, spec, watch=False, fresh=scorer.fresh)

    def start_from(self, state: Tuned, given: Any) -> Tuned:
        """A language model's parameters for the trunk, or those of a reward model."""
        return tuning.begun_with(self, state, scorer.begin(state.params, given))

    def scores(self, params: PyTree, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """[R] of rows [R, L], prompt and answer in each."""
        return scorer.of_last(self.network, params, tokens, mask)

    def learn(self, state: Tuned, batch: PyTree, key: Key) -> tuple[Tuned, Metrics]:
        """One gradient step on {"chosen": rows, "rejected": rows}, see `jaxrl.llm.pairs`, with
        "margin" [B] where it is known how much better the chosen one is."""
        del key

        def loss(params: PyTree, part: PyTree) -> tuple[jax.Array, Metrics]:
            tokens, real = pairs.stacked(part, "tokens"), pairs.stacked(part, "segments") > 0
            chosen, rejected = jnp.split(self.scores(params, tokens, real), 2)
            value = reward.bradley_terry(
                chosen,
                rejected,
                margin=part.get("margin", 0.0),
                centring=self.centring,
                count=self.batch_size,
            )
            return value, {
                "loss/total": value,
                "reward/accuracy": reward.preference_accuracy(chosen, rejected),
                "reward/chosen": chosen.mean(),
                "reward/rejected": rejected.mean(),
                "reward/margin": (chosen - rejected).mean(),
            }

        return tuning.stepped(self, state, loss, batch)


@struct
class StepModel:
    network: Transformer = static("what reads the answers")
    lr: Float = param("Adam's step size", default=1e-5, above=0)
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    batch_size: int = static("answers per step", default=32, low=1)
    parts: int = static("of a batch that follow one another, for memory", default=1, low=1)
    lora: Lora | None = static("train adapters and the head only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    def init(self, key: Key, spec: Spec) -> Tuned:
        return tuning.begun(self, key, spec, watch=False, fresh=scorer.fresh)

    def start_from(self, state: Tuned, given: Any) -> Tuned:
        """A language model's parameters for the trunk, or those of a reward model."""
        return tuning.begun_with(self, state, scorer.begin(state.params, given))

    def scores(self, params: PyTree, tokens: jax.Array, segments: jax.Array) -> jax.Array:
        """[R, L]: log-odds that all is right up to each token."""
        return scorer.of_rows(self.network, params, tokens, segments)

    def learn(self, state: Tuned, batch: dict[str, jax.Array], key: Key) -> tuple[Tuned, Metrics]:
        """One gradient step on `tokens`, `segments`, `ends` (the last token of each step) and
        `label` (at those, 0 to 1), each [B, L]."""
        del key
        count = ByToken().count(Layout(batch["ends"].astype(bool)))

        def loss(params: PyTree, part: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
            ends = Layout(part["ends"].astype(bool))
            score = self.scores(params, part["tokens"], part["segments"])
            value = reward.process(score, part["label"], ends, count=count)
            right = (score > 0) == (part["label"] > 0.5)
            accuracy = ByToken()(right.astype(jnp.float32), ends)
            return value, {"loss/total": value, "reward/accuracy": accuracy}

        return tuning.stepped(self, state, loss, batch)


def rate(
    network: Transformer, params: PyTree, prompt: jax.Array, completion: jax.Array
) -> jax.Array:
    """A reward model's score of one completion, both padded with -1. With the network bound it is
    the reward of a task: `tasks.Scored(task, partial(rate, network), run.state.params)`."""
    tokens = jnp.concatenate([prompt, completion])[None]
    real = tokens != PAD
    return scorer.of_last(network, params, jnp.maximum(tokens, 0), real)[0]
