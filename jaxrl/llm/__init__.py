"""Language models: a decoder transformer, real checkpoints, tokenizers and sampling.

    lm = jaxrl.llm.load("folder")

Nothing here is imported by `import jaxrl`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.llm.checkpoint import LanguageModel, load, save
    from jaxrl.llm.config import Config, Rope
    from jaxrl.llm.hf_config import config_from_hf, config_to_hf
    from jaxrl.llm.model import Cache, Transformer, empty_cache

_HOMES = {
    "Cache": "model",
    "Config": "config",
    "LanguageModel": "checkpoint",
    "Rope": "config",
    "Transformer": "model",
    "config_from_hf": "hf_config",
    "config_to_hf": "hf_config",
    "empty_cache": "model",
    "load": "checkpoint",
    "save": "checkpoint",
}

__all__ = [
    "Cache",
    "Config",
    "LanguageModel",
    "Rope",
    "Transformer",
    "config_from_hf",
    "config_to_hf",
    "empty_cache",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"jaxrl.llm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jaxrl.llm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
