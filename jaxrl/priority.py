"""Prioritised replay (Schaul et al. 2016): proportional sampling that is right in float32.

The priorities are the leaves of a tree of sums with a fan-out of sixteen: five levels for a million
leaves, where a binary tree has twenty. A level is descended by comparing with the running sums of
one block. Sums are recomputed from the level below whenever a leaf changes, never adjusted by a
difference, so nothing drifts; and a choice is only ever made among entries that are themselves
above zero, so rounding cannot lead to an empty slot.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl import mesh
from jaxrl.replay import Index, Ring, oldest
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key

WIDTH = 16
"""Entries of a block: the fastest of 8 to 1000 on a CPU, for ten thousand leaves and a million."""

SMALLEST, LARGEST = 1e-30, 1e30  # stored priorities: none underflows, and no sum overflows


@struct
class SumTree:
    """`levels[0]` holds the leaves as blocks [M, W], `levels[i + 1]` the sums of the blocks of
    `levels[i]`; the last level is a single block."""

    levels: tuple[jax.Array, ...]

    store = True  # for jaxrl.guard: too large to look through at every iteration

    @property
    def total(self) -> jax.Array:
        return jnp.sum(self.levels[-1])


def shapes(size: int) -> list[tuple[int, int]]:
    """(blocks, width) of each level of a tree with room for `size` leaves."""
    levels: list[tuple[int, int]] = []
    while size > WIDTH:
        size = math.ceil(size / WIDTH)
        levels.append((size, WIDTH))
    return [*levels, (1, size)]


def empty(size: int) -> SumTree:
    return SumTree(tuple(jnp.zeros(shape, jnp.float32) for shape in shapes(size)))


def put(tree: SumTree, leaf: jax.Array, value: jax.Array) -> SumTree:
    """Set leaves [B] to values [B]. Where a leaf is named twice, one of its values is kept."""
    levels: list[jax.Array] = []
    for level in tree.levels:
        width = level.shape[1]
        flat = level.reshape(-1).at[leaf].set(value, mode="promise_in_bounds")
        levels.append(flat.reshape(-1, width))
        leaf = leaf // width
        value = jnp.sum(levels[-1][leaf], axis=-1)  # [B], what the level above must hold
    return SumTree(tuple(levels))


def get(tree: SumTree, leaf: jax.Array) -> jax.Array:
    return tree.levels[0].reshape(-1)[leaf]


def _choose(block: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """In each block [B, W] the first entry above zero whose running sum exceeds u [B], or the last
    entry above zero where rounding leaves none. -> its position [B], what is left of u [B]."""
    width = block.shape[-1]
    position = jnp.arange(width)
    upper = jnp.triu(jnp.ones((width, width), jnp.float32))
    running = jnp.dot(block, upper, precision="highest")  # a cumsum, in one small product
    positive = block > 0
    beyond = positive & (running > u[:, None])
    first = jnp.min(jnp.where(beyond, position, width), axis=-1)
    last = jnp.max(jnp.where(positive, position, 0), axis=-1)
    chosen = jnp.minimum(first, last)  # `first` is `width` where there is none
    before = jnp.sum(jnp.where(position < chosen[:, None], block, 0.0), axis=-1)
    return chosen, u - before


def find(tree: SumTree, u: jax.Array) -> jax.Array:
    """The leaf at which the running sum of all leaves passes u [B], for u in [0, total)."""
    top = tree.levels[-1]
    chosen, u = _choose(jnp.broadcast_to(top, (u.shape[0], top.shape[1])), u)
    for level in tree.levels[-2::-1]:
        within, u = _choose(level[chosen], u)
        chosen = chosen * level.shape[1] + within
    return chosen


def stratified(key: Key, batch_size: int, total: jax.Array) -> jax.Array:
    """One point in each of `batch_size` equal parts of [0, total)."""
    uniform = jax.random.uniform(key, (batch_size,))
    return (jnp.arange(batch_size) + uniform) * (total / batch_size)


def importance_weights(probability: jax.Array, size: jax.Array | int, beta: Float) -> jax.Array:
    """(N P)^-beta over the largest of the batch (section 3.4). N, the number of transitions held
    now, cancels; it is kept so that the intermediate is the paper's."""
    weight = jnp.power(size * probability, -beta)
    return weight / jnp.max(weight)


@struct
class Priorities:
    """What a prioritised sampler remembers about one replay."""

    tree: SumTree  # leaf row * N + env holds priority^alpha; zero where no window may begin
    largest: jax.Array  # the largest priority so far, given to what is new


@struct
class Prioritized:
    """Draws a window in proportion to (|TD error| + eps)^alpha, and weighs it against the bias."""

    alpha: Float = param("how much priorities matter: 0 is uniform", default=0.6, low=0, high=1)
    beta: Float = param("correction of the bias at the start", default=0.4, low=0, high=1)
    beta_end: Float = param(
        "correction of the bias at the end of the run", default=1.0, low=0, high=1
    )
    eps: Float = param("added to every priority", default=1e-6, above=0)

    def init(self, replay: Ring) -> Priorities:
        return Priorities(empty((replay.rows + 1) * replay.num_envs), jnp.ones((), jnp.float32))

    def _stored(self, priority: jax.Array) -> jax.Array:
        return jnp.clip(jnp.power(priority, self.alpha), SMALLEST, LARGEST)

    def added(self, memory: Priorities, replay: Ring, num_steps: int, n: int) -> Priorities:
        """After `num_steps` steps were added: windows that have become whole get the largest
        priority, rows that were overwritten or still lack steps get zero."""
        ring_rows, num_envs = replay.rows + 1, replay.num_envs
        env = jnp.arange(num_envs)
        age = jnp.arange(n + num_steps)  # age 0 is the row at the head
        ready = (age >= n) & (age <= oldest(replay))
        value = jnp.where(ready, self._stored(memory.largest), 0.0)
        row = (replay.head.value - age) % ring_rows
        leaf = row[:, None] * num_envs + env  # [n + T, N]
        value = jnp.broadcast_to(value[:, None], leaf.shape)
        tree = put(memory.tree, leaf.ravel(), value.ravel())
        if replay.stack > 1:  # the oldest frames only complete the stacks of those after them
            age = replay.rows - jnp.arange(replay.stack - 1)
            row = (replay.head.value - age) % ring_rows
            leaf = (row[:, None] * num_envs + env).ravel()
            wrapped = replay.filled.value == replay.rows
            tree = put(tree, leaf, jnp.where(wrapped, 0.0, get(tree, leaf)))
        return Priorities(tree, memory.largest)

    def draw(
        self,
        memory: Priorities,
        replay: Ring,
        key: Key,
        batch_size: int,
        n: int,
        share: jax.Array,
    ) -> Index:
        """`share` is how much of the run lies behind us."""
        total = memory.tree.total
        leaf = find(memory.tree, stratified(key, batch_size, total))
        size = replay.filled.value * replay.num_envs
        beta = self.beta + (self.beta_end - self.beta) * share
        weight = importance_weights(get(memory.tree, leaf) / total, size, beta)
        return Index(leaf // replay.num_envs, leaf % replay.num_envs, weight)

    def learned(
        self, memory: Priorities, replay: Ring, index: Index, error: jax.Array
    ) -> Priorities:
        """Store the TD errors [B] as priorities, without the importance weights."""
        index, error = mesh.whole((index, error))
        priority = jnp.abs(error) + self.eps
        leaf = index.row * replay.num_envs + index.env
        tree = put(memory.tree, leaf, self._stored(priority))
        return Priorities(tree, jnp.maximum(memory.largest, jnp.max(priority)))
