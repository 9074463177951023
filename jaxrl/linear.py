"""What agents with linear values share: fields, state, acting, and the way through a rollout.

`Control` learns action values w[a] . x and `Prediction` the values w . x of a policy, where x are
the features of an observation. An algorithm is a subclass with one function, `learn_from`: one
transition in, better weights out. As with tables (`jaxrl.tables`), several environments are several
streams of one learner, and transitions are learned from one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import behaviour, features, spaces, tables
from jaxrl.behaviour import EpsilonGreedy, Rows
from jaxrl.features import Active, FeatureMap, TileCoding, Vector
from jaxrl.struct import Float, param, static, struct
from jaxrl.tabular import masked, mean
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

Probabilities = Callable[[PyTree], jax.Array]
"""A policy: observations [...] -> probabilities [..., A]."""


@struct
class Weights:
    """What all environments of a run share."""

    w: jax.Array  # [A, n], or [n] for prediction
    extra: PyTree = None  # what else an algorithm learns


@struct
class State:
    weights: Weights
    memory: PyTree  # [N, ...]: what each environment has of its own, traces and windows
    steps: Counter  # per environment
    spec: Spec = static()


@struct
class Move:
    """One transition. `next_x` is where it really led, also where the episode was cut."""

    x: Vector
    action: jax.Array
    reward: jax.Array
    next_x: Vector
    terminated: jax.Array
    truncated: jax.Array
    first: jax.Array
    allowed: PyTree = None  # masks of the actions here and there, where there are masks
    rho: jax.Array | None = None  # pi(a | s) / mu(a | s), for prediction
    interest: jax.Array | None = None

    @property
    def ended(self) -> jax.Array:
        return self.terminated | self.truncated


def part(space: spaces.Space) -> spaces.Space:
    """The observation without its mask."""
    if isinstance(space, spaces.Dict) and set(space) == {"observation", "action_mask"}:
        return space["observation"]
    return space


def seen(space: spaces.Space, obs: PyTree) -> PyTree:
    return obs if part(space) is space else obs["observation"]


def mask(space: spaces.Space, obs: PyTree) -> jax.Array | None:
    return None if part(space) is space else obs["action_mask"]


def actions(name: str, spec: Spec) -> int:
    """How many, or a TypeError that says what to do."""
    if not isinstance(spec.action_space, spaces.Discrete):
        raise TypeError(
            f"{name} needs a Discrete action space, not {spaces.describe(spec.action_space)}: use "
            "jaxrl.SAC() or jaxrl.PPO() for continuous actions."
        )
    return spec.action_space.n


def nothing(features: FeatureMap, spec: Spec, *shape: int) -> Vector:
    """Features to be overwritten, [*shape, ...]."""
    space = part(spec.obs_space)
    active = features.active(space)
    if active is None:
        return jnp.zeros((*shape, features.size(space)))
    return Active(jnp.zeros((*shape, active), jnp.int32))


def _moves(agent: Any, rollout: Rollout, spec: Spec) -> Move:
    """The transitions of a rollout, all [T, N]."""
    space, after = spec.obs_space, tables.following(rollout, spec)
    here, there = mask(space, rollout.obs), mask(space, after)
    return Move(
        x=agent.features(part(space), seen(space, rollout.obs)),
        action=rollout.action,
        reward=rollout.reward,
        next_x=agent.features(part(space), seen(space, after)),
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        first=rollout.first,
        allowed=None if here is None else (here, there),
    )


def _start(agent: Any, spec: Spec, w: jax.Array) -> State:
    memory = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (agent.num_envs, *jnp.shape(x))), agent.begin(spec)
    )
    return State(Weights(w, agent.extra(spec)), memory, Counter.zero(), spec)


def _update(agent: Any, state: State, moves: Move, learn: Any) -> tuple[State, Metrics]:
    folded: Any = moves
    weights, memory, errors = tables.fold(learn, state.weights, state.memory, folded)
    state = dataclasses.replace(
        state, weights=weights, memory=memory, steps=state.steps.add(agent.num_steps)
    )
    return state, {"loss/td": tables.mean_squared(errors)}


def _alpha(agent: Any, spec: Spec) -> jax.Array:
    """The step size of one feature: K active ones share `lr`."""
    return jnp.asarray(agent.lr) / (agent.features.active(part(spec.obs_space)) or 1)


@struct
class Control:
    """Action values. Subclasses define `learn_from`."""

    features: FeatureMap = static("features of an observation", default=TileCoding())
    lr: Float = param("step size; the active features share it", default=0.1, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    exploration: Any = param("how actions are chosen", default=EpsilonGreedy())
    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        del key
        name = type(self).__name__
        count = actions(name, spec)
        self.features.check(part(spec.obs_space))
        if self.exploration.counts:
            raise TypeError(
                f"{name}(exploration={type(self.exploration).__name__}(...)) counts visits, which "
                "features do not: write exploration=behaviour.EpsilonGreedy(0.1), or Boltzmann."
            )
        self.check(spec)
        return _start(self, spec, jnp.zeros((count, self.features.size(part(spec.obs_space)))))

    def check(self, spec: Spec) -> None:
        """Refuse what does not fit together."""

    def begin(self, spec: Spec) -> PyTree:
        """What one environment has of its own, at the start."""
        return None

    def extra(self, spec: Spec) -> PyTree:
        """What else is learned, at the start."""
        return None

    def rates(self, spec: Spec) -> jax.Array | None:
        return self.features.rates(part(spec.obs_space))

    def q(self, weights: Weights, x: Vector, allowed: jax.Array | None = None) -> jax.Array:
        """Action values, [..., A]; minus infinity for actions that are not allowed."""
        return masked(features.dot(weights.w, x), allowed)

    def policy(self, q: jax.Array, share: jax.Array) -> jax.Array:
        """Probabilities of the actions, [..., A]."""
        return self.exploration.probabilities(q, None, share)

    def share(self, state: State) -> jax.Array:
        """Of the run, what lies behind."""
        return jnp.minimum(state.steps.value / max(1, state.spec.steps // self.num_envs), 1.0)

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        space = state.spec.obs_space
        x = self.features(part(space), seen(space, obs))
        q = self.q(state.weights, x, mask(space, obs))
        if not explore:
            return ActOut(jnp.argmax(q, axis=-1).astype(jnp.int32))
        return ActOut(behaviour.sample(key, self.policy(q, self.share(state))))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        del key
        share, spec = self.share(state), state.spec

        def learn(
            weights: Weights, memory: PyTree, move: Move
        ) -> tuple[Weights, PyTree, jax.Array]:
            return self.learn_from(weights, memory, move, share, spec)

        return _update(self, state, _moves(self, rollout, spec), learn)

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, share: jax.Array, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        """-> weights, memory, TD error (NaN where nothing was learned)"""
        raise NotImplementedError

    def alpha(self, spec: Spec) -> jax.Array:
        return _alpha(self, spec)

    def moved(
        self,
        weights: Weights,
        x: Vector,
        action: jax.Array,
        target: jax.Array,
        spec: Spec,
        valid: Any = True,
    ) -> tuple[Weights, jax.Array]:
        """A step of the semi-gradient towards a target; -> also the error."""
        error = target - features.value(weights.w, x, action)
        amount = jnp.where(valid, self.alpha(spec) * error, 0.0)
        w = features.add(weights.w, x, amount, self.rates(spec), action)
        return dataclasses.replace(weights, w=w), jnp.where(valid, error, jnp.nan)

    def expected(
        self, weights: Weights, x: Vector, share: jax.Array, allowed: jax.Array | None
    ) -> jax.Array:
        """The value of an observation under the policy that acts."""
        q = self.q(weights, x, allowed)
        return mean(self.policy(q, share), q)

    def after(self, weights: Weights, move: Move, share: jax.Array) -> jax.Array:
        """What lies beyond the end of an episode: nothing, or where it was cut a mean over the
        policy, because no next action was chosen."""
        allowed = None if move.allowed is None else move.allowed[1]
        value = self.expected(weights, move.next_x, share, allowed)
        return jnp.where(move.terminated, 0.0, value)


@struct
class Prediction:
    """The values of a policy. Subclasses define `learn_from`."""

    features: FeatureMap = static("features of an observation", default=TileCoding())
    lr: Float = param("step size; the active features share it", default=0.1, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    policy: Probabilities | Rows | None = static(
        "the policy that is followed, a function or behaviour.rows([S, A]); None is uniform",
        default=None,
    )
    target: Probabilities | Rows | None = static(
        "the policy that is learned about; None is the one that is followed", default=None
    )
    num_envs: int = static("parallel environments", default=1, low=1)
    num_steps: int = static("steps per environment and update", default=1, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        del key
        count = actions(type(self).__name__, spec)
        self.features.check(part(spec.obs_space))
        for field, policy in (("policy", self.policy), ("target", self.target)):
            if isinstance(policy, tuple):
                states = spec.obs_space.n if isinstance(spec.obs_space, spaces.Discrete) else 0
                behaviour.check(f"{type(self).__name__}({field}=...)", policy, states, count)
        self.check(spec)
        return _start(self, spec, jnp.zeros(self.features.size(part(spec.obs_space))))

    def check(self, spec: Spec) -> None:
        """Refuse what does not fit together."""

    def begin(self, spec: Spec) -> PyTree:
        """What one environment has of its own, at the start."""
        return None

    def extra(self, spec: Spec) -> PyTree:
        """What else is learned, at the start."""
        return None

    def interest(self, spec: Spec, obs: PyTree) -> jax.Array | None:
        """How much the observations matter, where an algorithm asks."""
        return None

    def rates(self, spec: Spec) -> jax.Array | None:
        return self.features.rates(part(spec.obs_space))

    def alpha(self, spec: Spec) -> jax.Array:
        return _alpha(self, spec)

    def probabilities(
        self, spec: Spec, obs: PyTree, policy: Probabilities | Rows | None = None
    ) -> jax.Array:
        """Of `policy`, by default the one that is followed, [..., A]."""
        policy = self.policy if policy is None else policy
        if callable(policy):
            return policy(obs)
        count = actions(type(self).__name__, spec)
        if policy is not None:
            return behaviour.followed(policy, obs, count)
        space, x = part(spec.obs_space), seen(spec.obs_space, obs)
        leading = x.shape[: x.ndim - len(getattr(space, "shape", ()))]
        return jnp.full((*leading, count), 1.0 / count)

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        probability = self.probabilities(state.spec, obs)
        if not explore:
            return ActOut(jnp.argmax(probability, axis=-1).astype(jnp.int32))
        return ActOut(behaviour.sample(key, probability))

    def _rho(self, rollout: Rollout, spec: Spec) -> jax.Array:
        if self.target is None:
            return jnp.ones_like(rollout.reward)
        index = rollout.action[..., None]
        pi = self.probabilities(spec, rollout.obs, self.target)
        pi = jnp.take_along_axis(pi, index, -1)[..., 0]
        mu = jnp.take_along_axis(self.probabilities(spec, rollout.obs), index, -1)[..., 0]
        return pi / mu

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        del key
        spec = state.spec
        moves = dataclasses.replace(
            _moves(self, rollout, spec),
            rho=self._rho(rollout, spec),
            interest=self.interest(spec, rollout.obs),
        )

        def learn(
            weights: Weights, memory: PyTree, move: Move
        ) -> tuple[Weights, PyTree, jax.Array]:
            return self.learn_from(weights, memory, move, spec)

        return _update(self, state, moves, learn)

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        """-> weights, memory, TD error (NaN where nothing was learned)"""
        raise NotImplementedError

    def error(self, w: jax.Array, move: Move) -> jax.Array:
        """r + gamma w . x' - w . x"""
        after = jnp.where(move.terminated, 0.0, features.dot(w, move.next_x))
        return move.reward + self.gamma * after - features.dot(w, move.x)
