"""Writes fields.json, the flags of every agent, from the agents' own fields.

python -m jaxrl.cli.schema
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from typing import Any

import jaxrl
from jaxrl.cli import data, values

ALGORITHMS = {
    "action-values": "ActionValues",
    "bernoulli-thompson": "BernoulliThompson",
    "differential-sarsa": "DifferentialSARSA",
    "double-q-learning": "DoubleQLearning",
    "dqn": "DQN",
    "dyna-q": "DynaQ",
    "dyna-q-plus": "DynaQPlus",
    "emphatic-td": "EmphaticTD",
    "expected-sarsa": "ExpectedSARSA",
    "gaussian-thompson": "GaussianThompson",
    "gradient-bandit": "GradientBandit",
    "gtd2": "GTD2",
    "importance-sampling": "ImportanceSampling",
    "lambda-return": "LambdaReturn",
    "lin-ucb": "LinUCB",
    "linear-expected-sarsa": "LinearExpectedSARSA",
    "linear-q-learning": "LinearQLearning",
    "linear-sarsa": "LinearSARSA",
    "linear-sarsa-lambda": "LinearSARSALambda",
    "linear-td": "LinearTD",
    "linear-td-lambda": "LinearTDLambda",
    "linear-thompson": "LinearThompson",
    "linear-true-online-sarsa": "LinearTrueOnlineSARSA",
    "linear-true-online-td": "LinearTrueOnlineTD",
    "lspi": "LSPI",
    "lstd": "LSTD",
    "monte-carlo": "MonteCarlo",
    "monte-carlo-control": "MonteCarloControl",
    "off-policy-monte-carlo": "OffPolicyMonteCarlo",
    "peng-q-lambda": "PengQLambda",
    "ppo": "PPO",
    "prioritized-sweeping": "PrioritizedSweeping",
    "q-lambda": "QLambda",
    "q-learning": "QLearning",
    "q-sigma": "QSigma",
    "r2d2": "R2D2",
    "sac": "SAC",
    "sarsa": "SARSA",
    "sarsa-lambda": "SARSALambda",
    "td": "TD",
    "td-lambda": "TDLambda",
    "tdc": "TDC",
    "tree-backup": "TreeBackup",
    "true-online-sarsa": "TrueOnlineSARSA",
    "true-online-td": "TrueOnlineTD",
    "ucb1": "UCB1",
}
"""Name on the command line -> name in jaxrl."""


def kind(declared: str) -> str:
    if declared.startswith("Float"):
        return "number"
    return "integer" if declared.startswith("int") else "choice"


def described(cls: type[Any]) -> dict[str, Any]:
    doc = inspect.getdoc(cls) or ""
    if doc.startswith(f"{cls.__name__}("):  # what dataclasses write; the file has one class
        doc = inspect.getdoc(sys.modules[cls.__module__]) or ""
    fields: list[dict[str, Any]] = []
    for field in dataclasses.fields(cls):
        fields.append(
            {
                "name": field.name,
                "kind": kind(str(field.type)),
                "none": "None" in str(field.type),
                "default": values.show(field.default),
                "doc": field.metadata["bounds"].doc,
            }
        )
    return {"class": cls.__name__, "doc": doc.splitlines()[0], "fields": fields}


def table() -> dict[str, Any]:
    return {name: described(getattr(jaxrl, cls)) for name, cls in sorted(ALGORITHMS.items())}


def written() -> str:
    return json.dumps(table(), indent=1) + "\n"


if __name__ == "__main__":
    data.FIELDS.write_text(written())
