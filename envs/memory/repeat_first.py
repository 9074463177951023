"""RepeatFirst: name the first value, however many others follow (after POPGym's task)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


@struct
class Seen:
    value: jax.Array  # int32, the first one
    t: jax.Array  # int32


@struct
class RepeatFirst:
    """A random one of `num_values` values is shown at each of `length` steps, and every action
    should name the one shown first: reward / length if it does, minus that if not. The observation
    is the value, one-hot, and a bit that is set at the first step.

    With memory the return is 1. Without it only the first answer can be known: with four values the
    best return is (1 - (length - 1) / 2) / length on average, -0.41 for 16 steps."""

    reward: Float = param("return of an episode of right answers", default=1.0)
    length: int = static("steps of an episode", default=16, low=1)
    num_values: int = static("different values", default=4, low=2)

    @property
    def obs_space(self) -> Box:
        return Box(np.zeros(self.num_values + 1), np.ones(self.num_values + 1))

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.num_values)

    @property
    def time_limit(self) -> None:
        return None

    def _draw(self, key: Key) -> jax.Array:
        return jax.random.randint(key, (), 0, self.num_values, jnp.int32)

    def _observe(self, value: jax.Array, first: bool) -> jax.Array:
        return jnp.append(jax.nn.one_hot(value, self.num_values), jnp.float32(first))

    def reset(self, key: Key) -> tuple[Seen, jax.Array]:
        value = self._draw(key)
        return Seen(value, jnp.zeros((), jnp.int32)), self._observe(value, True)

    def step(self, state: Seen, action: jax.Array, key: Key) -> tuple[Seen, Step]:
        right = action == state.value
        reward = jnp.where(right, self.reward, -self.reward) / self.length
        state = Seen(state.value, state.t + 1)
        obs = self._observe(self._draw(key), False)
        over = state.t == self.length
        return state, Step(obs, reward.astype(jnp.float32), over, jnp.zeros((), bool))
