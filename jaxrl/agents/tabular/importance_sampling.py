"""Off-policy Monte Carlo: returns of one policy, weighed to tell about another.

Going back through an episode, W is the product of pi(a | s) / mu(a | s) over the choices that come
later (Sutton and Barto 2018, sections 5.5 to 5.7). `ordinary` averages W G over all visits:
unbiased, and its variance can be infinite. `weighted` divides the sum of W G by the sum of W:
biased at first, and steady. All visits count. A cut episode is worth what the table says beyond it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import behaviour, episodes, tables
from jaxrl.behaviour import EpsilonGreedy, Rows
from jaxrl.episodes import Episode
from jaxrl.struct import param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Prediction, Table, mean
from jaxrl.types import PyTree, Spec

Weighing = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(W, G) -> (how much the sample counts, what is averaged)"""


def ordinary(w: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.ones_like(w), w * g


def weighted(w: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return w, g


def _average(
    table: Table, index: tuple[jax.Array, ...], mass: jax.Array, sample: jax.Array
) -> tuple[Table, jax.Array]:
    """A mean that goes on; `table.model` is the mass so far."""
    total = tables.add(table.model, index, mass)
    error = sample - table.values[index]
    share = jnp.where(mass > 0, mass / jnp.where(total[index] > 0, total[index], 1.0), 0.0)
    values = tables.add(table.values, index, share * error)
    return dataclasses.replace(table, values=values, model=total), error


@struct
class ImportanceSampling(Prediction):
    """Off-policy Monte Carlo prediction: values of `target` from episodes of `policy`."""

    target: Rows | None = static(
        "the policy that is learned about, behaviour.rows([S, A]); None is uniform", default=None
    )
    weighing: Weighing = static("ordinary or weighted", default=weighted)
    horizon: int = static("steps of an episode that are kept", default=1000, low=1)
    num_steps: int = static("steps per environment and update", default=16, low=1)

    together = 1  # an end in one run would keep all of them waiting

    def check(self, spec: Spec, size: int) -> None:
        actions: int = spec.action_space.n  # pyright: ignore
        behaviour.check(f"{type(self).__name__}(target=...)", self.target, size, actions)

    def begin(self, spec: Spec, size: int) -> PyTree:
        """The episode, and the probability of an action where all are alike."""
        actions: int = spec.action_space.n  # pyright: ignore
        return episodes.begin(self.horizon, size), jnp.full((), 1.0 / actions)

    def model(self, states: int) -> PyTree:
        return jnp.zeros(states)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move
    ) -> tuple[Table, PyTree, jax.Array]:
        episode, uniform = memory
        s, a = move.obs, move.action
        mu, pi = (
            uniform if rows is None else jnp.asarray(rows)[s, a]
            for rows in (self.policy, self.target)
        )
        episode = episodes.append(episode, move, s, pi / mu)

        def back(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            table, g, w, error = carry
            t = episode.place(i)
            g = episode.reward[t] + self.gamma * g
            w = w * episode.mu[t]
            table, error = _average(table, (episode.obs[t],), *self.weighing(w, g))
            return table, g, w, error

        last = jnp.where(move.terminated, 0.0, table.values[move.next_obs])
        steps = jnp.where(move.ended, episode.kept, 0)
        start = (table, last, jnp.ones(()), jnp.full((), jnp.nan))
        table, _, _, error = jax.lax.fori_loop(0, steps, back, start)
        return table, (episodes.over(episode, move.ended), uniform), error


@struct
class OffPolicyMonteCarlo(Control):
    """Off-policy Monte Carlo control: the greedy policy from episodes of a softer one."""

    target: Any = param("policy that is learned about", default=EpsilonGreedy(0.0))
    weighing: Weighing = static("ordinary or weighted", default=weighted)
    horizon: int = static("steps of an episode that are kept", default=1000, low=1)
    num_steps: int = static("steps per environment and update", default=16, low=1)

    together = 1  # an end in one run would keep all of them waiting

    def begin(self, spec: Spec, size: int) -> PyTree:
        return episodes.begin(self.horizon, size)

    def model(self, states: int, actions: int) -> PyTree:
        return jnp.zeros((states, actions))

    def extras(self, probability: jax.Array, action: jax.Array) -> PyTree:
        return jnp.take_along_axis(probability, action[:, None], axis=1)[:, 0]

    def learned(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        visits = None if table.visits is None else table.visits[s]
        return self.target.probabilities(self.q(table, s), visits, share)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        entry = move.obs * table.values.shape[1] + move.action
        episode: Episode = episodes.append(memory, move, entry, move.extras)

        def back(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            table, g, w, error = carry
            t = episode.place(i)
            s, a = episode.obs[t], episode.action[t]
            g = episode.reward[t] + self.gamma * g
            table, error = _average(table, (s, a), *self.weighing(w, g))
            return table, g, w * self.learned(table, s, share)[a] / episode.mu[t], error

        s = move.next_obs
        value = mean(self.learned(table, s, share), self.q(table, s))
        last = jnp.where(move.terminated, 0.0, value)
        steps = jnp.where(move.ended, episode.kept, 0)
        start = (table, last, jnp.ones(()), jnp.full((), jnp.nan))
        table, _, _, error = jax.lax.fori_loop(0, steps, back, start)
        return table, episodes.over(episode, move.ended), error
