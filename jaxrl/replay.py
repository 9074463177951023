"""Replay: a ring of transitions held in the state of an agent.

An observation is stored once. Row t of the ring holds what was seen and done at time t; the next
observation of a transition is row t + 1, so there is one row more than the capacity, and the row at
the write head holds only the observation that waits for its action. Where an episode was truncated
row t + 1 already belongs to the next episode: the true final observation is kept in one of a few
rows behind the ring, one for each time limit that fits into it, which is exact because truncations
of one environment are at least a time limit apart. Returns over n steps and stacks of frames are
built when they are read.

Positions are `Counter`s: the same in all lanes of a `vmap` over runs, so a write stays a slice.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import mesh, spaces
from jaxrl.struct import Float, static, struct
from jaxrl.types import Counter, Key, PyTree, Rollout, Spec

TERMINATED, TRUNCATED, FIRST = 1, 2, 4


@struct
class Replay:
    """C = `rows` transitions of each of N environments; F rows of final observations."""

    obs: PyTree  # [C + 1 + F, N, ...], only the newest frame where observations are stacks
    action: jax.Array  # [C + 1, N, ...]
    reward: jax.Array  # [C + 1, N] float32
    flags: jax.Array  # [C + 1, N] uint8, a sum of TERMINATED, TRUNCATED and FIRST
    head: Counter  # the row that is written next
    filled: Counter  # rows that hold a transition, at most C
    clock: Counter  # time, modulo F * L
    spec: Spec = static()
    stack: int = static(default=1)

    store = True  # for jaxrl.guard: too large to look through at every iteration

    @property
    def rows(self) -> int:
        return self.flags.shape[0] - 1

    @property
    def num_envs(self) -> int:
        return self.flags.shape[1]


class Ring(Protocol):
    """What a sampler has to know of what it draws from. A `Replay` is a ring of time steps,
    `jaxrl.sequences.Sequences` one of rollouts."""

    @property
    def rows(self) -> int: ...
    @property
    def num_envs(self) -> int: ...
    @property
    def stack(self) -> int: ...
    @property
    def head(self) -> Counter: ...
    @property
    def filled(self) -> Counter: ...


@struct
class Index:
    """Where windows begin, and how much each one counts in the loss."""

    row: jax.Array  # [B] int32
    env: jax.Array  # [B] int32
    weight: jax.Array  # [B] float32


@struct
class Batch:
    """Transitions over up to n steps, bootstrapped with `reward + discount * value(next_obs)`."""

    obs: PyTree  # [B, ...]
    action: jax.Array  # [B, ...]
    reward: jax.Array  # [B]: sum of gamma^i r_{t+i} over the steps used
    discount: jax.Array  # [B]: gamma^(steps used), or 0 after a termination
    next_obs: PyTree  # [B, ...]: the true observation after the last step used
    weight: jax.Array  # [B]


def _stacked(space: spaces.Space) -> spaces.Box | None:
    """The part of an observation that a frame stack is made of."""
    part = (
        space["observation"] if isinstance(space, spaces.Dict) and "observation" in space else space
    )
    return part if isinstance(part, spaces.Box) and part.shape else None


def _map_stacked(function: Any, space: spaces.Space, obs: PyTree) -> PyTree:
    """Apply `function` to the stacked part of an observation and leave the rest alone."""
    if isinstance(space, spaces.Dict):
        return {**obs, "observation": function(obs["observation"])}
    return function(obs)


def _newest(replay: Replay, obs: PyTree) -> PyTree:
    """The last of the frames that lie side by side in the last axis."""
    if replay.stack == 1:
        return obs

    def cut(x: jax.Array) -> jax.Array:
        return x[..., x.shape[-1] - x.shape[-1] // replay.stack :]

    return _map_stacked(cut, replay.spec.obs_space, obs)


def _action_dtype(space: spaces.Space) -> Any:
    match space:
        case spaces.Discrete(n):
            return np.uint8 if n <= 256 else np.int32
        case spaces.MultiDiscrete(nvec):
            return np.uint8 if max(nvec) <= 256 else np.int32
        case _:
            return np.float32


def _final_rows(spec: Spec, rows: int) -> int:
    """C consecutive times touch at most this many blocks of L."""
    return 0 if spec.time_limit is None else math.ceil(rows / spec.time_limit) + 1


def cycle(replay: Replay) -> int:
    """After so many steps the rows of final observations come round again."""
    return _final_rows(replay.spec, replay.rows) * (replay.spec.time_limit or 1)


def init(spec: Spec, capacity: int, num_envs: int, stack: int = 1) -> Replay:
    """An empty replay for `capacity` transitions in all. `stack` is the number of frames that the
    environment concatenates along the last axis of its observations (1: none)."""
    if capacity < num_envs or capacity % num_envs:
        fits = max(1, capacity // num_envs) * num_envs
        raise ValueError(
            f"capacity={capacity} transitions cannot be shared evenly by num_envs={num_envs} "
            f"environments: give a multiple, for instance capacity={fits}."
        )
    if stack > 1:
        part = _stacked(spec.obs_space)
        if part is None or part.shape[-1] % stack:
            raise ValueError(
                f"stack={stack} frames cannot be cut out of {spaces.describe(spec.obs_space)}: the "
                f"last axis must be a multiple of {stack}. Wrap the environment in "
                f"jaxrl.envs.FrameStack(env, {stack}), or give stack=1."
            )
    rows = capacity // num_envs
    final_rows = _final_rows(spec, rows)
    action = spaces.zeros(spec.action_space, (rows + 1, num_envs))
    replay = Replay(
        obs=None,
        action=action.astype(_action_dtype(spec.action_space)),
        reward=jnp.zeros((rows + 1, num_envs), jnp.float32),
        flags=jnp.zeros((rows + 1, num_envs), jnp.uint8),
        head=Counter.zero(),
        filled=Counter.zero(),
        clock=Counter.zero(),
        spec=spec,
        stack=stack,
    )
    frame = jax.eval_shape(lambda: _newest(replay, spaces.zeros(spec.obs_space)))
    shape = (rows + 1 + final_rows, num_envs)
    obs = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape), x.dtype), frame)
    return dataclasses.replace(replay, obs=obs)


def bytes_needed(spec: Spec, capacity: int, num_envs: int, lanes: int = 1, stack: int = 1) -> int:
    """What `lanes` replays of this size take, before any of them is made."""
    replay = jax.eval_shape(lambda: init(spec, capacity, num_envs, stack))
    return lanes * sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(replay))


def _write(ring: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
    """Put `values` [T, N, ...] into the distinct rows `rows` [T]."""
    values = values.astype(ring.dtype)
    if values.shape[0] > 4:
        return ring.at[rows].set(values, unique_indices=True, mode="promise_in_bounds")
    for t in range(values.shape[0]):  # few rows: a slice each, which is written without a loop
        ring = jax.lax.dynamic_update_index_in_dim(ring, values[t], rows[t], 0)
    return ring


def add(replay: Replay, rollout: Rollout) -> Replay:
    """Append the T steps of a rollout, which follows the one added before."""
    num_steps, ring_rows = rollout.reward.shape[0], replay.rows + 1
    if num_steps > replay.rows:
        raise ValueError(
            f"a rollout of {num_steps} steps does not fit into a replay of {replay.rows} steps for "
            f"each of {replay.num_envs} environments: raise capacity to at least "
            f"{num_steps * replay.num_envs}, or lower num_steps."
        )
    rollout = mesh.whole(rollout)  # every device that shares the run holds all of the replay
    rows = (replay.head.value + jnp.arange(num_steps + 1)) % ring_rows
    flags = (
        rollout.terminated * jnp.uint8(TERMINATED)
        + rollout.truncated * jnp.uint8(TRUNCATED)
        + rollout.first * jnp.uint8(FIRST)
    )

    def append(ring: jax.Array, seen: jax.Array, last: jax.Array) -> jax.Array:
        return _write(ring, rows, jnp.concatenate([seen, last[None]]))

    obs = jax.tree.map(
        append, replay.obs, _newest(replay, rollout.obs), _newest(replay, rollout.last_obs)
    )
    clock = replay.clock
    if replay.spec.time_limit is not None:
        obs = _add_final(replay, rollout, obs, replay.spec.time_limit)
        clock = Counter((clock.value + num_steps) % cycle(replay))
    return dataclasses.replace(
        replay,
        obs=obs,
        action=_write(replay.action, rows[:-1], rollout.action),
        reward=_write(replay.reward, rows[:-1], rollout.reward),
        flags=_write(replay.flags, rows[:-1], flags),
        head=Counter((replay.head.value + num_steps) % ring_rows),
        filled=Counter(jnp.minimum(replay.filled.value + num_steps, replay.rows)),
        clock=clock,
    )


def _add_final(replay: Replay, rollout: Rollout, obs: PyTree, limit: int) -> PyTree:
    """Write the observations that ended truncated episodes into the rows behind the ring.

    A block is L consecutive times of the replay's clock. The first one may have begun before this
    rollout and hold final observations from then: only columns truncated now are overwritten.
    """
    num_steps, num_envs = rollout.truncated.shape
    blocks = jnp.arange((num_steps + limit - 2) // limit + 1)  # as many as T steps can touch
    begin = blocks * limit - replay.clock.value % limit  # [blocks] in times of this rollout
    t = jnp.maximum(begin, 0)[:, None] + jnp.arange(min(limit, num_steps))  # [blocks, span]
    inside = t < jnp.minimum(begin + limit, num_steps)[:, None]
    t = jnp.minimum(t, num_steps - 1)
    ended = rollout.truncated[t] & inside[..., None]  # [blocks, span, N], at most one in a span
    when = jnp.take_along_axis(t, jnp.argmax(ended, axis=1), axis=1)  # [blocks, N]
    any_ended = jnp.any(ended, axis=1)  # [blocks, N]
    first_block = replay.clock.value // limit
    rows = replay.rows + 1 + (first_block + blocks) % _final_rows(replay.spec, replay.rows)

    def put(ring: jax.Array, final: jax.Array) -> jax.Array:
        if final.shape[0] == 1:
            new = jnp.broadcast_to(final, (blocks.size, *final.shape[1:]))
        else:
            new = final[when // limit, jnp.arange(num_envs)]  # [blocks, N, ...]
        mask = any_ended.reshape(*any_ended.shape, *(1,) * (new.ndim - 2))
        return _write(ring, rows, jnp.where(mask, new, ring[rows]))

    return jax.tree.map(put, obs, _newest(replay, rollout.final_obs))


def close(replay: Replay) -> Replay:
    """End the episodes that are running: what is added next does not follow what was added last.

    The newest transition of each environment becomes truncated. Only a replay that promises nothing
    about truncation (`time_limit` 1) has a place for each final observation.
    """
    if replay.spec.time_limit != 1:
        raise ValueError(
            f"a replay with time_limit={replay.spec.time_limit} keeps no place for the final "
            "observations of episodes that are broken off."
        )
    row = (replay.head.value - 1) % (replay.rows + 1)
    flags = replay.flags[row]  # [N]
    running = (flags & (TERMINATED | TRUNCATED)) == 0
    place = replay.rows + 1 + (replay.clock.value - 1) % cycle(replay)

    def put(ring: jax.Array) -> jax.Array:
        waiting, old = ring[replay.head.value], ring[place]  # [N, ...]
        mask = running.reshape(-1, *(1,) * (waiting.ndim - 1))
        return _write(ring, place[None], jnp.where(mask, waiting, old)[None])

    return dataclasses.replace(
        replay,
        obs=jax.tree.map(put, replay.obs),
        flags=_write(replay.flags, row[None], (flags | running * jnp.uint8(TRUNCATED))[None]),
    )


def oldest(replay: Ring) -> jax.Array:
    """The age of the oldest transition at which a window may begin; the newest has age 1. The
    first frames of a ring that has wrapped only serve to fill stacks."""
    wrapped = replay.filled.value == replay.rows
    return replay.filled.value - jnp.where(wrapped, replay.stack - 1, 0)


def windows(replay: Ring, n: int = 1) -> jax.Array:
    """How many times a window of n steps may begin: none reaches past the newest transition."""
    return jnp.maximum(oldest(replay) - (n - 1), 0)


def draw(replay: Ring, key: Key, batch_size: int, n: int = 1) -> Index:
    """Uniformly chosen beginnings of windows of n steps."""
    bits = jax.random.bits(key, (2, batch_size), jnp.uint32)
    # A remainder favours small ages by a share of (replay size) / 2^32: too little to see.
    count = jnp.maximum(windows(replay, n), 1).astype(jnp.uint32)
    age = n + (bits[0] % count).astype(jnp.int32)
    row = (replay.head.value - age) % (replay.rows + 1)
    env = (bits[1] % jnp.uint32(replay.num_envs)).astype(jnp.int32)
    return Index(row, env, jnp.ones(batch_size, jnp.float32))


def take(ring: jax.Array, row: jax.Array, env: jax.Array) -> jax.Array:
    """`ring[row, env]` as one gather along one axis."""
    flat = ring.reshape(-1, *ring.shape[2:])
    return flat.at[row * ring.shape[1] + env].get(mode="promise_in_bounds")


def gather(replay: Replay, index: Index, n: int = 1, gamma: Float = 0.99) -> Batch:
    """Read windows of up to n steps; an episode that ends inside one cuts it short."""
    index = mesh.spread(index)
    ring_rows, (row, env) = replay.rows + 1, (index.row, index.env)
    steps = (row[:, None] + jnp.arange(n)) % ring_rows  # [B, n]
    flags = take(replay.flags, steps, env[:, None])  # [B, n]
    rewards = take(replay.reward, steps, env[:, None])  # [B, n]
    powers = jnp.power(gamma, jnp.arange(n + 1))
    if n == 1:
        used, reward, last = 1, rewards[:, 0], flags[:, 0]
        discount = powers[1]
    else:
        ended = (flags & (TERMINATED | TRUNCATED)) > 0
        ended_before = jnp.cumsum(ended[:, :-1], axis=1) > 0  # [B, n - 1]
        used = n - jnp.sum(ended_before, axis=1, dtype=jnp.int32)  # [B], 1 .. n
        alive = jnp.arange(n) < used[:, None]
        reward = jnp.sum(jnp.where(alive, rewards * powers[:-1], 0.0), axis=1)
        last = jnp.take_along_axis(flags, used[:, None] - 1, axis=1)[:, 0]
        discount = powers[used]
    discount = jnp.where((last & TERMINATED) > 0, 0.0, discount)

    next_row = (row + used) % ring_rows
    frame = next_row
    if replay.spec.time_limit is not None:
        age = (replay.head.value - row - 1) % ring_rows - used + 2  # of the last step used
        block = (replay.clock.value - age) % cycle(replay) // replay.spec.time_limit
        frame = jnp.where((last & TRUNCATED) > 0, ring_rows + block, next_row)

    if replay.stack == 1:
        both = _read(replay, jnp.stack([row, frame]), env)  # one gather for both: [2, B, ...]
        obs, next_obs = (jax.tree.map(lambda x, i=i: x[i], both) for i in range(2))
    else:
        fresh = jnp.zeros_like(last, bool)  # a next observation never begins an episode
        obs = _read_stack(replay, row, row, env, (take(replay.flags, row, env) & FIRST) > 0)
        next_obs = _read_stack(replay, frame, next_row, env, fresh)
    action = take(replay.action, row, env)
    if not isinstance(replay.spec.action_space, spaces.Box):
        action = action.astype(jnp.int32)
    return mesh.spread(Batch(obs, action, reward, discount, next_obs, index.weight))


def _read(replay: Replay, row: jax.Array, env: jax.Array) -> PyTree:
    return jax.tree.map(lambda ring: take(ring, row, env), replay.obs)


def _read_stack(
    replay: Replay, frame: jax.Array, row: jax.Array, env: jax.Array, first: jax.Array
) -> PyTree:
    """The observation whose newest frame lies in row `frame` and whose time is that of `row`:
    walks back `stack - 1` frames, but stays at the first frame of the episode."""
    newest = _read(replay, frame, env)

    def assemble(ring: jax.Array, last: jax.Array) -> jax.Array:
        frames, at, started = [last], row, first
        current = last
        for _ in range(replay.stack - 1):
            at = (at - 1) % (replay.rows + 1)
            shape = started.reshape(-1, *(1,) * (last.ndim - 1))
            current = jnp.where(shape, current, take(ring, at, env))
            started = started | ((take(replay.flags, at, env) & FIRST) > 0)
            frames.append(current)
        return jnp.concatenate(frames[::-1], axis=-1)

    space = replay.spec.obs_space
    if isinstance(space, spaces.Dict):
        return {**newest, "observation": assemble(replay.obs["observation"], newest["observation"])}
    return assemble(replay.obs, newest)


def sample(replay: Replay, key: Key, batch_size: int, n: int = 1, gamma: Float = 0.99) -> Batch:
    """A uniform batch of windows of up to n steps."""
    return gather(replay, draw(replay, key, batch_size, n), n, gamma)


@struct
class Uniform:
    """Draws every window equally often, and remembers nothing. `jaxrl.priority.Prioritized` has the
    same four functions."""

    def init(self, replay: Ring) -> tuple[()]:
        del replay
        return ()

    def added(self, memory: tuple[()], replay: Ring, num_steps: int, n: int) -> tuple[()]:
        del replay, num_steps, n
        return memory

    def draw(
        self,
        memory: tuple[()],
        replay: Ring,
        key: Key,
        batch_size: int,
        n: int,
        share: jax.Array,
    ) -> Index:
        del memory, share
        return draw(replay, key, batch_size, n)

    def learned(self, memory: tuple[()], replay: Ring, index: Index, error: jax.Array) -> tuple[()]:
        del replay, index, error
        return memory


def check_room(replay: Replay, steps: int, batch_size: int, learning_starts: int) -> None:
    """Refuse a replay too small for what an agent does with it. `steps` are those of a rollout, a
    window and a stack together."""
    capacity = replay.rows * replay.num_envs
    if replay.rows < steps:
        raise ValueError(
            f"capacity={capacity} over num_envs={replay.num_envs} environments is "
            f"{replay.rows} steps of each, fewer than the {steps} that a rollout, a window and a "
            f"stack take together: write capacity={steps * replay.num_envs} or more."
        )
    if batch_size > capacity:
        raise ValueError(
            f"batch_size={batch_size} is more than capacity={capacity}: write "
            f"batch_size={capacity} or less, or a larger capacity."
        )
    if learning_starts > capacity:
        raise ValueError(
            f"learning_starts={learning_starts} is more than capacity={capacity}, so what was "
            "played first would be lost unused: lower learning_starts or raise capacity."
        )
