"""The command line: `jaxrl train ppo CartPole-v1 --seeds 64 --lr 3e-4`.

What is said about commands and flags comes from data (fields.json, presets.json), so that help and
mistakes are answered before JAX is imported. The commands themselves are imported when they run.
"""

from __future__ import annotations

from jaxrl.cli.parser import main

__all__ = ["main"]
