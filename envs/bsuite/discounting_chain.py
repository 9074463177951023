"""DiscountingChain: the first action decides which reward comes, and how late."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


@struct
class DiscountingChain:
    """The first action chooses one of five chains. Each pays once, after 1, 3, 10, 30 or 100 steps:
    1, or `best_reward` on chain `best`. The episode has as many steps as the longest chain.

    The observation is (chain, or -1 before the choice; share of the episode that is over)."""

    best: Float | int = param("the chain that pays most", default=0)
    best_reward: Float = param("what it pays", default=1.1)
    delays: tuple[int, ...] = static("steps until each chain pays", default=(1, 3, 10, 30, 100))

    @property
    def obs_space(self) -> Box:
        return Box([-1.0, 0.0], [len(self.delays) - 1.0, 1.0])

    @property
    def action_space(self) -> Discrete:
        return Discrete(len(self.delays))

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        state = jnp.asarray([-1, 0], jnp.int32)  # chain, steps made
        return state, self._observe(state)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        chain = jnp.where(state[1] == 0, action, state[0]).astype(jnp.int32)
        t = state[1] + 1
        pays = t == jnp.asarray(self.delays)[chain]
        amount = jnp.where(chain == self.best, self.best_reward, 1.0)
        reward = jnp.where(pays, amount, 0.0).astype(jnp.float32)
        state = jnp.stack([chain, t])
        ended = t == max(self.delays)
        return state, Step(self._observe(state), reward, ended, jnp.zeros((), bool))

    def _observe(self, state: jax.Array) -> jax.Array:
        return jnp.stack([state[0].astype(jnp.float32), state[1] / max(self.delays)])
