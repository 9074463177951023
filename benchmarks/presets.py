"""Writes the presets of the command line from the cases of benchmarks/learning.py.

    python -m benchmarks.presets

A preset is the first case of its algorithm and environment, with the result measured for it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jaxrl
from benchmarks import learning
from benchmarks.learning import Case
from jaxrl.cli import data, values

WRAPPERS = {"NormalizeObs": "normalize_obs", "NormalizeReward": "normalize_reward"}
MEASURED = ("iqm", "low", "high", "seeds", "steps", "episodes")


def settings(agent: Any) -> dict[str, Any]:
    """The fields that are not those of the class: numbers, or text as it would be typed."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(agent):
        value = getattr(agent, field.name)
        text = values.show(value)
        if text != values.show(field.default):
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            found[field.name] = value if plain else text
    return found


def preset(name: str, case: Case, measured: dict[str, Any] | None) -> dict[str, Any]:
    about: dict[str, Any] = {"case": name, "steps": case.steps}
    agent = case.agent()
    while type(agent).__name__ in WRAPPERS:
        about[WRAPPERS[type(agent).__name__]] = True
        agent = agent.agent
    if case.wrap is jaxrl.envs.Flatten:
        about["flatten"] = True
    if case.options:
        about["env_options"] = case.options
    result = None if measured is None else {k: measured[k] for k in MEASURED}
    return {**about, "settings": settings(agent), "measured": result}


def table() -> dict[str, dict[str, Any]]:
    rows = {row["case"]: row for row in json.loads(learning.RESULTS.read_text())}
    found: dict[str, dict[str, Any]] = {name: {} for name in data.algorithms()}
    for name, case in learning.CASES.items():
        if case.wrap not in (learning.as_it_is, jaxrl.envs.Flatten):
            continue  # a task of its own, not the environment of that name
        agent = case.agent()
        while type(agent).__name__ in WRAPPERS:
            agent = agent.agent
        envs = found[type(agent).__name__.lower()]
        if case.env not in envs:
            envs[case.env] = preset(name, case, rows.get(name))
    return {algorithm: dict(sorted(envs.items())) for algorithm, envs in found.items()}


def written() -> str:
    return json.dumps(table(), indent=1) + "\n"


if __name__ == "__main__":
    data.PRESETS.write_text(written())
