"""What the command line knows without importing JAX: fields of agents, and presets.

fields.json is written by `python -m jaxrl.cli.schema` from the classes; a test says when it is out
of step. presets.json holds, per algorithm and environment, the settings of benchmarks/learning.py
with the result that was measured with them.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIELDS = HERE / "fields.json"
PRESETS = HERE / "presets.json"

Json = dict[str, Any]


@functools.cache
def algorithms() -> dict[str, Json]:
    """-> {"ppo": {"class": "PPO", "doc": ..., "fields": [...]}}"""
    return json.loads(FIELDS.read_text())


@functools.cache
def presets() -> dict[str, dict[str, Json]]:
    """-> {"ppo": {"CartPole-v1": {"steps": ..., "settings": {...}, "measured": {...}}}}"""
    return json.loads(PRESETS.read_text())


def preset(algorithm: str, env: str) -> Json | None:
    return presets().get(algorithm, {}).get(env)


def measured(preset: Json) -> str:
    """The result in one line."""
    found = preset.get("measured")
    if not found:
        return "not measured yet"
    return (
        f"{found['iqm']:g} [{found['low']:g}, {found['high']:g}], {found['seeds']} seeds x "
        f"{found['steps']:,} steps"
    )
