"""Bandits: ten arms whose means are drawn anew in every episode (Sutton & Barto, section 2.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


class Arms:
    """What bandits without a context have in common; the state is what each arm is worth."""

    arms: int

    @property
    def obs_space(self) -> Discrete:
        return Discrete(1)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.arms)

    @property
    def time_limit(self) -> None:
        return None

    def optimal(self, state: jax.Array) -> jax.Array:
        """The best arm, int32."""
        return jnp.argmax(state).astype(jnp.int32)


@struct
class Bandit(Arms):
    """Arm a pays N(means[a], noise^2). The means are drawn from N(0, spread^2) at the reset, or
    given; they are the state, so `optimal(state)` tells which arm was best. The observation is
    always 0 and it never ends; the registered one is cut after 1000 pulls.

    With `drift` every mean takes a step from N(0, drift^2) after each pull."""

    arms: int = static("arms", default=10, low=2)
    means: jax.Array | None = param("mean of each arm [arms]; None draws them", default=None)
    spread: Float = param("standard deviation of the means that are drawn", default=1.0, low=0.0)
    noise: Float = param("standard deviation of the rewards", default=1.0, low=0.0)
    drift: Float | None = param("standard deviation of the drift", default=None, low=0.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        if self.means is None:
            means = self.spread * jax.random.normal(key, (self.arms,), jnp.float32)
        else:
            means = jnp.broadcast_to(jnp.asarray(self.means, jnp.float32), (self.arms,))
        return means.astype(jnp.float32), jnp.zeros((), jnp.int32)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        pull, walk = jax.random.split(key) if self.drift is not None else (key, key)
        reward = state[action] + self.noise * jax.random.normal(pull)
        if self.drift is not None:
            state = state + self.drift * jax.random.normal(walk, state.shape)
        no = jnp.zeros((), bool)
        step = Step(jnp.zeros((), jnp.int32), reward.astype(jnp.float32), no, no)
        return state.astype(jnp.float32), step


def drifting_bandit(
    arms: int = 10, drift: Float = 0.01, noise: Float = 1.0, spread: Float = 0.0
) -> Bandit:
    """Exercise 2.5: all arms start alike and wander apart."""
    return Bandit(arms, spread=spread, noise=noise, drift=drift)


@struct
class BernoulliBandit(Arms):
    """Arm a pays 1 with probability means[a], else 0. The means are uniform, drawn at the reset, or
    given. The observation is always 0 and it never ends."""

    arms: int = static("arms", default=10, low=2)
    means: jax.Array | None = param(
        "probability of each arm [arms]; None draws them", default=None, low=0.0, high=1.0
    )
    low: Float = param("lowest probability drawn", default=0.0, low=0.0, high=1.0)
    high: Float = param("highest probability drawn", default=1.0, low=0.0, high=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        if self.means is None:
            means = jax.random.uniform(key, (self.arms,), jnp.float32)
            means = self.low + (self.high - self.low) * means
        else:
            means = jnp.broadcast_to(jnp.asarray(self.means, jnp.float32), (self.arms,))
        return means.astype(jnp.float32), jnp.zeros((), jnp.int32)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        reward = jax.random.bernoulli(key, state[action]).astype(jnp.float32)
        no = jnp.zeros((), bool)
        return state, Step(jnp.zeros((), jnp.int32), reward, no, no)


@struct
class Context:
    """`weights` stay for the episode, `x` is new in every step."""

    weights: jax.Array  # [arms, features]
    x: jax.Array  # [features]


@struct
class ContextualBandit:
    """Every step shows a context x from N(0, I / features); arm a pays weights[a] . x plus noise.
    The weights are drawn from N(0, I) at the reset, or given. It never ends."""

    arms: int = static("arms", default=10, low=2)
    features: int = static("numbers in a context", default=5, low=1)
    weights: jax.Array | None = param("[arms, features]; None draws them", default=None)
    noise: Float = param("standard deviation of the rewards", default=0.1, low=0.0)

    @property
    def obs_space(self) -> Box:
        return Box(-np.inf, np.inf, (self.features,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.arms)

    @property
    def time_limit(self) -> None:
        return None

    def optimal(self, state: Context) -> jax.Array:
        """The best arm for the context that is shown, int32."""
        return jnp.argmax(state.weights @ state.x).astype(jnp.int32)

    def _context(self, key: Key) -> jax.Array:
        return jax.random.normal(key, (self.features,), jnp.float32) / self.features**0.5

    def reset(self, key: Key) -> tuple[Context, jax.Array]:
        weight_key, key = jax.random.split(key)
        shape = (self.arms, self.features)
        if self.weights is None:
            weights = jax.random.normal(weight_key, shape, jnp.float32)
        else:
            weights = jnp.broadcast_to(jnp.asarray(self.weights, jnp.float32), shape)
        state = Context(weights, self._context(key))
        return state, state.x

    def step(self, state: Context, action: jax.Array, key: Key) -> tuple[Context, Step]:
        noise_key, key = jax.random.split(key)
        reward = state.weights[action] @ state.x + self.noise * jax.random.normal(noise_key)
        state = Context(state.weights, self._context(key))
        no = jnp.zeros((), bool)
        return state, Step(state.x, reward.astype(jnp.float32), no, no)
