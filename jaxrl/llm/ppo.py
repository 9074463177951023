"""Proximal policy optimisation of a language model with a critic (Ziegler et al. 2019; Ouyang et
al. 2022, arXiv:2203.02155).

An answer is an episode whose actions are tokens: each costs the KL to the model that we began with,
the last one brings the reward. A critic, a transformer of its own with one number per token, says
what is still to come; generalised advantages, the clipped surrogate and the clipped value loss are
those of `losses.ppo` and `losses.grpo`. With `kl_target` a controller finds the weight of the KL.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl import random
from jaxrl.llm import answers, scorer, tuning
from jaxrl.llm.answers import Answers
from jaxrl.llm.losses import diagnostics, grpo, kl, ppo
from jaxrl.llm.losses.aggregate import ByToken
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling
from jaxrl.llm.scoring import CHUNK
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tuning import AdamW, Lora
from jaxrl.losses.policy import explained_variance
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec


@struct
class State:
    params: PyTree  # of the policy
    critic: PyTree  # {"trunk", "score"}
    reference: PyTree  # the policy as it began; None where adapters have it as base
    opt: dict[str, optax.OptState]
    beta: jax.Array  # weight of the KL
    updates: Counter
    spec: Spec = static()


@struct
class Batch:
    """What a gradient step looks at, R rows; rows that nobody could score have no tokens."""

    rows: Answers
    value: jax.Array  # [R, L] as it was
    advantage: jax.Array  # [R, L], whitened
    target: jax.Array  # [R, L]


@struct
class PPO:
    network: Transformer = static("the policy; its config names the stop tokens")
    critic: Transformer | None = static("of the critic; None: built as the policy", default=None)
    lr: Float = param("Adam's step size of the policy", default=1e-6, above=0)
    critic_lr: Float = param("Adam's step size of the critic", default=1e-5, above=0)
    gamma: Float = param("discount per token", default=1.0, low=0, high=1)
    lam: Float = param("GAE's trace decay", default=0.95, low=0, high=1)
    reward_kl: Float = param("weight of the KL in the reward, at the start", default=0.05, low=0)
    kl_target: Float | None = param(
        "KL of an answer that the weight is steered to", default=None, above=0
    )
    kl_horizon: Float = param("answers in which the weight may double", default=1e4, above=0)
    kl_limit: Float | None = param("of the KL of one token", default=None, above=0)
    reward_limit: Float | None = param("rewards are kept within this", default=None, above=0)
    value_clip: Float | None = param("how far a value may move", default=0.2, above=0)
    loss: grpo.PolicyLoss = param("of the policy", default=grpo.ppo_clip())
    sampling: Sampling = param("how answers are drawn", default=Sampling())
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    target_kl: Float | None = param(
        "no more epochs of an update beyond this KL from its start", default=None, above=0
    )
    prompts: int = static("questions per rollout", default=64, low=1)
    epochs: int = static("passes over each rollout", default=4, low=1)
    minibatches: int = static("gradient steps per pass", default=4, low=1)
    parts: int = static("of a minibatch that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    reward_estimator: kl.Estimator = static("of the KL in the reward", default=kl.k1)
    lora: Lora | None = static("train adapters only, of policy and critic", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    reset_every = 1  # every prompt is a fresh one

    @property
    def num_envs(self) -> int:
        return self.prompts

    @property
    def num_steps(self) -> int:
        return 1

    @property
    def _critic(self) -> Transformer:
        return self.network if self.critic is None else self.critic

    # ------------------------------------------------------------------------------ contract

    def init(self, key: Key, spec: Spec) -> State:
        tuning.accept(self.network)
        answers.check(spec, self.network)
        if self.prompts % self.minibatches:
            raise ValueError(
                f"minibatches={self.minibatches} does not divide prompts={self.prompts}."
            )
        size = self.prompts // self.minibatches
        tuning.whole_parts(size, self.parts, f"the {size} answers of a minibatch")
        policy_key, critic_key = jax.random.split(key)
        params = tuning.fresh(self.network, policy_key, self.lora)
        critic = scorer.fresh(self._critic, critic_key, self.lora)
        state = State(
            params=params,
            critic=critic,
            reference=params if self.lora is None else None,
            opt={"policy": self.optimizer.init(params), "critic": self.optimizer.init(critic)},
            beta=jnp.asarray(self.reward_kl, jnp.float32),
            updates=Counter.zero(),
            spec=spec,
        )
        return self.shards.state(state)

    def start_from(self, state: State, given: Any) -> State:
        """The parameters of a language model for policy, reference and the critic's trunk; or
        {"policy": ..., "critic": ...}, where a reward model makes a good critic."""
        both = given if isinstance(given, dict) and "policy" in given else {"policy": given}
        params = tuning.begin(state.params, both["policy"])
        critic = state.critic
        if "critic" in both:
            critic = scorer.begin(critic, both["critic"])
        elif self.critic is None:
            critic = scorer.begin(critic, both["policy"])
        kept = None if state.reference is None else params
        state = dataclasses.replace(state, params=params, critic=critic, reference=kept)
        return self.shards.state(state)

    def act(self, state: State, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        sampling = self.sampling
        if not explore:
            sampling = dataclasses.replace(sampling, greedy=True)
        return answers.draw(self.network, state.params, state.spec, obs, key, sampling, 1)

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        """Token rewards, advantages, then `epochs` shuffled passes of `minibatches` steps each."""
        rows = answers.from_rollout(rollout)
        metrics = answers.metrics(rows) | answers.beside_gold(rollout)
        scored = ~jnp.isnan(rows.reward)
        rows = dataclasses.replace(rows, mask=rows.mask & scored[:, None])
        layout = rows.layout
        ref = answers.reference(self, state, rows)
        gap = kl.log_ratio(rows.drawn.log_prob, ref, layout)
        metrics |= diagnostics.kl_estimates(rows.drawn.log_prob, ref, layout, "reference/kl")
        reward = ppo.token_rewards(
            jnp.nan_to_num(rows.reward),
            self.reward_estimator(gap),
            layout,
            beta=state.beta,
            score_limit=self.reward_limit,
            kl_limit=self.kl_limit,
        )
        value = self._values(state, rows)
        advantage, target = ppo.gae(reward, value, layout, gamma=self.gamma, lam=self.lam)
        batch = Batch(rows, value, ppo.whiten(advantage, layout), target)
        state, learned = self._learned(state, batch, key)
        of_answer = (layout.total(gap) * scored).sum() / jnp.maximum(scored.sum(), 1)
        beta = self._steered(state.beta, of_answer)
        known = layout.mask
        metrics |= learned | {
            "reference/kl_answer": of_answer,
            "reference/beta": state.beta,
            "value/mean": ByToken()(value, layout),
            "value/explained_variance": explained_variance(
                jnp.where(known, value, 0.0), jnp.where(known, target, 0.0)
            ),
        }
        return dataclasses.replace(state, beta=beta, updates=state.updates.add(1)), metrics

    def learn(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step of policy and critic, in `parts`."""
        del key
        count = ByToken().count(batch.rows.layout)
        of_loss = self.loss.aggregate.count(batch.rows.layout)

        def loss(params: PyTree, part: Batch) -> tuple[jax.Array, Metrics]:
            rows, layout = part.rows, part.rows.layout
            log_prob, entropy = answers.score(
                self.network, params["policy"], rows, self.sampling, self.chunk
            )
            policy, metrics = self.loss(
                log_prob,
                rows.drawn.log_prob,
                part.advantage,
                layout,
                entropy=entropy,
                count=of_loss,
                tokens=count,
            )
            value = self._values_of(params["critic"], rows)
            critic = ppo.value_loss(
                value, part.value, part.target, layout, clip=self.value_clip, count=count
            )
            metrics |= diagnostics.sampler_mismatch(log_prob, rows.drawn.log_prob, layout)
            metrics["policy/entropy"] = diagnostics.entropy(entropy, layout)
            metrics |= {"loss/value": critic, "loss/total": policy + critic}
            return policy + critic, metrics

        params = {"policy": state.params, "critic": state.critic}
        batch = self.shards.rows(batch)
        found, metrics = tuning.gradient(loss, params, batch, self.parts)
        share = tuning.share(state.updates, state.spec.steps // self.num_envs)
        opt, rates = {}, {"policy": self.lr, "critic": self.critic_lr}
        for name, rate in rates.items():  # two optimisers: neither clips the other's gradient
            params[name], opt[name], norm = self.optimizer.step(
                params[name], found[name], state.opt[name], rate, share
            )
            side = "value" if name == "critic" else name
            metrics[f"{side}/gradient_norm"] = norm
        state = dataclasses.replace(
            state, params=params["policy"], critic=params["critic"], opt=opt
        )
        return self.shards.state(state), metrics

    # --------------------------------------------------------------------------------- parts

    def _values_of(self, critic: PyTree, rows: Answers) -> jax.Array:
        return scorer.of_answers(
            self._critic, critic, rows.prompt, rows.prompt_mask, rows.tokens, rows.mask
        )

    def _values(self, state: State, rows: Answers) -> jax.Array:
        return tuning.in_parts(lambda rows: self._values_of(state.critic, rows), rows, self.parts)

    def _steered(self, beta: jax.Array, found: jax.Array) -> jax.Array:
        if self.kl_target is None:
            return beta
        control = kl.AdaptiveKL(beta=beta, target=self.kl_target, horizon=self.kl_horizon)
        return jnp.asarray(control.step(found, self.prompts).beta, jnp.float32)

    def _learned(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        def epoch(carry: tuple[State, jax.Array], key: Key) -> tuple[Any, Metrics]:
            state, going = carry
            order = random.permutation(key, self.prompts).reshape(self.minibatches, -1)
            learned, metrics = jax.lax.scan(
                lambda s, b: self.learn(s, b, key), state, answers.take(batch, order)
            )
            # A select, not a branch: each lane of a vmap stops on its own. Counters have no lanes.
            after = jax.tree.map(lambda x, y: jnp.where(going, x, y), learned, state)
            state = dataclasses.replace(after, updates=state.updates)
            if self.target_kl is not None:
                going &= ~(metrics["policy/kl"].mean() > self.target_kl)
            return (state, going), metrics

        keys = jax.random.split(key, self.epochs)
        (state, _), metrics = jax.lax.scan(epoch, (state, jnp.array(True)), keys)
        first = {n: x[0, 0] for n, x in metrics.items() if n.startswith("sampler/")}
        return state, {n: jnp.nanmean(x) for n, x in metrics.items()} | first
