"""The gradient bandit: preferences instead of values (Sutton and Barto 2018, section 2.8).

Arms are pulled with the probabilities softmax(h). After a reward r of arm a, h moves by
lr (r - b) (onehot(a) - softmax(h)), the gradient of the expected reward on the mean; b is the mean
of the rewards before (`average`), or 0 (`nothing`).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl import behaviour
from jaxrl.arms import Arms, State
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, PyTree


@struct
class Preferences:
    h: jax.Array  # [A]
    mean: jax.Array  # of all rewards
    pulls: jax.Array  # int32


def average(known: Preferences, reward: jax.Array) -> jax.Array:
    """The mean of the rewards before; the first reward where there is none."""
    return jnp.where(known.pulls == 0, reward, known.mean)


def nothing(known: Preferences, reward: jax.Array) -> jax.Array:
    del known
    return jnp.zeros_like(reward)


@struct
class GradientBandit(Arms):
    """Policy gradient on preferences."""

    lr: Float = param("step size", default=0.1, above=0)
    baseline: Callable[[Preferences, jax.Array], jax.Array] = static(
        "what a reward is compared with", default=average
    )

    def begin(self, count: int) -> PyTree:
        return Preferences(jnp.zeros(count), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def best(self, known: Preferences) -> jax.Array:
        return known.h

    def choose(self, state: State, key: Key, num_envs: int) -> jax.Array:
        chances = jax.nn.softmax(state.known.h)
        return behaviour.sample(key, jnp.broadcast_to(chances, (num_envs, *chances.shape)))

    def learn_from(
        self, known: Preferences, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        advantage = reward - self.baseline(known, reward)
        away = (jnp.arange(known.h.shape[0]) == action) - jax.nn.softmax(known.h)
        pulls = known.pulls + 1
        mean = known.mean + (reward - known.mean) / pulls.astype(jnp.float32)
        return Preferences(known.h + self.lr * advantage * away, mean, pulls), reward - known.mean
