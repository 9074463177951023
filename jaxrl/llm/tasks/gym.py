"""The generators of reasoning-gym, with their own scorers (extra `llm-tasks`)."""

from __future__ import annotations

import dataclasses
import importlib.util
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

    @property
    def _request(self) -> dict[str, Any]:
        config = dict(self.config) | {"size": self.size, "seed": self.seed}
        return {"name": self.name, "config": config}

    def questions(self) -> list[str]:
        """Made over there, too: some depend on the order of sets, which differs by process."""
        found: list[str] = []
        while len(found) < self.size:
            some = list(range(len(found), min(len(found) + 25, self.size)))
            verdict = self.workers.run(GYM, 0, self._request | {"ask": some})
            if "questions" not in verdict:
                raise ValueError(
                    f"reasoning-gym makes no questions {some[0]} to {some[-1]} of {self.name!r} "
                    f"with {dict(self.config)} ({verdict['error']}): it may not know that name or "
                    "a setting, or need Workers with more seconds or memory."
                )
            found += verdict["questions"]
        return found

    def __call__(self, completion: str, answer: str) -> float | None:
        found = self.extract(completion)
        if found is None:
            return 0.0
        request = self._request | {"index": int(answer), "text": found}
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
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ImportError('reasoning-gym is missing: pip install "jaxrl[llm-tasks]"')
    workers = workers or Workers(2, seconds=10.0, memory=2048)
    scorer = GymScorer(workers, name, size, seed, tuple(sorted(config.items())), extract)
    return text_task(
        scorer.questions(),
        [str(i) for i in range(size)],
        scorer,
        tokenizer,
        max_new,
        chat=chat,
        bos=bos,
        longest=longest,
    )
