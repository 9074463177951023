"""Monte Carlo methods and the off-line lambda-return: learning when an episode is over.

The returns G = r + gamma G' are computed backwards through the episode (Sutton and Barto 2018,
chapter 5). With the default step sizes, 1 / n, a value is the mean of its returns; `visits` says
which visits of an episode count. `LambdaReturn` mixes the estimates of all lengths, G = r + gamma
((1 - lam) V(s') + lam G'), with values as they were when the episode ended (section 12.1). Where
an episode was cut, the table's own value stands for what was not seen.

Episodes are kept up to `horizon` steps. Updates happen at the ends, so that on a CPU runs are best
advanced one after the other (the default) with `num_steps` of 16 and more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import episodes, stepsizes
from jaxrl.episodes import Episode
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import Move
from jaxrl.tabular import Control, Prediction, Table
from jaxrl.types import PyTree, Spec

Which = Callable[[jax.Array], jax.Array]


def _backwards(
    agent: Any, table: Table, episode: Episode, last: jax.Array, steps: jax.Array,
    entry: Callable[[jax.Array], tuple[jax.Array, ...]],
) -> tuple[Table, jax.Array]:  # fmt: skip
    """A step towards the return of each visit that counts, the last one first."""

    def back(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        table, g, error = carry
        t = episode.place(i)
        g = episode.reward[t] + agent.gamma * g
        counts = agent.visits(episode.first[t])
        table, new = agent.moved(table, entry(t), g, counts)
        return table, g, jnp.where(counts, new, error)

    start = (table, last, jnp.full((), jnp.nan))
    table, _, error = jax.lax.fori_loop(0, steps, back, start)
    return table, error


@struct
class MonteCarlo(Prediction):
    """Monte Carlo prediction, first-visit or every-visit."""

    lr: Float = param("step size", default=1.0, above=0)
    decay: Callable[[jax.Array], jax.Array] = static(
        "factor on lr at a state's n-th update", default=stepsizes.harmonic
    )
    visits: Which = static("which visits count", default=episodes.first_visits)
    horizon: int = static("steps of an episode that are kept", default=1000, low=1)
    num_steps: int = static("steps per environment and update", default=16, low=1)

    together = 1  # an end in one run would keep all of them waiting

    def begin(self, spec: Spec, size: int) -> PyTree:
        return episodes.begin(self.horizon, size)

    def learn_from(
        self, table: Table, memory: PyTree, move: Move
    ) -> tuple[Table, PyTree, jax.Array]:
        episode = episodes.append(memory, move, move.obs, jnp.ones(()))
        last = jnp.where(move.terminated, 0.0, table.values[move.next_obs])
        table, error = self.finish(table, episode, last, jnp.where(move.ended, episode.kept, 0))
        return table, episodes.over(episode, move.ended), error

    def finish(
        self, table: Table, episode: Episode, last: jax.Array, steps: jax.Array
    ) -> tuple[Table, jax.Array]:
        """Learn from the newest `steps` of an episode, after which `last` was to come."""
        return _backwards(self, table, episode, last, steps, lambda t: (episode.obs[t],))


@struct
class LambdaReturn(MonteCarlo):
    """The off-line lambda-return: a step towards each at the end of the episode, in order."""

    lr: Float = param("step size", default=0.1, above=0)
    decay: Callable[[jax.Array], jax.Array] = static(
        "factor on lr at a state's n-th update", default=stepsizes.fixed
    )
    visits: Which = static("which visits count", default=episodes.every_visit)
    lam: Float = param("how little the estimates on the way count", default=0.9, low=0, high=1)

    def finish(
        self, table: Table, episode: Episode, last: jax.Array, steps: jax.Array
    ) -> tuple[Table, jax.Array]:
        def back(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            g, value, returns = carry
            t = episode.place(i)
            g = episode.reward[t] + self.gamma * ((1.0 - self.lam) * value + self.lam * g)
            return g, table.values[episode.obs[t]], returns.at[t].set(g)

        def forth(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            table, error = carry
            t = episode.place(steps - 1 - i)
            counts = self.visits(episode.first[t])
            table, new = self.moved(table, (episode.obs[t],), returns[t], counts)
            return table, jnp.where(counts, new, error)

        start = (last, last, jnp.zeros(self.horizon))
        *_, returns = jax.lax.fori_loop(0, steps, back, start)
        return jax.lax.fori_loop(0, steps, forth, (table, jnp.full((), jnp.nan)))


@struct
class MonteCarloControl(Control):
    """On-policy Monte Carlo control; the policy is as soft as `exploration` makes it."""

    lr: Float = param("step size", default=1.0, above=0)
    decay: Callable[[jax.Array], jax.Array] = static(
        "factor on lr at a pair's n-th update", default=stepsizes.harmonic
    )
    visits: Which = static("which visits count", default=episodes.first_visits)
    horizon: int = static("steps of an episode that are kept", default=1000, low=1)
    num_steps: int = static("steps per environment and update", default=16, low=1)

    together = 1  # an end in one run would keep all of them waiting

    def begin(self, spec: Spec, size: int) -> PyTree:
        return episodes.begin(self.horizon, size)

    def extras(self, probability: jax.Array, action: jax.Array) -> PyTree:
        return jnp.take_along_axis(probability, action[:, None], axis=1)[:, 0]

    def learn_from(
        self, table: Table, memory: PyTree, move: Move, share: jax.Array
    ) -> tuple[Table, PyTree, jax.Array]:
        entry = move.obs * table.values.shape[1] + move.action
        episode = episodes.append(memory, move, entry, move.extras)
        last = jnp.where(move.terminated, 0.0, self.beyond(table, move.next_obs, share))
        steps = jnp.where(move.ended, episode.kept, 0)
        table, error = self.finish(table, episode, last, steps, share)
        return table, episodes.over(episode, move.ended), error

    def beyond(self, table: Table, s: jax.Array, share: jax.Array) -> jax.Array:
        """What the table says about the rest of an episode that was cut."""
        return self.expected(table, s, share)

    def finish(
        self, table: Table, episode: Episode, last: jax.Array, steps: jax.Array, share: jax.Array
    ) -> tuple[Table, jax.Array]:
        """Learn from the newest `steps` of an episode, after which `last` was to come."""
        return _backwards(
            self, table, episode, last, steps, lambda t: (episode.obs[t], episode.action[t])
        )
