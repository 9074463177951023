"""Tasks for language models: environments of one step. A prompt is the observation, a completion
the action.

    task = Addition(digits=2)
    state, prompt = task.reset(key)            # [P] token ids, padded on the left with -1
    state, step = task.step(state, completion, key)    # [C] token ids, padded on the right with -1

`Addition`, `Arithmetic`, `Copy`, `Reverse` and `Sort` are compiled with the agent. `text_task` and
`reasoning_gym` ask a verifier on the host, once for a whole batch. `Scored` takes its reward from a
function of the tokens, such as a learned reward model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.llm.tasks.arithmetic import Addition, Arithmetic
    from jaxrl.llm.tasks.gym import reasoning_gym
    from jaxrl.llm.tasks.preferences import Preferences, prefer, synthetic
    from jaxrl.llm.tasks.scored import Scored
    from jaxrl.llm.tasks.sequences import Copy, Reverse, Sort
    from jaxrl.llm.tasks.task import PAD, Task, Written, ids
    from jaxrl.llm.tasks.text import TextTask, text_task

_HOMES = {
    "Addition": "arithmetic",
    "Arithmetic": "arithmetic",
    "Copy": "sequences",
    "PAD": "task",
    "Preferences": "preferences",
    "Reverse": "sequences",
    "Scored": "scored",
    "Sort": "sequences",
    "Task": "task",
    "TextTask": "text",
    "Written": "task",
    "ids": "task",
    "prefer": "preferences",
    "reasoning_gym": "gym",
    "synthetic": "preferences",
    "text_task": "text",
}

__all__ = [
    "PAD",
    "Addition",
    "Arithmetic",
    "Copy",
    "Preferences",
    "Reverse",
    "Scored",
    "Sort",
    "Task",
    "TextTask",
    "Written",
    "ids",
    "prefer",
    "reasoning_gym",
    "synthetic",
    "text_task",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"jaxrl.llm.tasks.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jaxrl.llm.tasks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
