"""Preferences without a reference model: CPO (Xu et al. 2024, arXiv:2401.08417), and with other
losses SimPO, AlphaPO and ORPO.

Half of the memory and of the time of DPO. What keeps the policy from drifting away is the
likelihood of the chosen answers, weighted by `nll`; SimPO has none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm import answers, pairs, tuning
from jaxrl.llm.losses import dpo, reference_free, sft
from jaxrl.llm.losses.aggregate import ByToken, Layout, average
from jaxrl.llm.model import Transformer
from jaxrl.llm.scoring import CHUNK
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tuning import AdamW, Lora, Tuned
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Spec

SidesLoss = Callable[[jax.Array, jax.Array], jax.Array]
"""Log-probabilities of chosen and rejected answers [B], sums or means -> [B]"""

PLAIN = partial(reference_free.cpo, beta=0.1)


@struct
class CPO:
    network: Transformer = static("the policy")
    lr: Float = param("Adam's step size", default=1e-6, above=0)
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    weight: Float = param("of the preference loss", default=1.0, low=0)
    nll: Float = param("weight of the chosen answers' likelihood", default=1.0, low=0)
    batch_size: int = static("pairs per step", default=32, low=1)
    parts: int = static("of a batch that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    means: bool = static("the loss takes means over tokens, not sums", default=False)
    prompts: bool = static("the likelihood is that of prompt and answer", default=False)
    loss: SidesLoss = static("of log-probabilities", default=PLAIN)
    lora: Lora | None = static("train adapters only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    def init(self, key: Key, spec: Spec) -> Tuned:
        return tuning.begun(self, key, spec, watch=False)

    def start_from(self, state: Tuned, given: Any) -> Tuned:
        return tuning.begun_with(self, state, tuning.begin(state.params, given))

    def act(self, state: Tuned, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        return answers.reply(self, state, obs, key, explore)

    def learn(self, state: Tuned, batch: PyTree, key: Key) -> tuple[Tuned, Metrics]:
        """One gradient step on {"chosen": rows, "rejected": rows}, see `jaxrl.llm.pairs`."""
        del key
        tokens = ByToken().count(self._likely(batch["chosen"]))

        def loss(params: PyTree, part: PyTree) -> tuple[jax.Array, Metrics]:
            good, bad = (pairs.layout(part[side]) for side in pairs.SIDES)
            own = pairs.score(self.network, params, part, self.chunk)
            take = Layout.mean if self.means else Layout.total
            chosen, rejected = take(good, own.chosen.log_prob), take(bad, own.rejected.log_prob)
            preference = average(self.loss(chosen, rejected), count=self.batch_size)
            nll = sft.nll(own.chosen.log_prob, self._likely(part["chosen"]), count=tokens)
            total = self.weight * preference + self.nll * nll
            zero = jnp.zeros_like(chosen)
            found = dpo.Pairs(chosen, rejected, zero, zero, good.lengths(), bad.lengths())
            return total, {
                "loss/total": total,
                "loss/preference": preference,
                "loss/nll": nll,
                **pairs.metrics(found, own, good, bad),
            }

        return tuning.stepped(self, state, loss, batch)

    def _likely(self, rows: dict[str, jax.Array]) -> Layout:
        """The tokens whose likelihood is raised; nothing stands before the first of a row."""
        if not self.prompts:
            return pairs.layout(rows)
        segments = rows["segments"]
        before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        return Layout((segments > 0) & (segments == before))
