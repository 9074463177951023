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
    from jaxrl import (
        behaviour,
        eligibility,
        envs,
        features,
        least_squares,
        llm,
        losses,
        maps,
        networks,
        optim,
        planning,
        plot,
        policies,
        sinks,
        spaces,
        stepsizes,
        traces,
        video,
    )
    from jaxrl.agents.bandit.action_values import UCB1, ActionValues
    from jaxrl.agents.bandit.gradient_bandit import GradientBandit
    from jaxrl.agents.bandit.lin_ucb import LinearThompson, LinUCB
    from jaxrl.agents.bandit.thompson import BernoulliThompson, GaussianThompson
    from jaxrl.agents.control.sac import SAC
    from jaxrl.agents.linear.differential_sarsa import DifferentialSARSA
    from jaxrl.agents.linear.emphatic_td import EmphaticTD
    from jaxrl.agents.linear.gradient_td import GTD2, TDC
    from jaxrl.agents.linear.lspi import LSPI
    from jaxrl.agents.linear.lstd import LSTD
    from jaxrl.agents.linear.q_learning import LinearExpectedSARSA, LinearQLearning
    from jaxrl.agents.linear.sarsa import LinearSARSA
    from jaxrl.agents.linear.sarsa_lambda import LinearSARSALambda, LinearTrueOnlineSARSA
    from jaxrl.agents.linear.td import LinearTD
    from jaxrl.agents.linear.td_lambda import LinearTDLambda, LinearTrueOnlineTD
    from jaxrl.agents.policy.ppo import PPO
    from jaxrl.agents.tabular.dyna import DynaQ, DynaQPlus
    from jaxrl.agents.tabular.importance_sampling import ImportanceSampling, OffPolicyMonteCarlo
    from jaxrl.agents.tabular.monte_carlo import LambdaReturn, MonteCarlo, MonteCarloControl
    from jaxrl.agents.tabular.n_step import SARSA, QSigma, TreeBackup
    from jaxrl.agents.tabular.prioritized_sweeping import PrioritizedSweeping
    from jaxrl.agents.tabular.q_lambda import PengQLambda, QLambda
    from jaxrl.agents.tabular.q_learning import DoubleQLearning, ExpectedSARSA, QLearning
    from jaxrl.agents.tabular.sarsa_lambda import SARSALambda, TrueOnlineSARSA
    from jaxrl.agents.tabular.td import TD
    from jaxrl.agents.tabular.td_lambda import TDLambda, TrueOnlineTD
    from jaxrl.agents.value.dqn import DQN
    from jaxrl.agents.value.r2d2 import R2D2
    from jaxrl.checkpoint import CheckpointError, Checkpoints
    from jaxrl.evaluate import Evaluation, evaluate
    from jaxrl.export.program import ExportedPolicy, load_exported
    from jaxrl.guard import NonFinite
    from jaxrl.mdp import MDP
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

_MODULES = (
    "behaviour",
    "eligibility",
    "envs",
    "features",
    "least_squares",
    "llm",
    "losses",
    "maps",
    "networks",
    "optim",
    "planning",
    "plot",
    "policies",
    "sinks",
    "spaces",
    "stepsizes",
    "traces",
    "video",
)

_HOMES = {
    "ActionValues": "jaxrl.agents.bandit.action_values",
    "BernoulliThompson": "jaxrl.agents.bandit.thompson",
    "CheckpointError": "jaxrl.checkpoint",
    "Checkpoints": "jaxrl.checkpoint",
    "DQN": "jaxrl.agents.value.dqn",
    "DifferentialSARSA": "jaxrl.agents.linear.differential_sarsa",
    "DoubleQLearning": "jaxrl.agents.tabular.q_learning",
    "DynaQ": "jaxrl.agents.tabular.dyna",
    "DynaQPlus": "jaxrl.agents.tabular.dyna",
    "EmphaticTD": "jaxrl.agents.linear.emphatic_td",
    "Evaluation": "jaxrl.evaluate",
    "ExpectedSARSA": "jaxrl.agents.tabular.q_learning",
    "ExportedPolicy": "jaxrl.export.program",
    "FileRefused": "jaxrl.tensors",
    "GTD2": "jaxrl.agents.linear.gradient_td",
    "GaussianThompson": "jaxrl.agents.bandit.thompson",
    "GradientBandit": "jaxrl.agents.bandit.gradient_bandit",
    "ImportanceSampling": "jaxrl.agents.tabular.importance_sampling",
    "LSPI": "jaxrl.agents.linear.lspi",
    "LSTD": "jaxrl.agents.linear.lstd",
    "LambdaReturn": "jaxrl.agents.tabular.monte_carlo",
    "LinUCB": "jaxrl.agents.bandit.lin_ucb",
    "LinearExpectedSARSA": "jaxrl.agents.linear.q_learning",
    "LinearQLearning": "jaxrl.agents.linear.q_learning",
    "LinearSARSA": "jaxrl.agents.linear.sarsa",
    "LinearSARSALambda": "jaxrl.agents.linear.sarsa_lambda",
    "LinearTD": "jaxrl.agents.linear.td",
    "LinearTDLambda": "jaxrl.agents.linear.td_lambda",
    "LinearThompson": "jaxrl.agents.bandit.lin_ucb",
    "LinearTrueOnlineSARSA": "jaxrl.agents.linear.sarsa_lambda",
    "LinearTrueOnlineTD": "jaxrl.agents.linear.td_lambda",
    "MDP": "jaxrl.mdp",
    "Mesh": "jaxrl.mesh",
    "MonteCarlo": "jaxrl.agents.tabular.monte_carlo",
    "MonteCarloControl": "jaxrl.agents.tabular.monte_carlo",
    "NonFinite": "jaxrl.guard",
    "NormalizeObs": "jaxrl.normalize",
    "NormalizeReward": "jaxrl.normalize",
    "OffPolicyMonteCarlo": "jaxrl.agents.tabular.importance_sampling",
    "PPO": "jaxrl.agents.policy.ppo",
    "PengQLambda": "jaxrl.agents.tabular.q_lambda",
    "Policy": "jaxrl.result",
    "PrioritizedSweeping": "jaxrl.agents.tabular.prioritized_sweeping",
    "QLambda": "jaxrl.agents.tabular.q_lambda",
    "QLearning": "jaxrl.agents.tabular.q_learning",
    "QSigma": "jaxrl.agents.tabular.n_step",
    "R2D2": "jaxrl.agents.value.r2d2",
    "Result": "jaxrl.result",
    "SAC": "jaxrl.agents.control.sac",
    "SARSA": "jaxrl.agents.tabular.n_step",
    "SARSALambda": "jaxrl.agents.tabular.sarsa_lambda",
    "Sweep": "jaxrl.sweep",
    "TD": "jaxrl.agents.tabular.td",
    "TDC": "jaxrl.agents.linear.gradient_td",
    "TDLambda": "jaxrl.agents.tabular.td_lambda",
    "TreeBackup": "jaxrl.agents.tabular.n_step",
    "TrueOnlineSARSA": "jaxrl.agents.tabular.sarsa_lambda",
    "TrueOnlineTD": "jaxrl.agents.tabular.td_lambda",
    "UCB1": "jaxrl.agents.bandit.action_values",
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
    "GTD2",
    "LSPI",
    "LSTD",
    "MDP",
    "PPO",
    "R2D2",
    "SAC",
    "SARSA",
    "TD",
    "TDC",
    "UCB1",
    "ActionValues",
    "BernoulliThompson",
    "CheckpointError",
    "Checkpoints",
    "DifferentialSARSA",
    "DoubleQLearning",
    "DynaQ",
    "DynaQPlus",
    "EmphaticTD",
    "Evaluation",
    "ExpectedSARSA",
    "ExportedPolicy",
    "FileRefused",
    "GaussianThompson",
    "GradientBandit",
    "ImportanceSampling",
    "LambdaReturn",
    "LinUCB",
    "LinearExpectedSARSA",
    "LinearQLearning",
    "LinearSARSA",
    "LinearSARSALambda",
    "LinearTD",
    "LinearTDLambda",
    "LinearThompson",
    "LinearTrueOnlineSARSA",
    "LinearTrueOnlineTD",
    "MonteCarlo",
    "MonteCarloControl",
    "Mesh",
    "NonFinite",
    "NormalizeObs",
    "NormalizeReward",
    "OffPolicyMonteCarlo",
    "PengQLambda",
    "Policy",
    "PrioritizedSweeping",
    "QLambda",
    "QLearning",
    "QSigma",
    "Result",
    "SARSALambda",
    "Sweep",
    "TDLambda",
    "TreeBackup",
    "TrueOnlineSARSA",
    "TrueOnlineTD",
    "behaviour",
    "eligibility",
    "envs",
    "evaluate",
    "features",
    "least_squares",
    "llm",
    "load_exported",
    "load_policy",
    "losses",
    "maps",
    "networks",
    "optim",
    "planning",
    "plot",
    "policies",
    "restore",
    "resume",
    "sinks",
    "spaces",
    "stepsizes",
    "stream",
    "struct",
    "sweep",
    "traces",
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
