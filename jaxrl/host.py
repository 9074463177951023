"""Environments that run on the host: what they are.

A `HostEnv` says what is observed and done and opens *pools*, copies of the environment that step
together as Python objects. `jaxrl.host_train` trains in them, `jaxrl.host_play` plays whole
episodes, and `jaxrl.host_programs` is the part of both that is compiled.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import lanes
from jaxrl.lanes import Lanes
from jaxrl.spaces import Space
from jaxrl.types import Key, PyTree

Array: TypeAlias = np.ndarray[Any, Any]

SEEDS, EVALUATION = 2**31 + 2, 2**31 + 1
"""Folded into a run's key: for the starts of its environments, for those it is evaluated in."""


@dataclasses.dataclass
class Moved:
    """What a pool of N environments returns for one action each."""

    obs: PyTree  # [N, ...]: the first one of the next episode where one ended
    reward: Array  # [N] float32
    terminated: Array  # [N] bool
    truncated: Array  # [N] bool, never together with terminated
    final_obs: PyTree | None  # [N, ...]: the true last one of those truncated; None for none


class Pool(Protocol):
    """N environments in play. Arrays that were returned are never written to again: the device
    may still be reading them."""

    def reset(self, seeds: Array) -> PyTree:
        """Begin anew with a seed for each environment -> obs [N, ...]."""
        ...

    def step(self, action: Array) -> Moved: ...

    def close(self) -> None: ...


class HostEnv(abc.ABC):
    """An environment of another library. To JAX it is a constant, compared by identity."""

    obs_space: Space
    action_space: Space
    num_envs: int | None = None
    """Copies for each run; None for as many as the agent asks for."""
    groups: int = 1
    """Parts of a run's environments, whose steps and actions overlap."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        jax.tree_util.register_static(cls)

    @property
    def time_limit(self) -> int:
        """Unknown: 1 promises nothing."""
        return 1

    @abc.abstractmethod
    def open(self, count: int) -> Pool:
        """A pool of `count` environments."""

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files; None for none."""
        return None

    def reset(self, key: Key) -> Any:
        del key
        raise TypeError(self._refusal)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> Any:
        del state, action, key
        raise TypeError(self._refusal)

    @property
    def _refusal(self) -> str:
        return (
            f"{type(self).__name__} steps in Python and cannot be part of a compiled program: give "
            "it to jaxrl.train, stream or evaluate as it is. Wrappers go round the original: "
            "from_gymnasium(lambda: MyWrapper(gymnasium.make(...)))."
        )


def check(agent: Any, env: HostEnv, traced: bool) -> None:
    """Refuse what does not go together, before anything is compiled."""
    if traced:
        raise TypeError(
            "a host environment cannot be stepped inside jit or vmap: call jaxrl.train with "
            "concrete values; an array of keys is several runs."
        )
    if env.num_envs not in (None, agent.num_envs):
        raise ValueError(
            f"env holds num_envs={env.num_envs} environments, {type(agent).__name__} plays "
            f"num_envs={agent.num_envs}: give both the same number."
        )
    if agent.num_envs % env.groups:
        raise ValueError(
            f"groups={env.groups} does not divide num_envs={agent.num_envs}: write groups=1, or "
            "another number of environments."
        )


def arrange(count: int, together: int | None) -> Lanes:
    """All runs on one device: the host is what limits them."""
    wished = together or (lanes.CPU_GROUP if jax.default_backend() == "cpu" else count)
    group = max(n for n in range(1, min(wished, count) + 1) if count % n == 0)
    return Lanes(count, 1, count // group, group)


def seeds(key: Key, shape: tuple[int, ...], tag: int, count: int = 0) -> Array:
    """A seed below 2^31 for each environment of the run that `key` belongs to."""
    key = jax.random.fold_in(jax.random.fold_in(key, tag), count)
    return np.asarray(jax.random.bits(key, shape, jnp.uint32)) >> 1
