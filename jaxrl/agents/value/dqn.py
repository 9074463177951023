"""Deep Q-network (Mnih et al. 2015), with the parts from which Rainbow is built.

Act epsilon-greedily, keep what happened in a replay, and fit Q(s, a) to r + gamma V(s'), where V
comes from an older copy of the network. Each part is a field: `target=losses.max_value` is plain
Q-learning and `losses.double_value` (the default) Double Q-learning (van Hasselt et al. 2016);
`head=networks.Dueling` is the dueling network; `n_steps` lengthens the return;
`sampler=Prioritized()` is prioritised replay; `copy=Polyak(0.005)` moves the older copy smoothly.

`loss=losses.huber` is for rewards clipped to -1 .. 1 that are rare, as in Atari games. Where every
step pays and only an episode's end does not (CartPole), it weighs the few large errors of endings
no more than the many small ones between them, and the values grow without bound: measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrl import exploration, networks, optim, policies, replay, spaces
from jaxrl.losses import value as losses
from jaxrl.priority import Prioritized
from jaxrl.replay import Batch, Replay, Uniform
from jaxrl.struct import Float, param, static, struct
from jaxrl.targets import Hard, Polyak
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

NextValue = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


@struct
class State:
    params: PyTree
    target: PyTree
    opt: optax.OptState
    replay: Replay | None
    sampler: PyTree
    env_steps: Counter  # per environment
    grad_steps: Counter
    spec: Spec = static()


@struct
class DQN:
    lr: Float = param("Adam's step size at the start", default=2.5e-4, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    epsilon_start: Float = param("share of random actions at the start", default=1.0, low=0, high=1)
    epsilon_end: Float = param(
        "share of random actions after exploration", default=0.05, low=0, high=1
    )
    explore_share: Float = param(
        "share of the run over which epsilon falls", default=0.5, above=0, high=1
    )
    max_grad_norm: Float = param(
        "global norm to which gradients are clipped", default=10.0, above=0
    )
    adam_eps: Float = param("Adam's epsilon", default=1e-8, above=0)
    num_envs: int = static("parallel environments", default=10, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)
    grad_steps: int = static("gradient steps per update", default=1, low=1)
    batch_size: int = static("windows per gradient step", default=128, low=1)
    capacity: int = static("transitions in the replay", default=10_000, low=1)
    learning_starts: int = static(
        "environment steps before the first gradient step", default=1_000, low=0
    )
    n_steps: int = static("rewards in a target", default=1, low=1)
    frame_stack: int = static("frames that the environment stacks (FrameStack)", default=1, low=1)
    sampler: Uniform | Prioritized = param("how windows are drawn", default=Uniform())
    copy: Hard | Polyak = param("how the target network follows", default=Hard())
    target: NextValue = static("online Q, target Q, mask -> V(s')", default=losses.double_value)
    loss: Callable[[jax.Array], jax.Array] = static(
        "of each TD error, or huber", default=losses.squared
    )
    anneal_lr: Callable[[jax.Array], jax.Array] = static("factor on lr", default=optim.constant)
    torso: nn.Module = static("features of Q", default=networks.MLP((120, 84), activation=nn.relu))
    head: Callable[..., nn.Module] = static(
        "networks.Headed or networks.Dueling", default=networks.Headed
    )

    # ------------------------------------------------------------------------------ networks

    def q(self, params: PyTree, spec: Spec, obs: PyTree) -> jax.Array:
        """Q(s, .), [..., A]."""
        x = networks.prepare(spec.obs_space, obs)
        out: Any = self._network(spec).apply(params, x)
        return out

    def _network(self, spec: Spec) -> nn.Module:
        return self.head(self.torso, spaces.size(spec.action_space))

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Without the step size, which the gradient step applies."""
        return optim.adam(1.0, self.max_grad_norm, self.adam_eps)

    def _share(self, state: State) -> jax.Array:
        """Of the run, what lies behind us."""
        total = max(1, state.spec.steps // self.num_envs)
        return jnp.minimum(state.env_steps.value / total, 1.0)

    def epsilon(self, state: State) -> jax.Array:
        share = self._share(state)
        return exploration.decayed(self.epsilon_start, self.epsilon_end, share, self.explore_share)

    # ------------------------------------------------------------------------------ contract

    def memory(self, spec: Spec) -> int:
        """Bytes of one run's replay."""
        each = replay.bytes_needed(spec, self.capacity, self.num_envs, stack=self.frame_stack)
        if isinstance(self.sampler, Prioritized):  # the tree has a float for each row, and its sums
            each += int((self.capacity + self.num_envs) * 4 * 1.07)
        return each

    def init(self, key: Key, spec: Spec) -> State:
        if not isinstance(spec.action_space, spaces.Discrete):
            raise TypeError(
                f"DQN needs a Discrete action space, not {spaces.describe(spec.action_space)}: use "
                "jaxrl.SAC() or jaxrl.PPO() for continuous actions, or a wrapper that lists the "
                "choices as one Discrete."
            )
        policies.check(spec.obs_space, spec.action_space, policies.Gaussian)
        networks.check_torso(self.torso, spec.obs_space, "torso")
        buffer = replay.init(spec, self.capacity, self.num_envs, self.frame_stack)
        needed = self.num_steps + self.n_steps + self.frame_stack
        replay.check_room(buffer, needed, self.batch_size, self.learning_starts)
        params = self._network(spec).init(key, networks.example(spec.obs_space))
        return State(
            params=params,
            target=jax.tree.map(jnp.copy, params),
            opt=self.optimizer.init(params),
            replay=buffer,
            sampler=self.sampler.init(buffer),
            env_steps=Counter.zero(),
            grad_steps=Counter.zero(),
            spec=spec,
        )

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        mask = policies.mask(state.spec.obs_space, obs)
        q = self.q(state.params, state.spec, obs)  # [N, A]
        if not explore:
            return ActOut(losses.greedy(q, mask))
        return ActOut(exploration.epsilon_greedy(key, q, mask, self.epsilon(state)))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        """Store the rollout; once warm, draw `grad_steps` batches and learn from each."""
        assert state.replay is not None
        buffer = replay.add(state.replay, rollout)
        sampler = self.sampler.added(state.sampler, buffer, self.num_steps, self.n_steps)
        env_steps = state.env_steps.add(self.num_steps)
        state = dataclasses.replace(state, replay=None, sampler=sampler, env_steps=env_steps)
        share = self._share(state)

        def step(state: State, key: Key) -> tuple[State, Metrics]:
            index = self.sampler.draw(
                state.sampler, buffer, key, self.batch_size, self.n_steps, share
            )
            batch = replay.gather(buffer, index, self.n_steps, self.gamma)
            state, metrics, error = self._step(state, batch)
            sampler = self.sampler.learned(state.sampler, buffer, index, error)
            return dataclasses.replace(state, sampler=sampler), metrics

        def learn(state: State) -> tuple[State, Metrics]:
            if self.grad_steps == 1:
                return step(state, key)
            state, metrics = jax.lax.scan(step, state, jax.random.split(key, self.grad_steps))
            return state, jax.tree.map(jnp.mean, metrics)

        def wait(state: State) -> tuple[State, Metrics]:
            nan = jnp.full((), jnp.nan)
            return state, {"loss/td": nan, "q/mean": nan}

        # Counters are the same in all lanes of a vmap: this stays a branch.
        first = -(-max(self.learning_starts, self.n_steps * self.num_envs) // self.num_envs)
        state, metrics = jax.lax.cond(env_steps.value >= first, learn, wait, state)
        metrics["policy/epsilon"] = self.epsilon(state)
        return dataclasses.replace(state, replay=buffer), metrics

    def learn(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step, and the target network's step after it."""
        del key
        state, metrics, _ = self._step(state, batch)
        return state, metrics

    def _step(self, state: State, batch: Batch) -> tuple[State, Metrics, jax.Array]:
        """-> also the TD errors [B]."""
        spec = state.spec
        mask = policies.mask(spec.obs_space, batch.next_obs)
        next_online = jax.lax.stop_gradient(self.q(state.params, spec, batch.next_obs))
        next_target = self.q(state.target, spec, batch.next_obs)
        next_value = self.target(next_online, next_target, mask)
        target = losses.td_target(batch.reward, batch.discount, next_value)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            q = losses.chosen(self.q(params, spec, batch.obs), batch.action)
            losses.same_shape(q, target)
            error = target - q
            return losses.weighted_mean(self.loss(error), batch.weight), (error, jnp.mean(q))

        (value, (error, q)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        direction, opt = self.optimizer.update(gradient, state.opt)
        lr = self.lr * self.anneal_lr(self._share(state))
        params = jax.tree.map(lambda p, d: p + lr * d, state.params, direction)
        grad_steps = state.grad_steps.add(1)
        state = dataclasses.replace(
            state,
            params=params,
            target=self.copy(state.target, params, grad_steps),
            opt=opt,
            grad_steps=grad_steps,
        )
        return state, {"loss/td": value, "q/mean": q}, error
