"""Environments with finitely many states whose model is known.

Such an environment says with which probabilities an action has which outcomes, and what each
outcome is. `step` draws one of them and `transitions` lists all, so the simulator and its model
(`jaxrl.mdp.MDP.from_env`) are the same few lines and cannot disagree.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.spaces import Discrete, Space
from jaxrl.struct import struct
from jaxrl.types import Key, PyTree, Step


@struct
class Transitions:
    """What one action in one state can lead to."""

    probability: jax.Array  # [K]
    next_state: jax.Array  # [K] int32
    reward: jax.Array  # [K]; its mean where it is random
    terminated: jax.Array  # [K] bool


def draw(probability: jax.Array, key: Key) -> jax.Array:
    """An index [] int32 with the given probabilities [K]; never one of probability zero."""
    if probability.shape[0] == 1:
        return jnp.zeros((), jnp.int32)
    total = jnp.cumsum(probability)
    # A uniform number below 1 times the last sum is below the last sum, whatever was rounded.
    u = jax.random.uniform(key, dtype=total.dtype) * total[-1]
    return jnp.sum(u >= total[:-1]).astype(jnp.int32)


class Finite:
    """States are the integers 0 .. num_states - 1, and so are observations unless `observe` says
    otherwise. A subclass gives the sizes, `starts`, `outcome` and, where an action has more than
    one outcome, `num_outcomes` and `probabilities`.

    From a state in which the episode is over, `outcome` may say anything: no one asks."""

    @property
    def num_states(self) -> int:
        raise NotImplementedError

    @property
    def num_actions(self) -> int:
        raise NotImplementedError

    @property
    def num_outcomes(self) -> int:
        """Outcomes of an action at most."""
        return 1

    @property
    def starts(self) -> np.ndarray:
        """Equally likely first states, int; one that is twice as likely is there twice."""
        raise NotImplementedError

    def probabilities(self, state: jax.Array, action: jax.Array) -> jax.Array:
        """-> [K], K = num_outcomes."""
        del state, action
        return jnp.ones(1)

    def outcome(
        self, state: jax.Array, action: jax.Array, k: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The k-th outcome -> next state, reward, terminated."""
        raise NotImplementedError

    def observe(self, state: jax.Array) -> PyTree:
        return state

    @property
    def obs_space(self) -> Space:
        return Discrete(self.num_states)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.num_actions)

    @property
    def time_limit(self) -> None:
        return None

    def transitions(self, state: jax.Array, action: jax.Array) -> Transitions:
        """All outcomes of an action."""
        state, action = jnp.asarray(state, jnp.int32), jnp.asarray(action, jnp.int32)
        k = jnp.arange(self.num_outcomes, dtype=jnp.int32)
        next_state, reward, terminated = jax.vmap(lambda k: self.outcome(state, action, k))(k)
        return Transitions(
            self.probabilities(state, action),
            jnp.asarray(next_state, jnp.int32),
            jnp.asarray(reward) * jnp.ones(()),
            jnp.asarray(terminated, bool),
        )

    def reset(self, key: Key) -> tuple[jax.Array, PyTree]:
        starts = self.starts
        if len(starts) == 1:
            state = jnp.asarray(starts[0], jnp.int32)
        else:
            state = jnp.asarray(starts, jnp.int32)[jax.random.randint(key, (), 0, len(starts))]
        return state, self.observe(state)

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        action = jnp.asarray(action, jnp.int32)
        k = draw(self.probabilities(state, action), key)
        next_state, reward, terminated = self.outcome(state, action, k)
        next_state = jnp.asarray(next_state).astype(jnp.int32)
        reward = jnp.asarray(reward).astype(jnp.float32)
        terminated = jnp.asarray(terminated, bool)
        return next_state, Step(self.observe(next_state), reward, terminated, jnp.zeros((), bool))
