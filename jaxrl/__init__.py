"""jaxrl: pure-functional agents compiled together with on-device environments.

An agent is a frozen pytree of hyperparameters with three pure functions, `init`, `act`, `update`;
an environment is a pure `reset` and `step`; `jaxrl.train(agent, env, key)` compiles both into one
program, and `vmap` runs a thousand of them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxrl.devices import prepare as _prepare

if TYPE_CHECKING:
    from jaxrl import envs, losses, networks, optim, plot, policies, sinks, spaces, video
    from jaxrl.agents.control.sac import SAC
    from jaxrl.agents.policy.ppo import PPO
    from jaxrl.agents.value.dqn import DQN
    from jaxrl.agents.value.r2d2 import R2D2
    from jaxrl.checkpoint import CheckpointError, Checkpoints
    from jaxrl.evaluate import Evaluation, evaluate
    from jaxrl.export.program import ExportedPolicy, load_exported
    from jaxrl.guard import NonFinite
    from jaxrl.mesh import Mesh
    from jaxrl.normalize import NormalizeObs, NormalizeReward
    from jaxrl.result import Policy, Result
    from jaxrl.resume import restore, resume
    from jaxrl.saved import load_policy
    from jaxrl.struct import struct
    from jaxrl.sweep import Sweep, sweep
    from jaxrl.tensors import FileRefused
    from jaxrl.train import stream, train

__version__ = "0.1.0"

_MODULES = ("envs", "losses", "networks", "optim", "plot", "policies", "sinks", "spaces",
            "video")  # fmt: skip

_HOMES = {
    "CheckpointError": "jaxrl.checkpoint",
    "Checkpoints": "jaxrl.checkpoint",
    "DQN": "jaxrl.agents.value.dqn",
    "Mesh": "jaxrl.mesh",
    "Evaluation": "jaxrl.evaluate",
    "ExportedPolicy": "jaxrl.export.program",
    "FileRefused": "jaxrl.tensors",
    "NonFinite": "jaxrl.guard",
    "NormalizeObs": "jaxrl.normalize",
    "NormalizeReward": "jaxrl.normalize",
    "PPO": "jaxrl.agents.policy.ppo",
    "Policy": "jaxrl.result",
    "R2D2": "jaxrl.agents.value.r2d2",
    "Result": "jaxrl.result",
    "SAC": "jaxrl.agents.control.sac",
    "Sweep": "jaxrl.sweep",
    "evaluate": "jaxrl.evaluate",
    "load_exported": "jaxrl.export.program",
    "load_policy": "jaxrl.saved",
    "restore": "jaxrl.resume",
    "resume": "jaxrl.resume",
    "stream": "jaxrl.train",
    "struct": "jaxrl.struct",
    "sweep": "jaxrl.sweep",
    "train": "jaxrl.train",
}

__all__ = [
    "DQN",
    "PPO",
    "R2D2",
    "SAC",
    "CheckpointError",
    "Checkpoints",
    "Evaluation",
    "ExportedPolicy",
    "FileRefused",
    "Mesh",
    "NonFinite",
    "NormalizeObs",
    "NormalizeReward",
    "Policy",
    "Result",
    "Sweep",
    "envs",
    "evaluate",
    "load_exported",
    "load_policy",
    "losses",
    "networks",
    "optim",
    "plot",
    "policies",
    "restore",
    "resume",
    "sinks",
    "spaces",
    "stream",
    "struct",
    "sweep",
    "train",
    "video",
]

_prepare()


class _Package(ModuleType):
    """`jaxrl.train` is the function, although importing the file of that name would make Python
    store the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxrl.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jaxrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
