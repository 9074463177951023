"""RandomWalk: a drunkard between two doors (Sutton & Barto, examples 6.2 and 7.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.finite import Finite
from jaxrl.struct import Float, param, static, struct


class Walk(Finite):
    """What walks between two ends have in common."""

    length: int
    left_reward: Float
    right_reward: Float

    @property
    def num_states(self) -> int:
        return self.length + 2

    @property
    def num_actions(self) -> int:
        return 1

    @property
    def starts(self) -> np.ndarray:
        return np.array([(self.length + 1) // 2])

    def arrive(self, to: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> next state, reward, terminated, where a step leads to `to` or beyond an end."""
        to = jnp.clip(to, 0, self.length + 1)
        left, right = to == 0, to == self.length + 1
        reward = jnp.where(right, self.right_reward, jnp.where(left, self.left_reward, 0.0))
        return to, reward, left | right


@struct
class RandomWalk(Walk):
    """One starts in the middle of `length` places and goes left or right at random; both ends end
    the episode. States 1 to `length` are the places, 0 and `length` + 1 the ends. There is one
    action, which does nothing: the task is to predict.

    With the default rewards and no discount the value of place i is i / (length + 1)."""

    length: int = static("places", default=5, low=1)
    right: Float = param("probability of a step to the right", default=0.5, low=0.0, high=1.0)
    left_reward: Float = param("reward at the left end", default=0.0)
    right_reward: Float = param("reward at the right end", default=1.0)

    @property
    def num_outcomes(self) -> int:
        return 2

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del state, action
        right = jnp.asarray(self.right)
        return jnp.stack([1 - right, right])

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        del action
        return self.arrive(state + 2 * k - 1)


def random_walk_19(right: Float = 0.5, left_reward: Float = -1.0) -> RandomWalk:
    """Example 7.1: 19 places, -1 at the left end, 1 at the right; place i is worth i / 10 - 1."""
    return RandomWalk(19, right, left_reward)
