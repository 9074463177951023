"""What bandit agents share: fields, state, and the way through a rollout.

A pull is an action and its reward; nothing follows from it. An algorithm is a subclass with
`begin` (what is known at the start), `choose` and `learn_from`. What is known belongs to the run:
it is not forgotten where an episode ends, and several environments are several streams of pulls of
one bandit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import spaces, tables
from jaxrl.features import FeatureMap, Raw, dense
from jaxrl.struct import static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec


@struct
class State:
    known: PyTree  # what all environments of a run share
    steps: Counter  # per environment
    spec: Spec = static()


def arms(name: str, spec: Spec) -> int:
    """How many, or a TypeError that says what to do."""
    if not isinstance(spec.action_space, spaces.Discrete):
        raise TypeError(
            f"{name} needs a Discrete action space, not {spaces.describe(spec.action_space)}: use "
            "jaxrl.SAC() or jaxrl.PPO() for continuous actions."
        )
    return spec.action_space.n


@struct
class Arms:
    """Arms without a context."""

    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        del key
        name = type(self).__name__
        count = arms(name, spec)
        if spec.obs_space != spaces.Discrete(1):
            raise TypeError(
                f"{name} looks at no observations, but here they are "
                f"{spaces.describe(spec.obs_space)}: use jaxrl.LinUCB() or jaxrl.LinearThompson() "
                "for a bandit with contexts, jaxrl.QLearning() or jaxrl.DQN() for a task with "
                "states."
            )
        return State(self.begin(count), Counter.zero(), spec)

    def begin(self, count: int) -> PyTree:
        """What is known of `count` arms at the start."""
        raise NotImplementedError

    def choose(self, state: State, key: Key, num_envs: int) -> jax.Array:
        """-> [N] int32"""
        raise NotImplementedError

    def best(self, known: PyTree) -> jax.Array:
        """What an arm is worth, as far as is known, [A]."""
        raise NotImplementedError

    def learn_from(
        self, known: PyTree, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """-> known, by how much the reward was not what was expected"""
        raise NotImplementedError

    def share(self, state: State) -> jax.Array:
        """Of the run, what lies behind."""
        return jnp.minimum(state.steps.value / max(1, state.spec.steps // self.num_envs), 1.0)

    def act(self, state: State, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        if explore:
            return ActOut(self.choose(state, key, obs.shape[0]))
        best = jnp.argmax(self.best(state.known)).astype(jnp.int32)
        return ActOut(jnp.broadcast_to(best, obs.shape))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        del key

        def learn(known: PyTree, memory: None, pull: PyTree) -> tuple[PyTree, None, jax.Array]:
            known, error = self.learn_from(known, *pull)
            return known, memory, error

        return _update(self, state, rollout, (rollout.action, rollout.reward), learn)


@struct
class Contextual:
    """Arms whose worth depends linearly on features of the observation."""

    features: FeatureMap = static("features of an observation", default=Raw())
    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        del key
        count = arms(type(self).__name__, spec)
        self.features.check(spec.obs_space)
        size = self.features.size(spec.obs_space)
        return State(self.begin(count, size), Counter.zero(), spec)

    def begin(self, count: int, size: int) -> PyTree:
        """What is known at the start."""
        raise NotImplementedError

    def choose(self, known: PyTree, x: jax.Array, key: Key) -> jax.Array:
        """[N, n] -> [N] int32"""
        raise NotImplementedError

    def best(self, known: PyTree, x: jax.Array) -> jax.Array:
        """What the arms are worth, as far as is known, [N, n] -> [N, A]."""
        raise NotImplementedError

    def learn_from(
        self, known: PyTree, x: jax.Array, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """-> known, by how much the reward was not what was expected"""
        raise NotImplementedError

    def _vectors(self, spec: Spec, obs: PyTree) -> jax.Array:
        return dense(self.features(spec.obs_space, obs), self.features.size(spec.obs_space))

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        x = self._vectors(state.spec, obs)
        if explore:
            return ActOut(self.choose(state.known, x, key))
        return ActOut(jnp.argmax(self.best(state.known, x), axis=-1).astype(jnp.int32))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        del key
        x = self._vectors(state.spec, rollout.obs)

        def learn(known: PyTree, memory: None, pull: PyTree) -> tuple[PyTree, None, jax.Array]:
            known, error = self.learn_from(known, *pull)
            return known, memory, error

        return _update(self, state, rollout, (x, rollout.action, rollout.reward), learn)


def _update(
    agent: Any, state: State, rollout: Rollout, pulls: Any, learn: Any
) -> tuple[State, Metrics]:
    known, _, errors = tables.fold(learn, state.known, None, pulls)
    state = dataclasses.replace(state, known=known, steps=state.steps.add(agent.num_steps))
    metrics = {"loss/reward": tables.mean_squared(errors), "value/reward": rollout.reward.mean()}
    return state, metrics
