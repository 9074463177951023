"""The generators of reasoning-gym, with their own scorers (extra `llm-tasks`)."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxrl.llm.tasks.text import TextTask, text_task
from jaxrl.llm.tokenizer import Tokenizer
from jaxrl.llm.verifiers.confined.wire import GYM
from jaxrl.llm.verifiers.extract import whole
from jaxrl.llm.verifiers.verifier import Extract
from jaxrl.llm.verifiers.workers import Workers


@dataclasses.dataclass(frozen=True)
class GymScorer:
    """The scorer of one of its data sets. It runs in a worker, which makes the question again:
    several of these scorers read completions as Python or SymPy expressions. The answer is the
    number of the question. Between 0 and 1; None if the scorer fails or takes too long."""

    workers: Workers
    name: str
    size: int
    seed: int
    config: tuple[tuple[str, Any], ...] = ()
    extract: Extract = whole

    def __call__(self, completion: str, answer: str) -> float | None:
        found = self.extract(completion)
        if found is None:
            return 0.0
        config = dict(self.config) | {"size": self.size, "seed": self.seed}
        request = {"name": self.name, "config": config, "index": int(answer), "text": found}
        verdict = self.workers.run(GYM, 0, request)
        return None if "error" in verdict else float(verdict["passed"])


def reasoning_gym(
    name: str,
    tokenizer: Tokenizer,
    max_new: int,
    *,
    size: int = 500,
    seed: int = 0,
    workers: Workers | None = None,
    extract: Extract = whole,
    chat: bool = False,
    bos: bool = False,
    longest: int | None = None,
    **config: Any,
) -> TextTask:
    """`size` questions of the data set `name`, such as "leg_counting". `config` goes to it, the
    rest to `text_task`; `extract` finds the answer in a completion."""
    try:
        import reasoning_gym as package  # pyright: ignore
    except ImportError as error:
        raise ImportError('reasoning-gym is missing: pip install "jaxrl[llm-tasks]"') from error
    data: Any = package.create_dataset(name, size=size, seed=seed, **config)
    workers = workers or Workers(2, seconds=10.0, memory=2048)
    scorer = GymScorer(workers, name, size, seed, tuple(sorted(config.items())), extract)
    return text_task(
        [str(data[i]["question"]) for i in range(size)],
        [str(i) for i in range(size)],
        scorer,
        tokenizer,
        max_new,
        chat=chat,
        bos=bos,
        longest=longest,
    )
