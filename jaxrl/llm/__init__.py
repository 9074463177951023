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
    from jaxrl.llm.best_of import best_of
    from jaxrl.llm.checkpoint import LanguageModel, load, save
    from jaxrl.llm.config import Config, Rope
    from jaxrl.llm.generate import Completions, Generator, generate, pad, score
    from jaxrl.llm.hf_read import config_from_hf
    from jaxrl.llm.hf_write import config_to_hf
    from jaxrl.llm.model import Cache, Transformer, empty_cache
    from jaxrl.llm.quantise import Int8, quantise
    from jaxrl.llm.sampling import Sampling
    from jaxrl.llm.stops import StopStrings, stop_strings
    from jaxrl.llm.tokenizer import ByteTokenizer, CharTokenizer, load_tokenizer

_HOMES = {
    "ByteTokenizer": "tokenizer",
    "Cache": "model",
    "CharTokenizer": "tokenizer",
    "Completions": "generate",
    "Config": "config",
    "Generator": "generate",
    "Int8": "quantise",
    "LanguageModel": "checkpoint",
    "Rope": "config",
    "Sampling": "sampling",
    "StopStrings": "stops",
    "Transformer": "model",
    "best_of": "best_of",
    "config_from_hf": "hf_read",
    "config_to_hf": "hf_write",
    "empty_cache": "model",
    "generate": "generate",
    "load": "checkpoint",
    "load_tokenizer": "tokenizer",
    "pad": "generate",
    "quantise": "quantise",
    "save": "checkpoint",
    "score": "generate",
    "stop_strings": "stops",
}

__all__ = [
    "ByteTokenizer",
    "Cache",
    "CharTokenizer",
    "Completions",
    "Config",
    "Generator",
    "Int8",
    "LanguageModel",
    "Rope",
    "Sampling",
    "StopStrings",
    "Transformer",
    "best_of",
    "config_from_hf",
    "config_to_hf",
    "empty_cache",
    "generate",
    "load",
    "load_tokenizer",
    "pad",
    "quantise",
    "save",
    "score",
    "stop_strings",
]


class _Package(ModuleType):
    """`jaxrl.llm.generate` is the function, although importing the file of that name would make
    Python store the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"jaxrl.llm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jaxrl.llm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
