"""Environments: `make` one by name, or build one and wrap it.

Everything here is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.envs.registry import make, names, register
    from jaxrl.envs.wrappers import TimeLimit

_LAZY = {
    "make": "jaxrl.envs.registry",
    "names": "jaxrl.envs.registry",
    "register": "jaxrl.envs.registry",
    "TimeLimit": "jaxrl.envs.wrappers",
}

__all__ = [
    "TimeLimit",
    "make",
    "names",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxrl.envs' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
