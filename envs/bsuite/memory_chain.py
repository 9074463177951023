"""MemoryChain: remember bits that are shown at the start until they are asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


@struct
class Chain:
    context: jax.Array  # [num_bits] int32: the bits
    query: jax.Array  # int32: which of them will be asked for
    t: jax.Array  # int32


@struct
class MemoryChain:
    """The episode has memory_length + 1 steps; the last action pays +1 if it equals the bit asked
    for, else -1, all others nothing. Without memory the best return is 0, with memory 1.

    The observation is (time left, number of the bit asked for, the bits as -1 or 1); the bits are
    shown at the start, the question before the last action. As in bsuite the observation is taken
    before the clock moves: what follows the first action still shows the start."""

    memory_length: Float | int = param("steps between the bits and the answer", default=5, low=1)
    num_bits: int = static("bits to remember", default=1, low=1)

    @property
    def obs_space(self) -> Box:
        bits = np.ones(self.num_bits)
        return Box([0.0, 0.0, *-bits], [1.0, max(1, self.num_bits - 1), *bits])

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def time_limit(self) -> None:
        return None

    def reset(self, key: Key) -> tuple[Chain, jax.Array]:
        context_key, query_key = jax.random.split(key)
        context = jax.random.bernoulli(context_key, 0.5, (self.num_bits,)).astype(jnp.int32)
        query = jax.random.randint(query_key, (), 0, self.num_bits, jnp.int32)
        state = Chain(context, query, jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, state: Chain, action: jax.Array, key: Key) -> tuple[Chain, Step]:
        del key
        obs = self._observe(state)
        last = state.t >= self.memory_length
        right = action == state.context[state.query]
        reward = jnp.where(last, jnp.where(right, 1.0, -1.0), 0.0).astype(jnp.float32)
        state = Chain(state.context, state.query, state.t + 1)
        return state, Step(obs, reward, last, jnp.zeros((), bool))

    def _observe(self, state: Chain) -> jax.Array:
        # In this form it is exactly 0 at the end, however the compiler divides.
        left = (self.memory_length - state.t) / self.memory_length
        query = jnp.where(state.t == self.memory_length - 1, state.query, 0)
        bits = jnp.where(state.t == 0, 2 * state.context - 1, 0)
        return jnp.concatenate([jnp.stack([left, query]), bits]).astype(jnp.float32)
