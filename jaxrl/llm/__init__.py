"""Language models: a decoder transformer, real checkpoints, tokenizers and sampling.

    lm = jaxrl.llm.load("folder")

Nothing here is imported by `import jaxrl`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.llm import losses, tasks, verifiers
    from jaxrl.llm.checkpoint import LanguageModel, load, save
    from jaxrl.llm.config import Config, Rope
    from jaxrl.llm.generate import Completions, Generator, generate, pad, score
    from jaxrl.llm.hf_read import config_from_hf
    from jaxrl.llm.hf_write import config_to_hf
    from jaxrl.llm.model import Cache, Transformer, empty_cache
    from jaxrl.llm.sampling import Sampling
    from jaxrl.llm.tokenizer import ByteTokenizer, CharTokenizer, load_tokenizer

_HOMES = {
    "ByteTokenizer": "tokenizer",
    "Cache": "model",
    "CharTokenizer": "tokenizer",
    "Completions": "generate",
    "Config": "config",
    "Generator": "generate",
    "LanguageModel": "checkpoint",
    "Rope": "config",
    "Sampling": "sampling",
    "Transformer": "model",
    "config_from_hf": "hf_read",
    "config_to_hf": "hf_write",
    "empty_cache": "model",
    "generate": "generate",
    "load": "checkpoint",
    "load_tokenizer": "tokenizer",
    "pad": "generate",
    "save": "checkpoint",
    "score": "generate",
}

__all__ = [
    "ByteTokenizer",
    "Cache",
    "CharTokenizer",
    "Completions",
    "Config",
    "Generator",
    "LanguageModel",
    "Rope",
    "Sampling",
    "Transformer",
    "config_from_hf",
    "config_to_hf",
    "empty_cache",
    "generate",
    "load",
    "load_tokenizer",
    "losses",
    "pad",
    "save",
    "score",
    "tasks",
    "verifiers",
]


_MODULES = ("losses", "tasks", "verifiers")


class _Package(ModuleType):
    """`jaxrl.llm.generate` is the function, although importing the file of that name would make
    Python store the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxrl.llm.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"jaxrl.llm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jaxrl.llm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
