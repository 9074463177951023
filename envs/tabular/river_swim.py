"""RiverSwim: against the current to the large reward (Strehl & Littman 2008)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.finite import Finite
from jaxrl.struct import Float, param, static, struct


@struct
class RiverSwim(Finite):
    """Action 0 drifts left and always succeeds; in the leftmost place it pays a little. Action 1
    swims right: it advances, stays or is driven back, and pays 1 for being in the rightmost place.
    The probabilities are those of Osband et al. (2013); it never ends."""

    length: int = static("places along the river", default=6, low=2)
    forward: Float = param("probability of advancing", default=0.35, low=0.0, high=1.0)
    backward: Float = param("probability of being driven back", default=0.05, low=0.0, high=1.0)
    first: Float = param(
        "probability of advancing from the leftmost place", default=0.6, low=0.0, high=1.0
    )
    last: Float = param(
        "probability of staying in the rightmost place", default=0.6, low=0.0, high=1.0
    )
    small_reward: Float = param("reward of drifting at the left end", default=0.005)
    large_reward: Float = param("reward of swimming at the right end", default=1.0)

    @property
    def num_states(self) -> int:
        return self.length

    @property
    def num_actions(self) -> int:
        return 2

    @property
    def num_outcomes(self) -> int:
        return 3

    @property
    def starts(self) -> np.ndarray:
        return np.array([0])

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        zero = jnp.zeros(())
        forward, backward = jnp.asarray(self.forward), jnp.asarray(self.backward)
        first, last = jnp.asarray(self.first), jnp.asarray(self.last)
        swims = jnp.stack([backward, 1 - forward - backward, forward])  # back, stay, advance
        swims = jnp.where(state == 0, jnp.stack([zero, 1 - first, first]), swims)
        swims = jnp.where(state == self.length - 1, jnp.stack([1 - last, last, zero]), swims)
        return jnp.where(action == 1, swims, jnp.eye(3)[0])

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        to = jnp.clip(state + k - 1, 0, self.length - 1)
        small = (state == 0) & (action == 0)
        large = (state == self.length - 1) & (action == 1)
        reward = jnp.where(small, self.small_reward, jnp.where(large, self.large_reward, 0.0))
        return to, reward, jnp.zeros((), bool)
