"""On-policy distillation (GKD, Agarwal et al. 2024, arXiv:2306.13649).

The student answers, and at each token of its own answer learns the whole distribution of the
teacher: it is taught where it will be, not where the teacher would have gone. `divergence` says
what is made small, `losses.distillation` has the generalised Jensen-Shannon divergence and both
directions of the KL.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import optax

from jaxrl.llm import answers, tuning
from jaxrl.llm.answers import Answers
from jaxrl.llm.lora import variables
from jaxrl.llm.losses import distillation
from jaxrl.llm.losses.aggregate import ByToken
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling
from jaxrl.llm.scoring import CHUNK, answer_states
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tuning import AdamW, Lora
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec


@struct
class State:
    params: PyTree
    teacher: PyTree
    opt: optax.OptState
    updates: Counter
    spec: Spec = static()


@struct
class Distill:
    network: Transformer = static("the student; its config names the stop tokens")
    teacher: Transformer = static("of the same vocabulary")
    lr: Float = param("Adam's step size", default=1e-5, above=0)
    temperature: Float = param("of both, when they are compared", default=1.0, above=0)
    sampling: Sampling = param("how the student answers", default=Sampling())
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    prompts: int = static("questions per rollout", default=32, low=1)
    parts: int = static("of a rollout that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    divergence: distillation.Divergence = static(
        "of the log-probabilities of student and teacher", default=distillation.GeneralisedJSD()
    )
    lora: Lora | None = static("train adapters only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    reset_every = 1  # every prompt is a fresh one

    @property
    def num_envs(self) -> int:
        return self.prompts

    @property
    def num_steps(self) -> int:
        return 1

    def init(self, key: Key, spec: Spec) -> State:
        for network in (self.network, self.teacher):
            tuning.accept(network)
            answers.check(spec, network)
        tuning.whole_parts(self.prompts, self.parts, f"prompts={self.prompts}")
        ours, theirs = (n.config.vocab for n in (self.network, self.teacher))
        if ours != theirs:
            raise ValueError(
                f"the student has {ours} tokens and the teacher {theirs}: they must be the same."
            )
        own, other = jax.random.split(key)
        params = tuning.fresh(self.network, own, self.lora)
        teacher = tuning.fresh(self.teacher, other, None)
        opt = self.optimizer.init(params)
        return self.shards.state(State(params, teacher, opt, Counter.zero(), spec))

    def start_from(self, state: State, given: Any) -> State:
        """{"teacher": its parameters, "student": those to begin with, or random if left out}."""
        if not isinstance(given, dict) or "teacher" not in given:
            raise ValueError('start= must be {"teacher": parameters, "student": parameters}.')
        teacher = tuning.begin(state.teacher, given["teacher"])
        params = state.params
        if "student" in given:
            params = tuning.begin(params, given["student"])
        state = dataclasses.replace(state, params=params, teacher=teacher)
        return self.shards.state(state)

    def act(self, state: State, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        sampling = self.sampling
        if not explore:
            sampling = dataclasses.replace(sampling, greedy=True)
        return answers.draw(self.network, state.params, state.spec, obs, key, sampling, 1)

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        rows = answers.from_rollout(rollout)
        seen = answers.metrics(rows) | answers.beside_gold(rollout)
        state, metrics = self.learn(state, rows, key)
        return state, metrics | seen

    def learn(self, state: State, batch: Answers, key: Key) -> tuple[State, Metrics]:
        """One gradient step on the student's answers."""
        del key
        count = ByToken().count(batch.layout)

        def states(network: Transformer, params: PyTree, rows: Answers) -> jax.Array:
            weights = variables(params)
            return answer_states(
                network, weights, rows.prompt, rows.prompt_mask, rows.tokens, rows.mask
            )

        def logits(network: Transformer, params: PyTree, x: jax.Array) -> jax.Array:
            found: Any = network.apply(variables(params), x, method="head")
            return found / self.temperature

        def loss(params: PyTree, rows: Answers) -> tuple[jax.Array, Metrics]:
            each = distillation.token_divergence(
                self.divergence,
                partial(logits, self.network, params),
                partial(logits, self.teacher, state.teacher),
                states(self.network, params, rows),
                jax.lax.stop_gradient(states(self.teacher, state.teacher, rows)),
                chunk=self.chunk,
            )
            total = ByToken()(each, rows.layout, count)
            return total, {"loss/total": total}

        batch = self.shards.rows(batch)
        found, metrics = tuning.gradient(loss, state.params, batch, self.parts)
        share = tuning.share(state.updates, state.spec.steps // self.num_envs)
        params, opt, norm = self.optimizer.step(state.params, found, state.opt, self.lr, share)
        metrics["policy/gradient_norm"] = norm
        updates = state.updates.add(1)
        state = dataclasses.replace(state, params=params, opt=opt, updates=updates)
        return self.shards.state(state), metrics
