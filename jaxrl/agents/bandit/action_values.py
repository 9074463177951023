"""Action values for bandits: the mean reward of each arm, and a way to explore.

`lr=None` averages all rewards of an arm, a number forgets old ones at that rate, which drifting
arms need (Sutton and Barto 2018, sections 2.2 to 2.7). `exploration` is epsilon-greedy, Boltzmann
or an upper confidence bound; a high `initial` with a number for `lr` is an optimistic start. UCB1
is the bound sqrt(2 log t / n) with averages, for rewards in [0, 1] (Auer et al. 2002).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import behaviour, tables
from jaxrl.arms import Arms, State
from jaxrl.behaviour import UCB, EpsilonGreedy
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, PyTree


@struct
class Estimates:
    value: jax.Array  # [A]
    pulls: jax.Array  # [A] int32


@struct
class ActionValues(Arms):
    """Epsilon-greedy and its relatives, with sample averages or a constant step size."""

    lr: Float | None = param("step size; None is 1 / n, the average", default=None, above=0, high=1)
    initial: Float = param("value of every arm at the start; high is optimistic", default=0.0)
    exploration: Any = param("how arms are chosen", default=EpsilonGreedy(0.1))

    def begin(self, count: int) -> PyTree:
        return Estimates(jnp.zeros(count) + self.initial, jnp.zeros(count, jnp.int32))

    def best(self, known: Estimates) -> jax.Array:
        return known.value

    def choose(self, state: State, key: Key, num_envs: int) -> jax.Array:
        known, share = state.known, self.share(state)
        chances = self.exploration.probabilities(known.value, known.pulls, share)
        return behaviour.sample(key, jnp.broadcast_to(chances, (num_envs, *chances.shape)))

    def learn_from(
        self, known: Estimates, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        pulls = tables.add(known.pulls, (action,), jnp.ones((), jnp.int32))
        alpha = 1.0 / pulls[action].astype(jnp.float32) if self.lr is None else self.lr
        error = reward - known.value[action]
        return Estimates(tables.add(known.value, (action,), alpha * error), pulls), error


@struct
class UCB1(ActionValues):
    """UCB1: the arm that could be best, within its confidence bound."""

    exploration: Any = param("how arms are chosen", default=UCB(1.41421))  # root of 2
