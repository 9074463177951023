"""Baird: seven states on which semi-gradient off-policy learning diverges (Sutton & Barto, figure
11.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.finite import Finite
from jaxrl.struct import struct

FEATURES = np.zeros((7, 8), np.float32)
FEATURES[:6, :6] = 2 * np.eye(6)
FEATURES[:6, 7] = 1
FEATURES[6, 6:] = 1, 2
BEHAVIOUR = np.array([6 / 7, 1 / 7], np.float32)
START_WEIGHTS = np.array([1, 1, 1, 1, 1, 1, 10, 1], np.float32)


@struct
class Baird(Finite):
    """Action 0 (dashed) leads to one of the six upper states at random, action 1 (solid) to the
    lower one, state 6. All rewards are 0, so all values are 0; it never ends. The target policy
    always takes action 1, the behaviour policy takes it once in seven times (`BEHAVIOUR`). The
    eight weights act through `FEATURES` [states, weights]."""

    @property
    def num_states(self) -> int:
        return 7

    @property
    def num_actions(self) -> int:
        return 2

    @property
    def num_outcomes(self) -> int:
        return 6

    @property
    def starts(self) -> np.ndarray:
        return np.arange(7)

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        del state
        return jnp.where(action == 0, jnp.ones(6) / 6, jnp.eye(6)[0])

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        del state
        return jnp.where(action == 0, k, 6), jnp.zeros(()), jnp.zeros((), bool)
