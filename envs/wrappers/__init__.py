"""Environments around environments.

Each is a pytree like what it wraps: the inner environment is a traced field, so its constants can
still be swept, and its state is a field of the outer state. `time_limit` stays right through each.
"""

from jaxrl.envs.wrappers.actions import RescaleAction, StickyAction
from jaxrl.envs.wrappers.observations import Flatten, FrameStack, LastActionReward, SelectObs
from jaxrl.envs.wrappers.randomize import Randomize
from jaxrl.envs.wrappers.reward import ClipReward
from jaxrl.envs.wrappers.statistics import EpisodeStatistics
from jaxrl.envs.wrappers.time_limit import TimeLimit
from jaxrl.envs.wrappers.wrapper import Wrapper

__all__ = [
    "ClipReward",
    "EpisodeStatistics",
    "Flatten",
    "FrameStack",
    "LastActionReward",
    "Randomize",
    "RescaleAction",
    "SelectObs",
    "StickyAction",
    "TimeLimit",
    "Wrapper",
]
