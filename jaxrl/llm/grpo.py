"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) and its descendants.

Draw a group of answers to each prompt, score them, and take as advantage how much better each was
than its group: no critic. What the descendants change are fields: the loss (`losses.grpo`), the
advantage (`losses.advantages`), a KL penalty in the reward, soft limits on length, groups that
teach nothing drawn again (DAPO), a greedy answer as baseline (ReMax). `jaxrl.llm.methods` has them
by name.

The answers are drawn and learned from by one network in one program, so the first ratio is 1 up to
rounding, truncated sampling included; `sampler/max_difference` says how far off it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl import random
from jaxrl.llm import answers, tuning
from jaxrl.llm.answers import Answers
from jaxrl.llm.losses import advantages, diagnostics, grpo, kl, ppo, shaping
from jaxrl.llm.losses.aggregate import ByToken, Layout
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling
from jaxrl.llm.scoring import CHUNK
from jaxrl.llm.sharding import WHOLE, Shards
from jaxrl.llm.tuning import AdamW, Lora
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

Advantage = Callable[[jax.Array], jax.Array]
TokenAdvantage = Callable[[jax.Array, Layout], jax.Array]


@struct
class State:
    params: PyTree
    reference: PyTree  # the model as it began; None where nobody asks, or adapters have it as base
    opt: optax.OptState
    updates: Counter  # rollouts seen
    stopped: jax.Array  # bool: the KL passed `max_kl`, learning is over
    pending: Pending | None  # groups that wait until there are enough
    entropy: jax.Array  # that of the last update
    spec: Spec = static()


@struct
class Batch:
    """What a gradient step looks at, R rows."""

    rows: Answers
    advantage: jax.Array  # [R] or [R, L]
    ref: jax.Array  # [R, L] log-probabilities under the reference; zeros without one


@struct
class Pending:
    batch: Batch  # groups * G rows, of which the first `groups` groups count
    groups: jax.Array  # int32
    rounds: jax.Array  # int32: rollouts since the last update


@struct
class GRPO:
    network: Transformer = static("the policy; its config names the stop tokens")
    lr: Float = param("Adam's step size", default=1e-6, above=0)
    loss: grpo.PolicyLoss = param(
        "of log-probabilities and advantages", default=grpo.dapo(0.2, 0.2)
    )
    sampling: Sampling = param("how answers are drawn", default=Sampling())
    optimizer: AdamW = param("all about it but lr", default=AdamW())
    reward_kl: Float | None = param("weight of the KL in the reward", default=None, low=0)
    reward_limit: Float | None = param("rewards are kept within this", default=None, above=0)
    overlong: Float | None = param(
        "tokens before the limit in which the reward falls by 1", default=None, above=0
    )
    target_kl: Float | None = param(
        "no more epochs of an update beyond this KL from its start", default=None, above=0
    )
    max_kl: Float | None = param(
        "learning ends beyond this KL per token from the reference", default=None, above=0
    )
    prompts: int = static("questions per rollout", default=8, low=1)
    group: int = static("answers to each", default=8, low=1)
    epochs: int = static("passes over each rollout", default=1, low=1)
    minibatches: int = static("gradient steps per pass", default=1, low=1)
    parts: int = static("of a minibatch that follow one another, for memory", default=1, low=1)
    chunk: int = static("positions whose vocabulary is there at a time", default=CHUNK, low=1)
    greedy: int = static(
        "1: a greedy answer per group is the baseline (ReMax)", default=0, low=0, high=1
    )
    rounds: int = static(
        "rollouts per update at most, to fill it with groups that differ (DAPO)", default=1, low=1
    )
    watch: bool = static("keep the model as it began, to measure the KL", default=True)
    reward_estimator: kl.Estimator = static("of the KL in the reward", default=kl.k1)
    advantage: Advantage = static("of rewards [P, G]", default=advantages.standardised)
    token_advantage: TokenAdvantage | None = static("of token rewards [R, L] instead", default=None)
    lora: Lora | None = static("train adapters only", default=None)
    shards: Shards = static("devices that share the model", default=WHOLE)

    reset_every = 1  # every prompt is a fresh one

    @property
    def num_envs(self) -> int:
        return self.prompts * self.group

    @property
    def num_steps(self) -> int:
        return 1

    # ------------------------------------------------------------------------------ contract

    def init(self, key: Key, spec: Spec) -> State:
        tuning.accept(self.network)
        answers.check(spec, self.network)
        if self.group - self.greedy < 2 and not self.greedy and self.token_advantage is None:
            raise ValueError(
                "group=1: an answer is compared with its group; write group=2 or more."
            )
        rows = self.num_envs - self.greedy * self.prompts
        if rows % self.minibatches:
            raise ValueError(f"minibatches={self.minibatches} does not divide the {rows} answers.")
        size = rows // self.minibatches
        tuning.whole_parts(size, self.parts, f"the {size} answers of a minibatch")
        wanted = (self.loss.kl, self.reward_kl, self.max_kl)
        if not self.watch and any(x is not None for x in wanted):
            raise ValueError("watch=False keeps no reference, which a KL penalty or max_kl needs.")
        params = tuning.fresh(self.network, key, self.lora)
        state = State(
            params=params,
            reference=params if self.watch and self.lora is None else None,
            opt=self.optimizer.init(params),
            updates=Counter.zero(),
            stopped=jnp.array(False),
            pending=None,
            entropy=jnp.float32(jnp.nan),
            spec=spec,
        )
        state = dataclasses.replace(state, pending=self._nothing_pending(spec))
        return self.shards.state(state)

    def start_from(self, state: State, given: Any) -> State:
        """Parameters to begin with, which are the reference as well."""
        params = tuning.begin(state.params, given)
        kept = None if state.reference is None else params
        return self.shards.state(dataclasses.replace(state, params=params, reference=kept))

    def act(self, state: State, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        def ask(sampling: Sampling, prompts: jax.Array, key: Key, group: int) -> ActOut:
            return answers.draw(
                self.network, state.params, state.spec, prompts, key, sampling, group
            )

        best = dataclasses.replace(self.sampling, greedy=True)
        if not explore:
            return ask(best, obs, key, 1)
        if not self.greedy:
            return ask(self.sampling, obs, key, self.group)
        groups = obs.reshape(-1, self.group, obs.shape[1])  # the last of a group is the greedy one
        drawn = ask(self.sampling, groups[:, 1:].reshape(-1, obs.shape[1]), key, self.group - 1)
        sure = ask(best, groups[:, 0], key, 1)

        def both(x: jax.Array, y: jax.Array) -> jax.Array:
            x = x.reshape(len(groups), self.group - 1, *x.shape[1:])
            return jnp.concatenate([x, y[:, None]], axis=1).reshape(-1, *y.shape[1:])

        return jax.tree.map(both, drawn, sure)

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        """Advantages of the groups, then `epochs` shuffled passes of `minibatches` steps each."""
        rows = answers.from_rollout(rollout)
        batch, metrics, informative = self._prepared(state, rows)
        metrics |= answers.beside_gold(rollout)
        if self.rounds == 1:
            state, learned = self._learned(state, batch, key)
        else:
            state, learned, waiting = self._refilled(state, batch, informative, key)
            metrics |= waiting
        entropy = learned["policy/entropy"]
        metrics |= learned | {"policy/entropy_slope": entropy - state.entropy}
        kept = jnp.where(jnp.isnan(entropy), state.entropy, entropy)
        return dataclasses.replace(state, updates=state.updates.add(1), entropy=kept), metrics

    def learn(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step, in `parts`."""
        del key
        layout = batch.rows.layout
        count, tokens = self.loss.aggregate.count(layout), ByToken().count(layout)

        def loss(params: PyTree, part: Batch) -> tuple[jax.Array, Metrics]:
            own = part.rows.layout
            log_prob, entropy = answers.score(
                self.network, params, part.rows, self.sampling, self.chunk
            )
            value, metrics = self.loss(
                log_prob,
                part.rows.drawn.log_prob,
                part.advantage,
                own,
                ref=part.ref if self.loss.kl is not None else None,
                entropy=entropy,
                count=count,
                tokens=tokens,
            )
            drawn = part.rows.drawn.log_prob
            metrics |= diagnostics.sampler_mismatch(log_prob, drawn, own)
            metrics["policy/entropy"] = diagnostics.entropy(entropy, own)
            return value, metrics

        batch = self.shards.rows(batch)
        found, metrics = tuning.gradient(loss, state.params, batch, self.parts)
        share = tuning.share(state.updates, state.spec.steps // self.num_envs)
        params, opt, norm = self.optimizer.step(state.params, found, state.opt, self.lr, share)
        metrics["policy/gradient_norm"] = norm
        state = dataclasses.replace(state, params=params, opt=opt)
        return self.shards.state(state), metrics

    # --------------------------------------------------------------------------------- parts

    def _prepared(self, state: State, rows: Answers) -> tuple[Batch, Metrics, jax.Array]:
        """Rewards as they count and advantages; what there is to see before learning; and which
        groups [P] can teach anything."""
        metrics = answers.metrics(rows)
        ref = jnp.zeros_like(rows.drawn.log_prob)
        if self.watch:
            ref = answers.reference(self, state, rows)
            metrics |= diagnostics.kl_estimates(
                rows.drawn.log_prob, ref, rows.layout, "reference/kl"
            )
        reward = rows.reward
        if self.reward_limit is not None:
            reward = jnp.clip(reward, -self.reward_limit, self.reward_limit)
        if self.overlong is not None:
            limit = rows.tokens.shape[1]
            reward += shaping.overlong_penalty(rows.lengths, limit, self.overlong)
        gap = kl.log_ratio(rows.drawn.log_prob, ref, rows.layout)
        if self.reward_kl is not None and self.token_advantage is None:
            reward -= self.reward_kl * rows.layout.total(self.reward_estimator(gap))
        groups = reward.reshape(self.prompts, self.group)
        metrics |= diagnostics.group_metrics(groups)
        if self.greedy:
            advantage = advantages.remax(groups[:, :-1], groups[:, -1]).ravel()
            drawn = jnp.arange(self.num_envs).reshape(groups.shape)[:, :-1].ravel()
            rows, ref = answers.take((rows, ref), drawn)
        elif self.token_advantage is not None:
            beta = 0.0 if self.reward_kl is None else self.reward_kl
            token = ppo.token_rewards(
                jnp.nan_to_num(reward), self.reward_estimator(gap), rows.layout, beta=beta
            )
            advantage = self.token_advantage(token, rows.layout)
        else:
            advantage = self.advantage(groups).ravel()
        return Batch(rows, advantage, ref), metrics, ~advantages.degenerate(groups)

    def _learned(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        size = len(batch.rows.tokens)

        def epoch(carry: tuple[State, jax.Array], key: Key) -> tuple[Any, Metrics]:
            state, going = carry
            order = jnp.arange(size)
            if self.minibatches > 1:
                order = random.permutation(key, size)
            shuffled = answers.take(batch, order.reshape(self.minibatches, -1))
            learned, metrics = jax.lax.scan(lambda s, b: self.learn(s, b, key), state, shuffled)
            state = _where(going, learned, state)
            if self.target_kl is not None:
                going &= ~(metrics["policy/kl"].mean() > self.target_kl)
            return (state, going), metrics

        keys = jax.random.split(key, self.epochs)
        (state, _), metrics = jax.lax.scan(epoch, (state, ~state.stopped), keys)
        first = {n: x[0, 0] for n, x in metrics.items() if n.startswith("sampler/")}
        metrics = {n: jnp.nanmean(x) for n, x in metrics.items()} | first
        if self.max_kl is not None:
            layout = batch.rows.layout
            gap = kl.log_ratio(batch.rows.drawn.log_prob, batch.ref, layout)
            far = ByToken()(kl.k3(gap), layout) > self.max_kl
            state = dataclasses.replace(state, stopped=state.stopped | far)
            metrics["reference/stopped"] = state.stopped.astype(jnp.float32)
        return state, metrics

    # ----------------------------------------------------------------------- dynamic sampling

    def _nothing_pending(self, spec: Spec) -> Pending | None:
        if self.rounds == 1:
            return None
        if self.greedy:
            raise ValueError("rounds above 1 look for groups that differ, which greedy=1 does not.")
        R, (P, L) = self.num_envs, answers.rooms(spec)
        words = -(-self.network.config.vocab // 32)
        zeros = jnp.zeros((R, L))
        rows = Answers(
            prompt=jnp.zeros((R, P), jnp.int32),
            prompt_mask=jnp.zeros((R, P), bool),
            tokens=jnp.zeros((R, L), jnp.int32),
            mask=jnp.zeros((R, L), bool),
            drawn=answers.Drawn(
                log_prob=zeros,
                kept=jnp.zeros((R, L, words), jnp.uint32) if self.sampling.truncates else None,
                stopped=jnp.zeros(R, bool),
            ),
            reward=jnp.zeros(R),
        )
        per_token = self.token_advantage is not None
        batch = Batch(rows, zeros if per_token else jnp.zeros(R), zeros)
        return Pending(batch, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def _refilled(
        self, state: State, batch: Batch, informative: jax.Array, key: Key
    ) -> tuple[State, Metrics, Metrics]:
        """Keep the groups that differ; learn when there are `prompts` of them, or after `rounds`
        rollouts from those that there are. Nothing is learned in between, so all of them are of
        one policy, and the shapes are always the same."""
        assert state.pending is not None
        waiting = state.pending
        known = jnp.concatenate([jnp.arange(self.prompts) < waiting.groups, informative])
        order = jnp.argsort(~known, stable=True)[: self.prompts]

        def joined(old: jax.Array, new: jax.Array) -> jax.Array:
            both = jnp.concatenate([old, new]).reshape(2 * self.prompts, self.group, *new.shape[1:])
            return both[order].reshape(new.shape)

        batch = jax.tree.map(joined, waiting.batch, batch)
        groups = jnp.minimum(known.sum(), self.prompts).astype(jnp.int32)
        rounds = waiting.rounds + 1
        ready = (groups == self.prompts) | ((rounds >= self.rounds) & (groups > 0))
        counts = jnp.repeat(jnp.arange(self.prompts) < groups, self.group)
        rows = dataclasses.replace(batch.rows, mask=batch.rows.mask & counts[:, None])
        full = dataclasses.replace(batch, rows=rows)

        def learn(state: State) -> tuple[State, Metrics]:
            return self._learned(state, full, key)

        shapes = jax.eval_shape(learn, state)[1]

        def wait(state: State) -> tuple[State, Metrics]:
            return state, {n: jnp.full(x.shape, jnp.nan, x.dtype) for n, x in shapes.items()}

        after, metrics = jax.lax.cond(ready, learn, wait, state)
        state = dataclasses.replace(after, updates=state.updates)  # the same in all lanes
        over = ready | (rounds >= self.rounds)
        zero = jnp.zeros((), jnp.int32)
        pending = Pending(batch, jnp.where(over, zero, groups), jnp.where(over, zero, rounds))
        found = {
            "group/accepted": informative.mean(),
            "group/rounds": jnp.where(ready, rounds, jnp.nan),
            "group/learned": jnp.where(ready, groups, jnp.nan),
        }
        return dataclasses.replace(state, pending=pending), metrics, found


def _where(condition: jax.Array, new: State, old: State) -> State:
    """A select, not a branch: each lane of a vmap stops on its own."""
    params, opt = jax.tree.map(
        lambda x, y: jnp.where(condition, x, y), (new.params, new.opt), (old.params, old.opt)
    )
    return dataclasses.replace(new, params=params, opt=opt)
