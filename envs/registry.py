"""Environments by name: `make("CartPole-v1", gravity=5.0)`.

A name with a slash belongs to an adapter: `make("gymnax/Breakout-MinAtar")`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any, cast

from jaxrl import checks
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.types import Env

ADAPTERS = (
    "brax",
    "craftax",
    "envpool",
    "gymnasium",
    "gymnax",
    "jaxmarl",
    "jumanji",
    "mjx",
    "navix",
    "pgx",
    "playground",
    "xminigrid",
)
"""Modules of `jaxrl.envs.adapters`, each with a `make(name, **constants)`."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """How to build one environment. `factory` may be "module:attribute", imported when needed."""

    factory: Callable[..., Env] | str
    max_steps: int | None = None

    def load(self) -> Callable[..., Env]:
        if not isinstance(self.factory, str):
            return self.factory
        module, attribute = self.factory.split(":")
        return getattr(importlib.import_module(module), attribute)


_entries: dict[str, Entry] = {}


def register(name: str, factory: Callable[..., Any] | str, max_steps: int | None = None) -> None:
    """Make `factory(**constants)` available as `make(name, **constants)`, cut after `max_steps`.

    `factory` is a class, a function, or "module:attribute" of either.
    """
    if "/" in name:
        raise ValueError(
            f"name={name!r}: a slash is for adapters; write {name.replace('/', '-')!r}."
        )
    if name in _entries:
        raise ValueError(f"name={name!r} is registered already; choose another.")
    if not callable(factory) and not (isinstance(factory, str) and factory.count(":") == 1):
        raise TypeError(
            f"factory={factory!r} must be a class or a function that returns an environment, "
            'or where to find one: "my_package.my_module:MyEnv".'
        )
    _entries[name] = Entry(factory, max_steps)


def names() -> list[str]:
    """All registered names. Adapters have their own: `jaxrl.envs.adapters.gymnax.names()`."""
    return sorted(_entries)


def _nearest(word: str, known: list[str]) -> str:
    """The known words most like `word`, whatever the case, as text."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=3, cutoff=0.5)
    return " or ".join(repr(by_lower[f]) for f in found)


def _adapted(name: str, constants: dict[str, Any]) -> Env:
    package, _, rest = name.partition("/")
    if package not in ADAPTERS:
        nearest = _nearest(package, list(ADAPTERS)) or ", ".join(map(repr, ADAPTERS))
        raise ValueError(
            f"name={name!r}: there is no adapter {package!r}. Did you mean {nearest}? Without a "
            "slash: jaxrl.envs.names() lists the bundled environments."
        )
    return importlib.import_module(f"jaxrl.envs.adapters.{package}").make(rest, **constants)


def make(name: str, **constants: Any) -> Env:
    """Build an environment. `constants` replace its defaults; `max_steps` its time limit
    (None for none)."""
    if not isinstance(name, str):
        raise TypeError(
            f"name={name!r} must be text such as 'CartPole-v1'; jaxrl.envs.names() lists them."
        )
    if "/" in name:
        return _adapted(name, constants)
    if name not in _entries:
        nearest = _nearest(name, names())
        hint = f"Did you mean {nearest}? " if nearest else ""
        raise ValueError(
            f"name={name!r} is not a known environment. {hint}jaxrl.envs.names() lists all "
            f"{len(_entries)}; 'gymnax/{name}' or 'brax/{name}' asks another library."
        )
    entry = _entries[name]
    factory = entry.load()
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    limits = {} if "max_steps" in parameters else {"max_steps": entry.max_steps}
    known = [*parameters, *limits]
    for constant in constants:
        if constant not in known and not open_ended:
            nearest = _nearest(constant, known)
            hint = f"Did you mean {nearest}? It" if nearest else "It"
            raise ValueError(
                f"{name} has no constant {constant!r}. {hint} has: {', '.join(known)}."
            )
    max_steps = constants.pop("max_steps", entry.max_steps) if limits else None
    env = factory(**constants)
    if dataclasses.is_dataclass(env):
        checks.hyperparameters(env)
    if max_steps is None:
        return env
    checks.positive_int(max_steps, "max_steps")
    return cast(Env, TimeLimit(env, max_steps))


_BUNDLED = {
    "Acrobot-v1": ("classic.acrobot:Acrobot", 500),
    "Asterix-MinAtar": ("minatar.asterix:Asterix", None),
    "Baird-v0": ("tabular.baird:Baird", None),
    "Bandit-v0": ("bandit.bandits:Bandit", 1000),
    "BernoulliBandit-v0": ("bandit.bandits:BernoulliBandit", 1000),
    "Blackjack-v1": ("tabular.blackjack:Blackjack", None),
    "BlockingMaze-v0": ("gridworld.gridworld:blocking_maze", None),
    "Breakout-MinAtar": ("minatar.breakout:Breakout", 1000),
    "CartPole-v1": ("classic.cartpole:CartPole", 500),
    "Catch-bsuite": ("bsuite.catch:Catch", None),
    "CheeseMaze-v0": ("gridworld.gridworld:CheeseMaze", 100),
    "CliffWalking-v1": ("gridworld.cliff_walking:CliffWalking", None),
    "CliffWalkingSlippery-v1": ("gridworld.cliff_walking:cliff_walking_slippery", None),
    "ContextualBandit-v0": ("bandit.bandits:ContextualBandit", 1000),
    "DeepSea-bsuite": ("bsuite.deep_sea:DeepSea", None),
    "DiscountingChain-bsuite": ("bsuite.discounting_chain:DiscountingChain", None),
    "DriftingBandit-v0": ("bandit.bandits:drifting_bandit", 10_000),
    "DynaMaze-v0": ("gridworld.gridworld:dyna_maze", None),
    "Freeway-MinAtar": ("minatar.freeway:Freeway", None),
    "FrozenLake-v1": ("gridworld.frozen_lake:FrozenLake", 100),
    "FrozenLake8x8-v1": ("gridworld.frozen_lake:frozen_lake_8x8", 200),
    "Gambler-v0": ("tabular.gambler:Gambler", None),
    "Gridworld-v0": ("gridworld.gridworld:Gridworld", None),
    "JacksCarRental-v0": ("tabular.car_rental:JacksCarRental", 100),
    "LongWalk-v0": ("tabular.long_walk:LongWalk", None),
    "MaximizationBias-v0": ("tabular.bias_chain:MaximizationBias", None),
    "MemoryChain-bsuite": ("bsuite.memory_chain:MemoryChain", None),
    "MountainCar-v0": ("classic.mountain_car:MountainCar", 200),
    "MountainCarContinuous-v0": ("classic.mountain_car_continuous:MountainCarContinuous", 999),
    "NoisyTV-v0": ("gridworld.gridworld:NoisyTV", 200),
    "Pendulum-v1": ("classic.pendulum:Pendulum", 200),
    "Probe-Action": ("probe:ProbeAction", None),
    "Probe-Continuous": ("probe:ProbeContinuous", None),
    "Probe-ContinuousPolicy": ("probe:ProbeContinuousPolicy", None),
    "Probe-Credit": ("probe:ProbeCredit", None),
    "Probe-Discount": ("probe:ProbeDiscount", None),
    "Probe-Memory": ("probe:ProbeMemory", None),
    "Probe-Observation": ("probe:ProbeObservation", None),
    "Probe-Policy": ("probe:ProbePolicy", None),
    "Probe-Truncation": ("probe:ProbeTruncation", 2),
    "Probe-Value": ("probe:ProbeValue", None),
    "RandomWalk19-v0": ("tabular.random_walk:random_walk_19", None),
    "RandomWalk5-v0": ("tabular.random_walk:RandomWalk", None),
    "RepeatFirst-v0": ("memory.repeat_first:RepeatFirst", None),
    "RiverSwim-v0": ("tabular.river_swim:RiverSwim", 200),
    "Seaquest-MinAtar": ("minatar.seaquest:Seaquest", None),
    "ShortcutMaze-v0": ("gridworld.gridworld:shortcut_maze", None),
    "SmallGridworld-v0": ("gridworld.gridworld:small_gridworld", None),
    "SpaceInvaders-MinAtar": ("minatar.space_invaders:SpaceInvaders", None),
    "Taxi-v3": ("gridworld.taxi:Taxi", 200),
    "Taxi-v4": ("gridworld.taxi:Taxi", 200),
    "TMaze-v0": ("memory.t_maze:TMaze", 100),
    "WindyGridworld-v0": ("gridworld.gridworld:windy_gridworld", None),
}

for _name, (_where, _max_steps) in _BUNDLED.items():
    register(_name, f"jaxrl.envs.{_where}", _max_steps)
