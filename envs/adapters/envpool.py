"""EnvPool: `jaxrl.envs.from_envpool("Pong-v5", num_envs=8)`, where it is installed.

EnvPool steps its environments in C++ threads. By itself it begins the next episode in the call
after an end and ignores that call's action, a step that never was; environments that ended are
reset before that, by their numbers. `options` go to `envpool.make`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from jaxrl import checks
from jaxrl.envs.adapters import gymnasium_spaces as convert
from jaxrl.host import HostEnv, Moved
from jaxrl.types import PyTree

Array: TypeAlias = np.ndarray[Any, Any]


def _library() -> Any:
    try:
        import envpool  # pyright: ignore
    except ImportError as error:
        raise ImportError("from_envpool needs EnvPool: pip install envpool.") from error
    return envpool


class Threads:
    """N environments of one EnvPool, which is made when they are first reset: it takes its seed
    then."""

    def __init__(self, name: str, count: int, options: dict[str, Any]) -> None:
        self.name, self.count, self.options = name, count, options
        self.env: Any = None

    def reset(self, seeds: Array) -> PyTree:
        self.close()
        self.env = _library().make(
            self.name,
            env_type="gymnasium",
            num_envs=self.count,
            seed=int(seeds[0]),
            **self.options,
        )
        return convert.received(self.env.observation_space, self.env.reset()[0])

    def step(self, action: Array) -> Moved:
        space = self.env.observation_space
        batch = convert.actions(self.env.action_space, action)
        seen, reward, terminated, truncated, _ = self.env.step(batch)
        terminated = np.array(terminated, np.bool_)
        truncated = np.array(truncated, np.bool_) & ~terminated
        obs, final = convert.received(space, seen), None
        ended = np.flatnonzero(terminated | truncated)
        if ended.size:
            if truncated.any():
                final = convert.received(space, seen)
            new = convert.received(space, self.env.reset(ended.astype(np.int32))[0])
            _put(obs, ended, new)
        return Moved(obs, np.array(reward, np.float32), terminated, truncated, final)

    def close(self) -> None:
        if self.env is not None:
            self.env.close()
            self.env = None


def _put(rows: PyTree, index: Array, new: PyTree) -> None:
    if isinstance(rows, dict):
        for name in rows:
            _put(rows[name], index, new[name])
    else:
        rows[index] = new


class EnvPool(HostEnv):
    """An environment of EnvPool, which `from_envpool` makes."""

    def __init__(
        self, name: str, num_envs: int | None, groups: int, options: dict[str, Any]
    ) -> None:
        self.name, self.options = name, options
        self.num_envs, self.groups = num_envs, groups
        example = _library().make(name, env_type="gymnasium", num_envs=1, **options)
        self.obs_space = convert.convert(example.observation_space)
        self.action_space = convert.convert_action(example.action_space)
        example.close()

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        own = {"num_envs": self.num_envs, "groups": self.groups}
        return f"envpool/{self.name}", {**own, **self.options}

    def open(self, count: int) -> Threads:
        return Threads(self.name, count, self.options)


def from_envpool(
    name: str, num_envs: int | None = None, *, groups: int = 1, **options: Any
) -> EnvPool:
    """An environment of EnvPool, for `jaxrl.train`, `stream` and `evaluate`. `num_envs` must be
    that of the agent; left out, the agent decides. `groups` is that of `from_gymnasium`."""
    checks.positive_int(groups, "groups")
    if num_envs is not None:
        checks.positive_int(num_envs, "num_envs")
    if name not in names():
        raise ValueError(
            f"name='envpool/{name}' is unknown to EnvPool; see envpool.list_all_envs()."
        )
    return EnvPool(name, num_envs, groups, options)


def names() -> list[str]:
    """What `make` accepts after "envpool/"."""
    return sorted(_library().list_all_envs())


def make(name: str, num_envs: int | None = None, groups: int = 1, **options: Any) -> EnvPool:
    """An environment by its name in EnvPool."""
    return from_envpool(name, num_envs, groups=groups, **options)
