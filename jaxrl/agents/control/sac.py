"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905).

An off-policy actor-critic for continuous actions that is paid for being unpredictable. Critics fit
r + gamma (min_k Q_k(s', a') - alpha log pi(a'|s')) with a' freshly drawn; the actor follows the
gradient of Q - alpha log pi through its own tanh-Gaussian sample; the temperature alpha is itself
adjusted until the policy has the target entropy.

Inside the agent actions lie in -1 .. 1, where log-densities and the target entropy are measured, so
neither depends on the units of the environment; `act` returns them in the environment's box.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrl import networks, policies, replay, spaces
from jaxrl.distributions import TanhNormal
from jaxrl.losses import value as losses
from jaxrl.replay import Batch, Replay
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

LOG_STD = (-5.0, 2.0)
"""Range of the policy's log-standard deviation, reached smoothly through a tanh."""


@struct
class State:
    actor: PyTree
    critic: PyTree  # every leaf [K, ...]
    target: PyTree  # slow copy of the critics
    log_alpha: jax.Array
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    alpha_opt: optax.OptState
    replay: Replay | None
    env_steps: Counter  # per environment
    spec: Spec = static()


class Critic(nn.Module):
    """Q(s, a) of one member of the ensemble: the torso sees the action beside the observation."""

    torso: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array, action: jax.Array) -> jax.Array:
        both = jnp.concatenate([x, action], axis=-1)
        return networks.Headed(self.torso, 1)(both)[..., 0]


@struct
class SAC:
    actor_lr: Float = param("Adam's step size for the actor", default=1e-3, above=0)
    critic_lr: Float = param("Adam's step size for the critics", default=1e-3, above=0)
    alpha_lr: Float = param(
        "Adam's step size for the log-temperature; 0 keeps alpha_start", default=1e-3, low=0
    )
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    tau: Float = param(
        "share of the critics that their slow copies take on", default=0.005, above=0, high=1
    )
    alpha_start: Float = param("temperature at the start", default=1.0, above=0)
    target_entropy: Float | None = param("nats of entropy aimed at; None is -actions", default=None)
    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)
    grad_steps: int | None = static("per update; None is one for each new transition", default=None)
    batch_size: int = static("transitions per gradient step", default=256, low=1)
    capacity: int = static("transitions in the replay", default=1_000_000, low=1)
    learning_starts: int = static(
        "environment steps of uniformly random actions", default=1_000, low=0
    )
    n_steps: int = static("rewards in a target", default=1, low=1)
    critics: int = static("size of the ensemble whose least value counts", default=2, low=1)
    actor: nn.Module = static(
        "torso of the policy", default=networks.MLP((256, 256), activation=nn.relu)
    )
    critic: nn.Module = static(
        "torso of a critic", default=networks.MLP((256, 256), activation=nn.relu)
    )

    # ------------------------------------------------------------------------------ networks

    def _policy(self, params: PyTree, spec: Spec, x: jax.Array) -> TanhNormal:
        out: Any = self._actor(spec).apply(params, x)
        loc, spread = jnp.split(out, 2, axis=-1)
        low, high = LOG_STD
        return TanhNormal(loc, low + 0.5 * (high - low) * (jnp.tanh(spread) + 1.0))

    def _actor(self, spec: Spec) -> networks.Headed:
        return networks.Headed(self.actor, 2 * spaces.size(spec.action_space), scale=0.01)

    def q(self, params: PyTree, x: jax.Array, action: jax.Array) -> jax.Array:
        """Of every critic, [K, B], for actions in -1 .. 1."""
        member = Critic(self.critic)
        out: Any = jax.vmap(member.apply, in_axes=(0, None, None))(params, x, action)
        return out

    @property
    def updates_per_rollout(self) -> int:
        """The update-to-data ratio is this over num_envs * num_steps: 1 unless you say otherwise,
        so that N environments take N gradient steps for each step they make together."""
        new = self.num_envs * self.num_steps
        return new if self.grad_steps is None else self.grad_steps

    # ------------------------------------------------------------------------------ contract

    def memory(self, spec: Spec) -> int:
        """Bytes of one run's replay."""
        return replay.bytes_needed(spec, self.capacity, self.num_envs)

    def init(self, key: Key, spec: Spec) -> State:
        space = spec.action_space
        if not isinstance(space, spaces.Box):
            raise TypeError(
                f"SAC needs a Box action space, not {spaces.describe(space)}: use jaxrl.DQN() or "
                "jaxrl.PPO() for discrete actions."
            )
        policies.check(spec.obs_space, space, policies.TanhGaussian)
        if self.grad_steps is not None and self.grad_steps < 1:
            raise ValueError(f"grad_steps={self.grad_steps} must be at least 1, or None.")
        networks.check_torso(self.actor, spec.obs_space, "actor")
        networks.check_torso(self.critic, spec.obs_space, "critic")
        buffer = replay.init(spec, self.capacity, self.num_envs)
        steps = self.num_steps + self.n_steps
        replay.check_room(buffer, steps, self.batch_size, self.learning_starts)
        actor_key, critic_key = jax.random.split(key)
        x, action = networks.example(spec.obs_space), jnp.zeros((1, *space.shape))
        actor = self._actor(spec).init(actor_key, x)
        keys = jax.random.split(critic_key, self.critics)
        critic = jax.vmap(Critic(self.critic).init, in_axes=(0, None, None))(keys, x, action)
        log_alpha = jnp.log(jnp.asarray(self.alpha_start, jnp.float32))
        return State(
            actor=actor,
            critic=critic,
            target=jax.tree.map(jnp.copy, critic),
            log_alpha=log_alpha,
            actor_opt=optax.adam(1.0).init(actor),
            critic_opt=optax.adam(1.0).init(critic),
            alpha_opt=optax.adam(1.0).init(log_alpha),
            replay=buffer,
            env_steps=Counter.zero(),
            spec=spec,
        )

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        space = state.spec.action_space
        assert isinstance(space, spaces.Box)
        center, half_width = policies.box(space)
        policy = self._policy(state.actor, state.spec, networks.prepare(state.spec.obs_space, obs))
        if not explore:
            return ActOut(center + half_width * policy.mode())

        def uniform(key: Key) -> jax.Array:
            return jax.random.uniform(key, policy.loc.shape, minval=-1.0, maxval=1.0)

        warm = state.env_steps.value * self.num_envs >= self.learning_starts
        action = jax.lax.cond(warm, policy.sample, uniform, key)
        return ActOut(center + half_width * action)

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        """Store the rollout; once warm, take gradient steps on fresh batches."""
        assert state.replay is not None
        buffer = replay.add(state.replay, rollout)
        env_steps = state.env_steps.add(self.num_steps)
        state = dataclasses.replace(state, replay=None, env_steps=env_steps)

        def step(state: State, key: Key) -> tuple[State, Metrics]:
            draw_key, learn_key = jax.random.split(key)
            batch = replay.sample(buffer, draw_key, self.batch_size, self.n_steps, self.gamma)
            return self.learn(state, batch, learn_key)

        def learn(state: State) -> tuple[State, Metrics]:
            if self.updates_per_rollout == 1:
                return step(state, key)
            keys = jax.random.split(key, self.updates_per_rollout)
            state, metrics = jax.lax.scan(step, state, keys)
            return state, jax.tree.map(jnp.mean, metrics)

        def wait(state: State) -> tuple[State, Metrics]:
            shapes = jax.eval_shape(learn, state)[1]
            return state, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

        # Counters are the same in all lanes of a vmap: this stays a branch.
        first = max(-(-self.learning_starts // self.num_envs), self.n_steps)
        state, metrics = jax.lax.cond(env_steps.value >= first, learn, wait, state)
        return dataclasses.replace(state, replay=buffer), metrics

    def learn(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step: critics, then actor and temperature, then the slow copies."""
        spec = state.spec
        space = spec.action_space
        assert isinstance(space, spaces.Box)
        center, half_width = policies.box(space)
        action = (batch.action - center) / half_width
        x = networks.prepare(spec.obs_space, batch.obs)
        next_x = networks.prepare(spec.obs_space, batch.next_obs)
        alpha = jnp.exp(state.log_alpha)
        goal = self.target_entropy
        goal = -float(math.prod(space.shape)) if goal is None else goal
        now_key, next_key = jax.random.split(key)

        next_policy = self._policy(state.actor, spec, next_x)
        next_action, next_log_prob = next_policy.sample_and_log_prob(next_key)
        next_q = self.q(state.target, next_x, next_action)
        next_value = losses.soft_value(next_q, next_log_prob, alpha)
        target = losses.td_target(batch.reward, batch.discount, next_value)

        def critic_loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            q = self.q(params, x, action)  # [K, B]
            losses.same_shape(q[0], target)
            each = jax.vmap(losses.weighted_mean, in_axes=(0, None))(
                losses.squared(q - target), batch.weight
            )
            return jnp.sum(each), jnp.mean(q)

        (critic_value, q), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
        critic, critic_opt = _adam(state.critic, gradient, state.critic_opt, self.critic_lr)

        def actor_loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            new, log_prob = self._policy(params, spec, x).sample_and_log_prob(now_key)
            value = losses.soft_value(self.q(critic, x, new), log_prob, alpha)
            return -jnp.mean(value), log_prob

        (actor_value, log_prob), gradient = jax.value_and_grad(actor_loss, has_aux=True)(
            state.actor
        )
        actor, actor_opt = _adam(state.actor, gradient, state.actor_opt, self.actor_lr)

        alpha_value, gradient = jax.value_and_grad(losses.temperature_loss)(
            state.log_alpha, log_prob, goal
        )
        log_alpha, alpha_opt = _adam(state.log_alpha, gradient, state.alpha_opt, self.alpha_lr)

        slow = jax.tree.map(lambda t, o: losses.polyak(t, o, self.tau), state.target, critic)
        state = dataclasses.replace(
            state,
            actor=actor,
            critic=critic,
            target=slow,
            log_alpha=log_alpha,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
            alpha_opt=alpha_opt,
        )
        return state, {
            "loss/critic": critic_value,
            "loss/actor": actor_value,
            "loss/temperature": alpha_value,
            "policy/entropy": -jnp.mean(log_prob),
            "policy/temperature": alpha,
            "q/mean": q,
        }


def _adam(
    params: PyTree, gradient: PyTree, opt: optax.OptState, lr: Float
) -> tuple[PyTree, optax.OptState]:
    """One step of Adam: -> parameters, optimiser state."""
    direction, opt = optax.adam(1.0).update(gradient, opt)
    return jax.tree.map(lambda p, d: p + lr * d, params, direction), opt
