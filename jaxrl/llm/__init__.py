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
    from jaxrl.llm import examples, losses, rejection, tasks, verifiers
    from jaxrl.llm.best_of import best_of
    from jaxrl.llm.checkpoint import LanguageModel, load, save
    from jaxrl.llm.config import Config, Rope
    from jaxrl.llm.cpo import CPO
    from jaxrl.llm.distill import Distill
    from jaxrl.llm.dpo import DPO
    from jaxrl.llm.generate import Completions, Generator, generate, pad, score
    from jaxrl.llm.grpo import GRPO
    from jaxrl.llm.hf_read import config_from_hf
    from jaxrl.llm.hf_write import config_to_hf
    from jaxrl.llm.kto import KTO
    from jaxrl.llm.methods import (
        CISPO,
        DAPO,
        GMPO,
        GSPO,
        LUSPO,
        ORPO,
        RLOO,
        SAPO,
        VESPO,
        AlphaPO,
        DrGRPO,
        ReinforcePlusPlus,
        ReMax,
        SimPO,
        preset,
    )
    from jaxrl.llm.model import Cache, Transformer, empty_cache
    from jaxrl.llm.ppo import PPO
    from jaxrl.llm.quantise import Int8, quantise
    from jaxrl.llm.reward import RewardModel, StepModel
    from jaxrl.llm.sampling import Sampling
    from jaxrl.llm.scorer import Scorer, load_scorer, save_scorer
    from jaxrl.llm.sft import SFT
    from jaxrl.llm.sharding import Shards
    from jaxrl.llm.stops import StopStrings, stop_strings
    from jaxrl.llm.tokenizer import ByteTokenizer, CharTokenizer, load_tokenizer
    from jaxrl.llm.tuning import AdamW, Lora

_HOMES = {
    "AdamW": "tuning",
    "AlphaPO": "methods",
    "ByteTokenizer": "tokenizer",
    "CISPO": "methods",
    "CPO": "cpo",
    "Cache": "model",
    "CharTokenizer": "tokenizer",
    "Completions": "generate",
    "Config": "config",
    "DAPO": "methods",
    "DPO": "dpo",
    "Distill": "distill",
    "DrGRPO": "methods",
    "GMPO": "methods",
    "GRPO": "grpo",
    "GSPO": "methods",
    "Generator": "generate",
    "Int8": "quantise",
    "KTO": "kto",
    "LUSPO": "methods",
    "LanguageModel": "checkpoint",
    "Lora": "tuning",
    "ORPO": "methods",
    "PPO": "ppo",
    "RLOO": "methods",
    "ReMax": "methods",
    "ReinforcePlusPlus": "methods",
    "RewardModel": "reward",
    "Rope": "config",
    "SAPO": "methods",
    "SFT": "sft",
    "Sampling": "sampling",
    "Scorer": "scorer",
    "Shards": "sharding",
    "SimPO": "methods",
    "StepModel": "reward",
    "StopStrings": "stops",
    "Transformer": "model",
    "VESPO": "methods",
    "best_of": "best_of",
    "config_from_hf": "hf_read",
    "config_to_hf": "hf_write",
    "empty_cache": "model",
    "generate": "generate",
    "load": "checkpoint",
    "load_scorer": "scorer",
    "load_tokenizer": "tokenizer",
    "pad": "generate",
    "preset": "methods",
    "quantise": "quantise",
    "save": "checkpoint",
    "save_scorer": "scorer",
    "score": "generate",
    "stop_strings": "stops",
}

__all__ = [
    "AdamW",
    "AlphaPO",
    "ByteTokenizer",
    "CISPO",
    "CPO",
    "Cache",
    "CharTokenizer",
    "Completions",
    "Config",
    "DAPO",
    "DPO",
    "Distill",
    "DrGRPO",
    "GMPO",
    "GRPO",
    "GSPO",
    "Generator",
    "Int8",
    "KTO",
    "LUSPO",
    "LanguageModel",
    "Lora",
    "ORPO",
    "PPO",
    "RLOO",
    "ReMax",
    "ReinforcePlusPlus",
    "RewardModel",
    "Rope",
    "SAPO",
    "SFT",
    "Sampling",
    "Scorer",
    "Shards",
    "SimPO",
    "StepModel",
    "StopStrings",
    "Transformer",
    "VESPO",
    "best_of",
    "config_from_hf",
    "config_to_hf",
    "empty_cache",
    "examples",
    "generate",
    "load",
    "load_scorer",
    "load_tokenizer",
    "losses",
    "pad",
    "preset",
    "quantise",
    "rejection",
    "save",
    "save_scorer",
    "score",
    "stop_strings",
    "tasks",
    "verifiers",
]

_MODULES = ("examples", "losses", "rejection", "tasks", "verifiers")


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
