"""What agents with tables share: fields, state, acting, and the way through a rollout.

`Control` learns action values and `Prediction` the values of a policy that is given. An algorithm
is a subclass with one function, `learn_from`: one transition in, a better table out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import behaviour, spaces, stepsizes, tables
from jaxrl.behaviour import EpsilonGreedy, Rows
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec


@struct
class Table:
    """What all environments of a run share."""

    values: jax.Array  # [S, A], or [S] for prediction; some agents keep two of them
    updates: jax.Array | None  # int32 like values, where the step size falls
    visits: jax.Array | None  # [S, A] int32, where exploration counts
    model: PyTree = None
    allowed: jax.Array | None = None  # [S, A] bool, where observations have masks: as last seen


@struct
class State:
    table: Table
    memory: PyTree  # [N, ...]: what each environment has of its own, traces and windows
    steps: Counter  # per environment
    spec: Spec = static()


def masked(q: jax.Array, allowed: jax.Array | None) -> jax.Array:
    return q if allowed is None else jnp.where(allowed, q, -jnp.inf)


def mean(probability: jax.Array, q: jax.Array) -> jax.Array:
    """Over the actions, [..., A] -> [...]; what is never done may be worth minus infinity."""
    return jnp.sum(jnp.where(probability > 0, probability * q, 0.0), axis=-1)


def _start(
    agent: Any, spec: Spec, values: jax.Array, visits: jax.Array | None, model: PyTree
) -> State:
    counted = agent.decay is not stepsizes.fixed
    table = Table(
        values=values + agent.initial,
        updates=jnp.zeros(values.shape, jnp.int32) if counted else None,
        visits=visits,
        model=model,
    )
    size = values.size
    memory = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (agent.num_envs, *jnp.shape(x))), agent.begin(spec, size)
    )
    return State(table, memory, Counter.zero(), spec)


def _step_size(
    agent: Any, table: Table, index: tuple[jax.Array, ...], valid: Any = True
) -> tuple[Table, jax.Array]:
    """Count an update of an entry; -> its step size."""
    if table.updates is None:
        return table, jnp.asarray(agent.lr)
    updates = tables.add(table.updates, index, jnp.asarray(valid, jnp.int32))
    alpha = agent.lr * agent.decay(jnp.maximum(updates[index], 1))
    return dataclasses.replace(table, updates=updates), alpha


def _update(
    agent: Any, state: State, rollout: Rollout, key: Key, learn: tables.Learn
) -> tuple[State, Metrics]:
    moves = tables.moves(rollout, state.spec, key)
    table, memory, errors = tables.fold(learn, state.table, state.memory, moves)
    state = dataclasses.replace(
        state, table=table, memory=memory, steps=state.steps.add(agent.num_steps)
    )
    return state, {"loss/td": tables.mean_squared(errors)}


@struct
class Control:
    """Action values. Subclasses define `learn_from`."""

    lr: Float = param("step size", default=0.1, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    initial: Float = param("value of everything at the start; high is optimistic", default=0.0)
    exploration: Any = param("how actions are chosen", default=EpsilonGreedy())
    decay: Callable[[jax.Array], jax.Array] = static(
        "factor on lr at an entry's n-th update", default=stepsizes.fixed
    )
    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        del key
        states, actions = tables.sizes(type(self).__name__, spec)
        self.check(spec, states * actions)
        pairs = (states, actions)
        visits = jnp.zeros(pairs, jnp.int32) if self.exploration.counts else None
        state = _start(self, spec, self.zeros(pairs), visits, self.model(states, actions))
        if isinstance(spec.obs_space, spaces.Dict):
            table = dataclasses.replace(state.table, allowed=jnp.ones(pairs, bool))
            state = dataclasses.replace(state, table=table)
        return state

    def check(self, spec: Spec, size: int) -> None:
        """Refuse what does not fit together."""

    def zeros(self, pairs: tuple[int, int]) -> jax.Array:
        return jnp.zeros(pairs)

    def model(self, states: int, actions: int) -> PyTree:
        """What a planner knows at the start."""
        return None

    def begin(self, spec: Spec, size: int) -> PyTree:
        """What one environment has of its own, at the start."""
        return None

    def q(self, table: Table, s: jax.Array) -> jax.Array:
        """Action values of states, [..., A]; minus infinity for actions that are not allowed."""
        return masked(table.values[s], None if table.allowed is None else table.allowed[s])

    def extras(self, probability: jax.Array, action: jax.Array) -> PyTree:
        """What is kept of a choice, from the probabilities [N, A] it was made with."""
        return ()

    def policy(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        """Probabilities of the actions, [..., A]."""
        visits = None if table.visits is None else table.visits[s]
        return self.exploration.probabilities(self.q(table, s), visits, share)

    def share(self, state: State) -> jax.Array:
        """Of the run, what lies behind."""
        return jnp.minimum(state.steps.value / max(1, state.spec.steps // self.num_envs), 1.0)

    def act(self, state: State, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        s = tables.row(state.spec.obs_space, obs)
        table = state.table
        q = masked(self.q(table, s), tables.mask(state.spec.obs_space, obs))
        if not explore:
            return ActOut(jnp.argmax(q, axis=-1).astype(jnp.int32))
        visits = None if table.visits is None else table.visits[s]
        probability = self.exploration.probabilities(q, visits, self.share(state))
        action = behaviour.sample(key, probability)
        return ActOut(action, self.extras(probability, action))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        share = self.share(state)

        def learn(table: Table, memory: PyTree, move: Move) -> tuple[Table, PyTree, jax.Array]:
            if table.visits is not None:
                visits = tables.add(table.visits, (move.obs, move.action), jnp.int32(1))
                table = dataclasses.replace(table, visits=visits)
            if table.allowed is not None:
                here, there = move.allowed
                allowed = table.allowed.at[move.obs].set(here).at[move.next_obs].set(there)
                table = dataclasses.replace(table, allowed=allowed)
            return self.learn_from(table, memory, move, share)

        return _update(self, state, rollout, key, learn)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        """-> table, memory, TD error (NaN where nothing was learned)"""
        raise NotImplementedError

    def step_size(
        self, table: Table, index: tuple[jax.Array, ...], valid: Any = True
    ) -> tuple[Table, jax.Array]:
        return _step_size(self, table, index, valid)

    def moved(
        self, table: Table, index: tuple[jax.Array, ...], target: jax.Array, valid: Any = True
    ) -> tuple[Table, jax.Array]:
        """One entry a step towards its target; -> also the error."""
        return _moved(self, table, index, target, valid)

    def expected(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        """The value of a state under the policy that acts."""
        return mean(self.policy(table, s, share), self.q(table, s))


def _moved(
    agent: Any, table: Table, index: tuple[jax.Array, ...], target: jax.Array, valid: Any
) -> tuple[Table, jax.Array]:
    table, alpha = _step_size(agent, table, index, valid)
    error = target - table.values[index]
    values = tables.add(table.values, index, jnp.where(valid, alpha * error, 0.0))
    return dataclasses.replace(table, values=values), jnp.where(valid, error, jnp.nan)


@struct
class Prediction:
    """The values of a policy. Subclasses define `learn_from`."""

    lr: Float = param("step size", default=0.1, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    initial: Float = param("value of every state at the start", default=0.0)
    policy: Rows | None = static(
        "the policy that is followed, behaviour.rows([S, A]); None is uniform", default=None
    )
    decay: Callable[[jax.Array], jax.Array] = static(
        "factor on lr at a state's n-th update", default=stepsizes.fixed
    )
    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        del key
        states, actions = tables.sizes(type(self).__name__, spec)
        behaviour.check(f"{type(self).__name__}(policy=...)", self.policy, states, actions)
        self.check(spec, states)
        return _start(self, spec, jnp.zeros(states), None, self.model(states))

    def check(self, spec: Spec, size: int) -> None:
        """Refuse what does not fit together."""

    def model(self, states: int) -> PyTree:
        """What is kept for all environments beside the values."""
        return None

    def begin(self, spec: Spec, size: int) -> PyTree:
        """What one environment has of its own, at the start."""
        return None

    def act(self, state: State, obs: jax.Array, key: Key, explore: bool = True) -> ActOut:
        s = tables.row(state.spec.obs_space, obs)
        actions: int = state.spec.action_space.n  # pyright: ignore
        probability = behaviour.followed(self.policy, s, actions)
        if not explore:
            return ActOut(jnp.argmax(probability, axis=-1).astype(jnp.int32))
        return ActOut(behaviour.sample(key, probability))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        return _update(self, state, rollout, key, self.learn_from)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move
    ) -> tuple[Table, PyTree, jax.Array]:
        """-> table, memory, TD error (NaN where nothing was learned)"""
        raise NotImplementedError

    def step_size(
        self, table: Table, index: tuple[jax.Array, ...], valid: Any = True
    ) -> tuple[Table, jax.Array]:
        return _step_size(self, table, index, valid)

    def moved(
        self, table: Table, index: tuple[jax.Array, ...], target: jax.Array, valid: Any = True
    ) -> tuple[Table, jax.Array]:
        """One entry a step towards its target; -> also the error."""
        return _moved(self, table, index, target, valid)
