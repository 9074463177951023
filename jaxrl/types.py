"""The contract: what an agent is, what an environment is, and what passes between them."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrl.spaces import Space
from jaxrl.struct import struct

Key: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Metrics: TypeAlias = dict[str, jax.Array]

MAX_COUNT = 2**31 - 1


@struct
class Counter:
    """A number shared by every lane of a `vmap` over runs.

    The driver keeps these unbatched, so that `lax.cond` on a schedule stays a branch and a write
    at a counted position stays a slice. It may only be computed from other counters and from
    static numbers, never from data. It stops at 2**31 - 1 instead of wrapping round.
    """

    value: jax.Array  # int32, scalar

    @classmethod
    def zero(cls) -> Counter:
        return cls(jnp.zeros((), jnp.int32))

    def add(self, n: int | jax.Array) -> Counter:
        n = jnp.asarray(n, jnp.int32)
        return Counter(jnp.where(self.value > MAX_COUNT - n, MAX_COUNT, self.value + n))


@struct
class Step:
    """What one environment returns for one action. Nothing here is reset: `obs` is the true next
    observation even when the episode is over; the driver starts the next episode."""

    obs: PyTree
    reward: jax.Array  # float32
    terminated: jax.Array  # bool: the process ended, its value is zero from here
    truncated: jax.Array  # bool: we stopped watching, the value goes on
    measures: PyTree = ()  # {name: float32}, or nothing: what else to watch, a metric each


@runtime_checkable
class Env(Protocol):
    """A pure environment. It is a pytree: its physical constants are traced leaves.

    `time_limit` bounds how soon truncation can come: an int L promises that no episode is
    truncated before its L-th step (1 promises nothing), None that no episode ever is. Rollouts and
    replay use it to keep one final observation per L steps instead of one per step.
    """

    @property
    def obs_space(self) -> Space: ...

    @property
    def action_space(self) -> Space: ...

    @property
    def time_limit(self) -> int | None: ...

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        """-> state, obs"""
        ...

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        """-> state, Step. When both flags are raised, termination wins."""
        ...


@dataclasses.dataclass(frozen=True)
class Spec:
    """All an agent may know about its task before it starts: hashable, part of the program."""

    obs_space: Space
    action_space: Space
    time_limit: int | None = None
    steps: int = 0
    """Environment steps planned for the run, the denominator of every schedule."""


@struct
class ActOut:
    """`extras` is stored in the rollout (a log-probability, say); `memory` is carried to the next
    step by agents that remember, and is an empty pytree for all others."""

    action: jax.Array
    extras: PyTree = ()
    memory: PyTree = None


@struct
class Rollout:
    """T steps of N environments, time first.

    The observation that follows step t is `obs[t + 1]` (`last_obs` for the last), unless the
    episode ended at t, when that is already the first observation of the next episode. The true
    final observation of an episode truncated at t is `final_obs[t // L]`, where L is
    `spec.time_limit`: truncations of one environment are at least L steps apart.
    """

    obs: PyTree  # [T, N, ...]
    action: jax.Array  # [T, N, ...]
    reward: jax.Array  # [T, N]
    terminated: jax.Array  # [T, N] bool
    truncated: jax.Array  # [T, N] bool, never together with terminated
    first: jax.Array  # [T, N] bool: obs[t] begins an episode
    last_obs: PyTree  # [N, ...]
    final_obs: PyTree  # [ceil(T / L), N, ...]; no rows where L is None
    extras: PyTree  # [T, N, ...]
    memory: PyTree  # [N, ...], as it was before the first step
    last_memory: PyTree  # [N, ...], as it is after the last step
    measures: PyTree = ()  # {name: [T, N]}, or nothing


@runtime_checkable
class Agent(Protocol):
    """A frozen pytree of hyperparameters with pure functions. See CONTRIBUTING.md for a complete
    one in forty lines. `num_envs` x `num_steps` environment steps are collected per update."""

    @property
    def num_envs(self) -> int: ...

    @property
    def num_steps(self) -> int: ...

    def init(self, key: Key, spec: Spec) -> Any: ...

    def act(self, state: Any, obs: PyTree, key: Key, explore: bool = True) -> ActOut: ...

    def update(self, state: Any, rollout: Rollout, key: Key) -> tuple[Any, Metrics]: ...
