"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and its relatives.

Of two answers to a prompt one was preferred. The loss looks at how much more likely each has become
than under the model that we began with; no reward model, nothing is drawn. `loss` is any function
of `losses.dpo` with its settings bound, `partial(dpo.ipo, beta=0.2)` say, `nll` adds the likelihood
of the chosen answers, `tail` is LD-DPO's and `weigh` WPO's. Losses without a reference are in
`jaxrl.llm.cpo`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from jaxrl.llm import answers, pairs, tuning
from jaxrl.llm.losses import divergence, dpo, sft
from jaxrl.llm.losses.aggregate import ByToken, Layout, average
from jaxrl.llm.losses.divergence import Divergence
from jaxrl.llm.model import Transformer
from jaxrl.llm.scoring import CHUNK
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tuning import AdamW, Lora, Tuned
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Spec

SORTING = (dpo.aot, dpo.aot_unpaired)
"""Losses that compare all pairs of a batch with one another."""

PLAIN = partial(dpo.dpo, beta=0.1)


@struct
class DPO:
    network: Transformer = static("the policy")
    lr: Float = param("Adam's step size", default=1e-6, above=0)
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    nll: Float | None = param("weight of the chosen answers' likelihood", default=None, low=0)
    tail: Float | None = param(
        "weight of the tokens by which one answer is longer (LD-DPO)", default=None, low=0
    )
    batch_size: int = static("pairs per step", default=32, low=1)
    parts: int = static("of a batch that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    weigh: bool = static("pairs count as the policy would write them (WPO)", default=False)
    loss: dpo.PairLoss = static("of pairs", default=PLAIN)
    divergence: Divergence = static("what a log-ratio is worth", default=divergence.reverse_kl)
    lora: Lora | None = static("train adapters only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    def init(self, key: Key, spec: Spec) -> Tuned:
        if self.parts > 1 and getattr(self.loss, "func", self.loss) in SORTING:
            raise ValueError("this loss sorts all pairs of a batch: write parts=1.")
        return tuning.begun(self, key, spec, watch=True)

    def start_from(self, state: Tuned, given: Any) -> Tuned:
        """Parameters to begin with, which are the reference as well."""
        return tuning.begun_with(self, state, tuning.begin(state.params, given))

    def act(self, state: Tuned, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        return answers.reply(self, state, obs, key, explore)

    def learn(self, state: Tuned, batch: PyTree, key: Key) -> tuple[Tuned, Metrics]:
        """One gradient step on {"chosen": rows, "rejected": rows}, see `jaxrl.llm.pairs`."""
        del key
        original = tuning.reference(state.params, state.reference)

        def score(params: PyTree, part: PyTree) -> pairs.Sides:
            return pairs.score(self.network, params, part, self.chunk)

        ref = tuning.in_parts(lambda part: score(original, part), batch, self.parts)
        size, tokens = self.batch_size, ByToken().count(pairs.layout(batch["chosen"]))

        def loss(params: PyTree, part: PyTree) -> tuple[jax.Array, Metrics]:
            rows, ref = part
            good, bad = (pairs.layout(rows[side]) for side in pairs.SIDES)
            own = score(params, rows)
            chosen = self._sum(own.chosen.log_prob, good, bad)
            rejected = self._sum(own.rejected.log_prob, bad, good)
            found = dpo.Pairs(
                chosen=chosen,
                rejected=rejected,
                ref_chosen=self._sum(ref.chosen.log_prob, good, bad),
                ref_rejected=self._sum(ref.rejected.log_prob, bad, good),
                chosen_length=good.lengths(),
                rejected_length=bad.lengths(),
                divergence=self.divergence,
            )
            each = self.loss(found)
            if self.weigh:
                for side, layout in ((own.chosen, good), (own.rejected, bad)):
                    each *= divergence.policy_weight(side.log_prob, side.log_collision, layout)
            total = average(each, count=size)
            metrics = {"loss/preference": total, **pairs.metrics(found, own, good, bad)}
            if self.nll is not None:
                nll = sft.nll(own.chosen.log_prob, good, count=tokens)
                total += self.nll * nll
                metrics["loss/nll"] = nll
            return total, {"loss/total": total, **metrics}

        return tuning.stepped(self, state, loss, (batch, ref))

    def _sum(self, log_prob: jax.Array, own: Layout, other: Layout) -> jax.Array:
        if self.tail is None:
            return own.total(log_prob)
        return divergence.length_desensitised(log_prob, own, other.lengths(), self.tail)
