"""The running episode of one environment, kept until its return is known."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.struct import struct
from jaxrl.tables import Move


@struct
class Episode:
    """The last H transitions since the start. What an episode longer than H did before them is
    forgotten, and not learned from."""

    obs: jax.Array  # [H] int32
    action: jax.Array  # [H] int32
    reward: jax.Array  # [H]
    first: jax.Array  # [H] bool: the entry had not been visited before in this episode
    mu: jax.Array  # [H]: the probability with which the action was taken
    count: jax.Array  # int32: transitions since the start
    number: jax.Array  # int32: of the episode, 1 for the first
    seen: jax.Array  # [entries] int32: the number of the last episode that visited each

    @property
    def kept(self) -> jax.Array:
        return jnp.minimum(self.count, self.obs.shape[0])

    def place(self, back: jax.Array | int) -> jax.Array:
        """Where the newest transition but `back` is."""
        return (self.count - 1 - back) % self.obs.shape[0]


def begin(horizon: int, entries: int) -> Episode:
    ints, floats = jnp.zeros(horizon, jnp.int32), jnp.zeros(horizon)
    zero = jnp.zeros((), jnp.int32)
    seen = jnp.zeros(entries, jnp.int32)
    return Episode(ints, ints, floats, ints > 0, floats, zero, zero + 1, seen)


def append(episode: Episode, move: Move, entry: jax.Array, mu: jax.Array) -> Episode:
    """`entry` is what is counted as visited: the state, or the pair."""
    place = episode.count % episode.obs.shape[0]
    return dataclasses.replace(
        episode,
        obs=episode.obs.at[place].set(move.obs),
        action=episode.action.at[place].set(move.action),
        reward=episode.reward.at[place].set(move.reward),
        first=episode.first.at[place].set(episode.seen[entry] != episode.number),
        mu=episode.mu.at[place].set(mu),
        count=episode.count + 1,
        seen=episode.seen.at[entry].set(episode.number),
    )


def over(episode: Episode, ended: jax.Array) -> Episode:
    """Begin the next one where this one ended."""
    return dataclasses.replace(
        episode,
        count=jnp.where(ended, 0, episode.count),
        number=episode.number + ended.astype(jnp.int32),
    )


def first_visits(first: jax.Array) -> jax.Array:
    """Only the first visit of an entry in an episode counts: unbiased, independent samples."""
    return first


def every_visit(first: jax.Array) -> jax.Array:
    return jnp.ones_like(first)
