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
    from jaxrl.envs.bandit.bandits import Bandit, BernoulliBandit, ContextualBandit
    from jaxrl.envs.bsuite.catch import Catch
    from jaxrl.envs.bsuite.deep_sea import DeepSea
    from jaxrl.envs.bsuite.discounting_chain import DiscountingChain
    from jaxrl.envs.bsuite.memory_chain import MemoryChain
    from jaxrl.envs.classic.acrobot import Acrobot
    from jaxrl.envs.classic.cartpole import CartPole
    from jaxrl.envs.classic.mountain_car import MountainCar
    from jaxrl.envs.classic.mountain_car_continuous import MountainCarContinuous
    from jaxrl.envs.classic.pendulum import Pendulum
    from jaxrl.envs.finite import Finite
    from jaxrl.envs.gridworld.cliff_walking import CliffWalking
    from jaxrl.envs.gridworld.frozen_lake import FrozenLake
    from jaxrl.envs.gridworld.gridworld import CheeseMaze, Gridworld, NoisyTV
    from jaxrl.envs.gridworld.taxi import Taxi
    from jaxrl.envs.memory.repeat_first import RepeatFirst
    from jaxrl.envs.memory.t_maze import TMaze
    from jaxrl.envs.registry import make, names, register
    from jaxrl.envs.tabular.baird import Baird
    from jaxrl.envs.tabular.bias_chain import MaximizationBias
    from jaxrl.envs.tabular.blackjack import Blackjack
    from jaxrl.envs.tabular.car_rental import JacksCarRental
    from jaxrl.envs.tabular.gambler import Gambler
    from jaxrl.envs.tabular.long_walk import LongWalk
    from jaxrl.envs.tabular.random_walk import RandomWalk
    from jaxrl.envs.tabular.river_swim import RiverSwim
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
    "Baird": "tabular.baird",
    "Bandit": "bandit.bandits",
    "BernoulliBandit": "bandit.bandits",
    "Blackjack": "tabular.blackjack",
    "CartPole": "classic.cartpole",
    "Catch": "bsuite.catch",
    "CheeseMaze": "gridworld.gridworld",
    "CliffWalking": "gridworld.cliff_walking",
    "ClipReward": "wrappers",
    "ContextualBandit": "bandit.bandits",
    "DeepSea": "bsuite.deep_sea",
    "DiscountingChain": "bsuite.discounting_chain",
    "EpisodeStatistics": "wrappers",
    "Finite": "finite",
    "Flatten": "wrappers",
    "FrameStack": "wrappers",
    "FrozenLake": "gridworld.frozen_lake",
    "Gambler": "tabular.gambler",
    "Gridworld": "gridworld.gridworld",
    "JacksCarRental": "tabular.car_rental",
    "LastActionReward": "wrappers",
    "LongWalk": "tabular.long_walk",
    "MaximizationBias": "tabular.bias_chain",
    "MemoryChain": "bsuite.memory_chain",
    "MountainCar": "classic.mountain_car",
    "MountainCarContinuous": "classic.mountain_car_continuous",
    "NoisyTV": "gridworld.gridworld",
    "Pendulum": "classic.pendulum",
    "RandomWalk": "tabular.random_walk",
    "Randomize": "wrappers",
    "RepeatFirst": "memory.repeat_first",
    "RescaleAction": "wrappers",
    "RiverSwim": "tabular.river_swim",
    "SelectObs": "wrappers",
    "StickyAction": "wrappers",
    "TMaze": "memory.t_maze",
    "Taxi": "gridworld.taxi",
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
    "Baird",
    "Bandit",
    "BernoulliBandit",
    "Blackjack",
    "CartPole",
    "Catch",
    "CheeseMaze",
    "CliffWalking",
    "ClipReward",
    "ContextualBandit",
    "DeepSea",
    "DiscountingChain",
    "EpisodeStatistics",
    "Finite",
    "Flatten",
    "FrameStack",
    "FrozenLake",
    "Gambler",
    "Gridworld",
    "JacksCarRental",
    "LastActionReward",
    "LongWalk",
    "MaximizationBias",
    "MemoryChain",
    "MountainCar",
    "MountainCarContinuous",
    "NoisyTV",
    "Pendulum",
    "RandomWalk",
    "Randomize",
    "RepeatFirst",
    "RescaleAction",
    "RiverSwim",
    "SelectObs",
    "StickyAction",
    "TMaze",
    "Taxi",
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
