"""Recurrent replay distributed DQN (Kapturowski et al. 2019), on one machine.

A Q-network that remembers learns from sequences. Each begins with the memory that was stored when
it was played; its first `burn_in` steps only bring that memory up to date with today's parameters,
and no gradient flows through them; the `length` steps after them are learned from. Targets are
those of Double Q-learning over `n_steps` rewards. With `sampler=Prioritized()` a sequence is drawn
by the mix eta max |TD| + (1 - eta) mean |TD| of its steps (section 2.3).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrl import exploration, networks, optim, policies, replay, returns, sequences, spaces
from jaxrl.losses import value as losses
from jaxrl.priority import Prioritized
from jaxrl.replay import Index, Uniform
from jaxrl.sequences import Sequences
from jaxrl.struct import Float, param, static, struct
from jaxrl.targets import Hard, Polyak
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

NextValue = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


@struct
class State:
    params: PyTree
    target: PyTree
    opt: optax.OptState
    sequences: Sequences | None
    sampler: PyTree
    env_steps: Counter  # per environment
    grad_steps: Counter
    spec: Spec = static()


@struct
class Batch:
    """B sequences, time first. Both parts have the memory of the beginning, before the burn-in."""

    burn_in: Rollout | None
    learn: Rollout  # length + n_steps - 1 steps
    weight: jax.Array  # [B]


@struct
class R2D2:
    lr: Float = param("Adam's step size at the start", default=5e-4, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    epsilon_start: Float = param("share of random actions at the start", default=1.0, low=0, high=1)
    epsilon_end: Float = param(
        "share of random actions after exploration", default=0.05, low=0, high=1
    )
    explore_share: Float = param(
        "share of the run over which epsilon falls", default=0.5, above=0, high=1
    )
    eta: Float = param(
        "priority of a sequence: weight of its largest error against the mean",
        default=0.9,
        low=0,
        high=1,
    )
    max_grad_norm: Float = param(
        "global norm to which gradients are clipped", default=10.0, above=0
    )
    adam_eps: Float = param("Adam's epsilon", default=1e-8, above=0)
    num_envs: int = static("parallel environments", default=16, low=1)
    num_steps: int = static(
        "steps per environment and update; a sequence may begin after as many", default=8, low=1
    )
    burn_in: int = static("steps that only refresh the memory", default=8, low=0)
    length: int = static("steps of a sequence that are learned from", default=16, low=1)
    grad_steps: int = static("gradient steps per update", default=2, low=1)
    batch_size: int = static("sequences per gradient step", default=32, low=1)
    capacity: int = static("transitions in the replay", default=65_536, low=1)
    learning_starts: int = static(
        "environment steps before the first gradient step", default=2_000, low=0
    )
    n_steps: int = static("rewards in a target", default=3, low=1)
    sampler: Uniform | Prioritized = param("how sequences are drawn", default=Uniform())
    copy: Hard | Polyak = param("how the target network follows", default=Hard())
    target: NextValue = static("online Q, target Q, mask -> V(s')", default=losses.double_value)
    loss: Callable[[jax.Array], jax.Array] = static(
        "of each TD error, or huber", default=losses.squared
    )
    anneal_lr: Callable[[jax.Array], jax.Array] = static("factor on lr", default=optim.constant)
    torso: nn.Module = static("features of Q, which remember", default=networks.GRU(64))
    head: Callable[..., nn.Module] = static(
        "networks.Headed or networks.Dueling", default=networks.Dueling
    )

    # ------------------------------------------------------------------------------ networks

    def q(
        self,
        params: PyTree,
        spec: Spec,
        obs: PyTree,
        memory: PyTree = None,
        first: jax.Array | None = None,
    ) -> tuple[jax.Array, PyTree]:
        """Q(s, .) [..., A], hugely negative where an action is forbidden, and the memory after s
        (all memories of a sequence, where `first` is given)."""
        network = self.head(self.torso, spaces.size(spec.action_space))
        x = networks.prepare(spec.obs_space, obs)
        q, memory = networks.run(network, params, x, memory, first)
        mask = policies.mask(spec.obs_space, obs)
        return (q if mask is None else jnp.where(mask, q, -jnp.inf)), memory

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

    @property
    def _rollouts(self) -> int:
        """How many rollouts a sequence reaches into."""
        return math.ceil((self.burn_in + self.length + self.n_steps - 1) / self.num_steps)

    # ------------------------------------------------------------------------------ contract

    def initial_memory(self, num_envs: int) -> PyTree:
        return networks.initial_memory(self.torso, num_envs)

    def _empty(self, spec: Spec) -> Sequences:
        memory = self.initial_memory(self.num_envs)
        return sequences.init(spec, self.capacity, self.num_envs, self.num_steps, memory)

    def memory(self, spec: Spec) -> int:
        """Bytes of one run's replay."""

        def arrays() -> PyTree:
            buffer = self._empty(spec)
            return buffer, self.sampler.init(buffer)

        leaves = jax.tree.leaves(jax.eval_shape(arrays))
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)

    def init(self, key: Key, spec: Spec) -> State:
        if not isinstance(spec.action_space, spaces.Discrete):
            raise TypeError(
                f"R2D2 needs a Discrete action space, not {spaces.describe(spec.action_space)}: "
                "use jaxrl.PPO(actor=jaxrl.networks.GRU(64), critic=jaxrl.networks.GRU(64))."
            )
        if not isinstance(self.torso, networks.Recurrent):
            raise TypeError(
                f"torso={type(self.torso).__name__} does not remember: write torso="
                "jaxrl.networks.GRU(64, torso=...), or use jaxrl.DQN."
            )
        policies.check(spec.obs_space, spec.action_space, policies.Gaussian)
        networks.check_torso(self.torso, spec.obs_space, "torso", remembers=True)
        buffer = self._empty(spec)
        if self._rollouts > buffer.rows:
            needed = self._rollouts * self.num_steps * self.num_envs
            raise ValueError(
                f"capacity={self.capacity} is less than one sequence of burn_in={self.burn_in} + "
                f"length={self.length} + n_steps={self.n_steps} - 1 steps in each of num_envs="
                f"{self.num_envs}: write capacity={needed} or more."
            )
        replay.check_room(buffer.replay, self.num_steps, self.batch_size, self.learning_starts)
        network = self.head(self.torso, spaces.size(spec.action_space))
        params = network.init(key, networks.example(spec.obs_space))
        return State(
            params=params,
            target=jax.tree.map(jnp.copy, params),
            opt=self.optimizer.init(params),
            sequences=buffer,
            sampler=self.sampler.init(buffer),
            env_steps=Counter.zero(),
            grad_steps=Counter.zero(),
            spec=spec,
        )

    def act(
        self, state: State, obs: PyTree, key: Key, explore: bool = True, memory: PyTree = None
    ) -> ActOut:
        mask = policies.mask(state.spec.obs_space, obs)
        q, memory = self.q(state.params, state.spec, obs, memory)  # [N, A]
        if not explore:
            return ActOut(losses.greedy(q, mask), memory=memory)
        action = exploration.epsilon_greedy(key, q, mask, self.epsilon(state))
        return ActOut(action, memory=memory)

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        """Store the rollout; once warm, draw `grad_steps` batches and learn from each."""
        assert state.sequences is not None
        buffer = sequences.add(state.sequences, rollout)
        sampler = self.sampler.added(state.sampler, buffer, 1, self._rollouts)
        env_steps = state.env_steps.add(self.num_steps)
        state = dataclasses.replace(state, sequences=None, sampler=sampler, env_steps=env_steps)
        share = self._share(state)

        def step(state: State, key: Key) -> tuple[State, Metrics]:
            index = self.sampler.draw(
                state.sampler, buffer, key, self.batch_size, self._rollouts, share
            )
            state, metrics, priority = self._step(state, self._gather(buffer, index))
            sampler = self.sampler.learned(state.sampler, buffer, index, priority)
            return dataclasses.replace(state, sampler=sampler), metrics

        def learn(state: State) -> tuple[State, Metrics]:
            state, metrics = jax.lax.scan(step, state, jax.random.split(key, self.grad_steps))
            return state, jax.tree.map(jnp.mean, metrics)

        def wait(state: State) -> tuple[State, Metrics]:
            nan = jnp.full((), jnp.nan)
            return state, {"loss/td": nan, "q/mean": nan}

        # Counters are the same in all lanes of a vmap: this stays a branch.
        first = max(-(-self.learning_starts // self.num_envs), self._rollouts * self.num_steps)
        state, metrics = jax.lax.cond(env_steps.value >= first, learn, wait, state)
        metrics["policy/epsilon"] = self.epsilon(state)
        return dataclasses.replace(state, sequences=buffer), metrics

    def _gather(self, buffer: Sequences, index: Index) -> Batch:
        burn_in = sequences.gather(buffer, index, self.burn_in) if self.burn_in else None
        steps = self.length + self.n_steps - 1
        return Batch(burn_in, sequences.gather(buffer, index, steps, self.burn_in), index.weight)

    def learn(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step, and the target network's step after it."""
        del key
        state, metrics, _ = self._step(state, batch)
        return state, metrics

    def _along(
        self, params: PyTree, spec: Spec, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> Q at the observations [S, B, A] of the part that is learned from, at the last one
        [B, A] and at those that ended truncated episodes [R, B, A]."""
        memory = batch.learn.memory
        if batch.burn_in is not None:
            _, memories = self.q(params, spec, batch.burn_in.obs, memory, batch.burn_in.first)
            memory = jax.lax.stop_gradient(jax.tree.map(lambda m: m[-1], memories))
        network = functools.partial(self.q, params, spec)
        return sequences.outputs(network, batch.learn, memory, spec.time_limit)

    def _step(self, state: State, batch: Batch) -> tuple[State, Metrics, jax.Array]:
        """-> also the priority of each sequence [B]."""
        played, limit = batch.learn, state.spec.time_limit
        old = self._along(state.target, state.spec, batch)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            new = self._along(params, state.spec, batch)
            pairs = zip(new, old, strict=True)
            now, last, final = (self.target(jax.lax.stop_gradient(n), o, None) for n, o in pairs)
            after = returns.next_values(now, last, final, played.truncated, limit)
            target = returns.n_step(
                played.reward,
                after,
                played.terminated,
                played.truncated,
                self.gamma,
                self.n_steps,
            )  # [length, B]
            q = losses.chosen(new[0], played.action)[: self.length]
            losses.same_shape(q, target)
            error = target - q
            total = losses.weighted_mean(self.loss(error).mean(0), batch.weight)
            return total, (error, jnp.mean(q))

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
        size = jnp.abs(error)
        priority = self.eta * size.max(0) + (1.0 - self.eta) * size.mean(0)
        return state, {"loss/td": value, "q/mean": q}, priority
