"""The names that a file from a stranger may mention.

A policy file says by name of which agent, networks and functions it is. Importing a module runs
it, and calling a function does what the function does, so a policy file may name only what is
listed here: pure functions and frozen dataclasses. Everything else is refused before it is
imported; who trusts the file gives the agent instead.
"""

from __future__ import annotations

import re
from typing import Any

from jaxrl import describe
from jaxrl.describe import NotDescribed

OURS = ("agents", "behaviour", "distributions", "episodes", "exploration", "losses", "networks",
        "normalize", "optim", "policies", "priority", "replay", "sequences", "spaces", "stepsizes",
        "targets", "traces", "types")  # fmt: skip
"""Parts of jaxrl; what is named must be defined there, not only imported."""

NUMPY = ("abs", "absolute", "arctan", "clip", "cos", "exp", "expm1", "log1p", "maximum", "minimum",
         "negative", "positive", "reciprocal", "sign", "sin", "square", "sqrt", "tan",
         "tanh")  # fmt: skip
"""Of jax.numpy, which can also read and write files."""

FLAX = re.compile(r"[A-Z]\w*")
"""Of flax.linen its modules; its functions are those of jax.nn."""


def find(name: Any) -> Any:
    """`describe.find`, for a file that nobody vouches for."""
    module, _, path = str(name).partition(":")
    ours = [f"jaxrl.{part}" for part in OURS]
    inside = any(module == part or module.startswith(part + ".") for part in ours)
    known = (
        inside
        or (module in ("jax.nn", "optax") and path.islower())
        or (module == "jax.numpy" and path in NUMPY)
        or (module == "flax.linen" and FLAX.fullmatch(path) is not None)
    )
    if not known or not path.isidentifier() or path.startswith("_"):
        raise NotDescribed(
            f"{name!r} is not among the names that a file may mention: parts of jaxrl, and "
            "functions of jax.nn"
        )
    found = describe.find(name)
    if inside and getattr(found, "__module__", None) != module:
        raise NotDescribed(f"{name!r} is not defined in {module}")
    return found
