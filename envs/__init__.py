"""Environments: `make` one by name, or build one and wrap it.

Everything here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.envs.adapters.envpool import from_envpool
    from jaxrl.envs.adapters.gymnasium import from_gymnasium
    from jaxrl.envs.adapters.to_gymnasium import to_gymnasium
    from jaxrl.envs.bsuite.catch import Catch
    from jaxrl.envs.bsuite.deep_sea import DeepSea
    from jaxrl.envs.bsuite.discounting_chain import DiscountingChain
    from jaxrl.envs.bsuite.memory_chain import MemoryChain
    from jaxrl.envs.classic.acrobot import Acrobot
    from jaxrl.envs.classic.cartpole import CartPole
    from jaxrl.envs.classic.mountain_car import MountainCar
    from jaxrl.envs.classic.mountain_car_continuous import MountainCarContinuous
    from jaxrl.envs.classic.pendulum import Pendulum
    from jaxrl.envs.memory.repeat_first import RepeatFirst
    from jaxrl.envs.memory.t_maze import TMaze
    from jaxrl.envs.registry import make, names, register
    from jaxrl.envs.wrappers import (
        ClipReward,
        EpisodeStatistics,
        Flatten,
        FrameStack,
        LastActionReward,
        Randomize,
        RescaleAction,
        SelectObs,
        StickyAction,
        TimeLimit,
        Wrapper,
    )

_LAZY = {
    "Acrobot": "classic.acrobot",
    "CartPole": "classic.cartpole",
    "Catch": "bsuite.catch",
    "ClipReward": "wrappers",
    "DeepSea": "bsuite.deep_sea",
    "DiscountingChain": "bsuite.discounting_chain",
    "EpisodeStatistics": "wrappers",
    "Flatten": "wrappers",
    "FrameStack": "wrappers",
    "LastActionReward": "wrappers",
    "MemoryChain": "bsuite.memory_chain",
    "MountainCar": "classic.mountain_car",
    "MountainCarContinuous": "classic.mountain_car_continuous",
    "Pendulum": "classic.pendulum",
    "Randomize": "wrappers",
    "RepeatFirst": "memory.repeat_first",
    "RescaleAction": "wrappers",
    "SelectObs": "wrappers",
    "StickyAction": "wrappers",
    "TMaze": "memory.t_maze",
    "TimeLimit": "wrappers",
    "Wrapper": "wrappers",
    "from_envpool": "adapters.envpool",
    "from_gymnasium": "adapters.gymnasium",
    "make": "registry",
    "names": "registry",
    "register": "registry",
    "to_gymnasium": "adapters.to_gymnasium",
}

__all__ = [
    "Acrobot",
    "CartPole",
    "Catch",
    "ClipReward",
    "DeepSea",
    "DiscountingChain",
    "EpisodeStatistics",
    "Flatten",
    "FrameStack",
    "LastActionReward",
    "MemoryChain",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "Randomize",
    "RepeatFirst",
    "RescaleAction",
    "SelectObs",
    "StickyAction",
    "TMaze",
    "TimeLimit",
    "Wrapper",
    "from_envpool",
    "from_gymnasium",
    "make",
    "names",
    "register",
    "to_gymnasium",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxrl.envs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxrl.envs.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
