"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).

Play a few steps in many environments; estimate how much better each action was than expected (GAE);
then take several passes of minibatch gradient steps on the clipped surrogate of equation 7, which
stops rewarding a policy for moving further than `clip` from the one that played. The defaults are
those of CleanRL for CartPole, except that the value loss is not clipped (which loses 200 points on
Pendulum); docs/ppo.md walks through the details of implementation.

With `actor=networks.GRU(64)` the policy remembers, and so does the value function with a `critic`
of that kind. A minibatch is then made of whole environments, each played again from the memory it
had when the rollout began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrl import mesh, networks, optim, policies, random, returns, sequences
from jaxrl.losses import policy as losses
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

Schedule = Callable[[jax.Array], jax.Array]


@struct
class State:
    params: PyTree  # {"actor": ..., "critic": ...}
    opt: optax.OptState
    updates: Counter  # rollouts learned from
    spec: Spec = static()


@struct
class Batch:
    """What one gradient step looks at; leading axis B, or [N, T] where anything remembers."""

    obs: jax.Array
    mask: jax.Array | None
    raw: jax.Array  # action as it was drawn, before clipping or squashing
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array
    first: jax.Array | None = None
    memory: PyTree = None  # [N, ...], at the beginning of each sequence


def _swap(batch: Batch) -> Batch:
    """[T, N, ...] to [N, T, ...], and back."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch)


@struct
class PPO:
    lr: Float = param("Adam's step size at the start", default=2.5e-4, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    lam: Float = param("GAE's trace decay", default=0.95, low=0, high=1)
    clip: Float = param("how far the probability ratio may move from 1", default=0.2, above=0)
    entropy: Float = param("weight of the entropy bonus", default=0.01, low=0)
    value_weight: Float = param("weight of the value loss", default=0.5, low=0)
    max_grad_norm: Float = param("global norm to which gradients are clipped", default=0.5, above=0)
    adam_eps: Float = param("Adam's epsilon", default=1e-5, above=0)
    target_kl: Float | None = param(
        "stop the epochs of an update beyond this KL", default=None, above=0
    )
    num_envs: int = static("parallel environments", default=4, low=1)
    num_steps: int = static("steps per environment and update", default=128, low=1)
    epochs: int = static("passes over each rollout", default=4, low=1)
    minibatches: int = static("gradient steps per pass", default=4, low=1)
    anneal_lr: Schedule = static("factor on lr over the run", default=optim.linear)
    anneal_clip: Schedule = static("factor on clip over the run", default=optim.constant)
    normalize_batch: Callable[[jax.Array], jax.Array] = static(
        "applied to the advantages of the whole rollout", default=optim.identity
    )
    normalize_minibatch: Callable[[jax.Array], jax.Array] = static(
        "applied to the advantages of each minibatch", default=losses.normalize
    )
    value_loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = static(
        "value, old value, target -> loss", default=losses.value_error
    )
    policy: policies.Continuous = static(
        "continuous actions: how bounded", default=policies.Gaussian
    )
    actor: nn.Module = static("torso of the policy", default=networks.MLP((64, 64)))
    critic: nn.Module = static("torso of the value function", default=networks.MLP((64, 64)))

    # ------------------------------------------------------------------------------ networks

    def _actor(self, spec: Spec) -> policies.Actor:
        return policies.Actor(self.actor, spec.action_space, scale=0.01)

    def _critic(self) -> networks.Headed:
        return networks.Headed(self.critic, outputs=1, scale=1.0)

    def _policy(
        self,
        params: PyTree,
        spec: Spec,
        x: jax.Array,
        mask: jax.Array | None,
        memory: PyTree = None,
        first: jax.Array | None = None,
    ) -> tuple[policies.Policy, PyTree]:
        outputs, memory = networks.run(self._actor(spec), params["actor"], x, memory, first)
        return policies.policy(outputs, spec.action_space, self.policy, mask), memory

    def value(self, state: State, obs: PyTree) -> jax.Array:
        """V(s), for any number of leading axes; of first observations, if the critic remembers."""
        return self._value(state.params, networks.prepare(state.spec.obs_space, obs))[0]

    def _value(
        self, params: PyTree, x: jax.Array, memory: PyTree = None, first: jax.Array | None = None
    ) -> tuple[jax.Array, PyTree]:
        out, memory = networks.run(self._critic(), params["critic"], x, memory, first)
        return out[..., 0], memory

    def _values(self, state: State, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
        """V(s_t) and V(s_{t+1}), [T, N]."""
        memory = None if rollout.memory is None else rollout.memory["critic"]
        if memory is None:
            return returns.rollout_values(lambda obs: self.value(state, obs), rollout, state.spec)

        def value(obs: PyTree, memory: PyTree, first: jax.Array | None) -> tuple[Any, PyTree]:
            x = networks.prepare(state.spec.obs_space, obs)
            return self._value(state.params, x, memory, first)

        now, last, final = sequences.outputs(value, rollout, memory, state.spec.time_limit)
        after = returns.next_values(now, last, final, rollout.truncated, state.spec.time_limit)
        return now, after

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam without its step size, which `learn` applies: the schedule runs over rollouts."""
        return optim.adam(1.0, self.max_grad_norm, self.adam_eps)

    def _share(self, state: State) -> jax.Array:
        """Of the run, what lies behind us: k / K during update k = 0 .. K-1."""
        total = max(1, state.spec.steps // (self.num_envs * self.num_steps))
        return jnp.minimum(state.updates.value / total, 1.0)

    # ------------------------------------------------------------------------------ contract

    def initial_memory(self, num_envs: int) -> PyTree:
        """{"actor": ..., "critic": ...}, or None where neither remembers."""
        torsos = {"actor": self.actor, "critic": self.critic}
        memory = {k: networks.initial_memory(torso, num_envs) for k, torso in torsos.items()}
        return None if all(m is None for m in memory.values()) else memory

    def init(self, key: Key, spec: Spec) -> State:
        steps = self.num_envs * self.num_steps
        remembers = self.initial_memory(1) is not None
        size, what = steps, f"num_envs={self.num_envs} x num_steps={self.num_steps} = {steps}"
        if remembers:
            size, what = self.num_envs, f"num_envs={self.num_envs}, whose sequences stay whole"
        if size % self.minibatches:
            most = min(self.minibatches, size + 1)
            raise ValueError(
                f"minibatches={self.minibatches} does not divide {what}; write for example "
                f"minibatches={max(m for m in range(1, most) if size % m == 0)}."
            )
        policies.check(spec.obs_space, spec.action_space, self.policy)
        networks.check_torso(self.actor, spec.obs_space, "actor", remembers=True)
        networks.check_torso(self.critic, spec.obs_space, "critic", remembers=True)
        actor_key, critic_key = jax.random.split(key)
        x = networks.example(spec.obs_space)
        params = {
            "actor": self._actor(spec).init(actor_key, x),
            "critic": self._critic().init(critic_key, x),
        }
        return State(params, self.optimizer.init(params), Counter.zero(), spec)

    def act(
        self, state: State, obs: PyTree, key: Key, explore: bool = True, memory: PyTree = None
    ) -> ActOut:
        space = state.spec.obs_space
        x, mask = networks.prepare(space, obs), policies.mask(space, obs)
        actor, critic = (None, None) if memory is None else (memory["actor"], memory["critic"])
        policy, actor = self._policy(state.params, state.spec, x, mask, actor)
        raw = policy.sample(key) if explore else policy.mode()
        if memory is not None:
            # Values are only asked for in updates, but must remember until then. A policy that was
            # read from a file has no critic.
            if explore and jax.tree.leaves(state.params["critic"]):
                _, critic = self._value(state.params, x, critic)
            memory = {"actor": actor, "critic": critic}
        return ActOut(policy.action(raw), (raw, policy.log_prob(raw)), memory)

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        """Advantages, then `epochs` shuffled passes in `minibatches` gradient steps each."""
        space = state.spec.obs_space
        value, next_value = self._values(state, rollout)
        advantage = returns.gae(
            rollout.reward,
            value,
            next_value,
            rollout.terminated,
            rollout.truncated,
            self.gamma,
            self.lam,
        )
        raw, log_prob = rollout.extras
        batch = Batch(
            obs=networks.prepare(space, rollout.obs),
            mask=policies.mask(space, rollout.obs),
            raw=raw,
            log_prob=log_prob,
            value=value,
            advantage=self.normalize_batch(advantage),
            target=advantage + value,
        )
        if rollout.memory is None:
            size = self.num_envs * self.num_steps
            batch = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), batch)  # [T, N] -> [B]
        else:
            size = self.num_envs
            batch = dataclasses.replace(batch, first=rollout.first)
            batch = dataclasses.replace(_swap(batch), memory=rollout.memory)  # [T, N] -> [N, T]

        def epoch(carry: tuple[State, jax.Array], key: Key) -> tuple[Any, Metrics]:
            state, going = carry
            order = random.permutation(key, size).reshape(self.minibatches, -1)
            shuffled = jax.tree.map(lambda x: x[order], batch)  # [M, B / M, ...]
            shuffled = mesh.spread(shuffled, axis=1)
            learned, metrics = jax.lax.scan(lambda s, b: self.learn(s, b, key), state, shuffled)
            if self.target_kl is None:
                return (learned, going), metrics
            # A select, not a branch: each lane of a vmap stops on its own.
            params, opt = jax.tree.map(
                lambda new, old: jnp.where(going, new, old),
                (learned.params, learned.opt),
                (state.params, state.opt),
            )
            state = dataclasses.replace(state, params=params, opt=opt)
            metrics = {name: jnp.where(going, x, jnp.nan) for name, x in metrics.items()}
            going &= ~(metrics["policy/kl"].mean() > self.target_kl)
            return (state, going), metrics

        keys = jax.random.split(key, self.epochs)
        (state, _), metrics = jax.lax.scan(epoch, (state, jnp.array(True)), keys)
        state = dataclasses.replace(state, updates=state.updates.add(1))
        return state, {
            **{name: jnp.nanmean(x) for name, x in metrics.items()},
            "value/mean": value.mean(),
            "value/explained_variance": losses.explained_variance(batch.value, batch.target),
        }

    def learn(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step."""
        del key
        share = self._share(state)
        clip = self.clip * self.anneal_clip(share)
        memory = {"actor": None, "critic": None}
        if batch.memory is not None:
            memory, batch = batch.memory, _swap(dataclasses.replace(batch, memory=None))
        advantage = self.normalize_minibatch(batch.advantage)

        def loss(params: PyTree) -> tuple[jax.Array, Metrics]:
            policy, _ = self._policy(
                params, state.spec, batch.obs, batch.mask, memory["actor"], batch.first
            )
            log_ratio = policy.log_prob(batch.raw) - batch.log_prob
            surrogate = losses.clipped_surrogate(log_ratio, advantage, clip)
            value, _ = self._value(params, batch.obs, memory["critic"], batch.first)
            value_loss = self.value_loss(value, batch.value, batch.target)
            entropy = policy.entropy().mean()
            total = surrogate + self.value_weight * value_loss - self.entropy * entropy
            return total, {
                "loss/policy": surrogate,
                "loss/value": value_loss,
                "policy/entropy": entropy,
                "policy/kl": losses.kl_estimate(log_ratio),
                "policy/clip_fraction": losses.clip_fraction(log_ratio, clip),
            }

        gradient, metrics = jax.grad(loss, has_aux=True)(state.params)
        direction, opt = self.optimizer.update(gradient, state.opt)
        lr = self.lr * self.anneal_lr(share)
        params = jax.tree.map(lambda p, d: p + lr * d, state.params, direction)
        return dataclasses.replace(state, params=params, opt=opt), metrics
