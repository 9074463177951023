"""Prompts and answers as text, scored by a verifier on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm.tasks.task import PAD, box, ids
from jaxrl.llm.tokenizer import Tokenizer
from jaxrl.llm.verifiers.scoring import Scores, score
from jaxrl.llm.verifiers.verifier import Verifier
from jaxrl.spaces import Box
from jaxrl.struct import static, struct
from jaxrl.types import Key, Step

Messages = Sequence[Mapping[str, Any]]
Array = np.ndarray[Any, Any]


class Judge:
    """What stays on the host: answers, verifier and counts. Part of programs by identity."""

    def __init__(
        self,
        answers: Sequence[str],
        verifier: Verifier,
        tokenizer: Tokenizer,
        stop: tuple[int, ...],
    ) -> None:
        self.answers, self.verifier = tuple(answers), verifier
        self.tokenizer, self.stop, self.scores = tokenizer, stop, Scores()

    def read(self, completion: Array) -> str:
        """The text of a completion [C], up to the first pad or stop token."""
        tokens = completion.tolist()
        ends = [tokens.index(n) for n in (PAD, *self.stop) if n in tokens]
        known = [n for n in tokens[: min(ends, default=len(tokens))] if n < self.tokenizer.size]
        return self.tokenizer.decode(known)  # a model may have more ids than its tokenizer

    def __call__(self, question: Any, completion: Any) -> Array:
        """Of any number of axes: [...], [..., C] -> [...], NaN for what cannot be scored."""
        questions = np.asarray(question)
        rows = np.asarray(completion).reshape(questions.size, -1)
        texts = [self.read(row) for row in rows]
        answers = [self.answers[n] for n in questions.ravel().tolist()]
        worths = score(self.verifier, texts, answers, self.scores)
        worths = [np.nan if worth is None else worth for worth in worths]
        return np.asarray(worths, np.float32).reshape(questions.shape)


@struct
class TextTask:
    """Made by `text_task`. The state is the number of the question, drawn uniformly."""

    prompts: jax.Array  # [Q, P]
    judge: Judge = static("answers, verifier and tokenizer")
    max_new: int = static("tokens of a completion", low=1)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.judge.tokenizer

    @property
    def stop(self) -> tuple[int, ...]:
        return self.judge.stop

    @property
    def obs_space(self) -> Box:
        return box(self.tokenizer, self.prompts.shape[-1])

    @property
    def action_space(self) -> Box:
        return box(self.tokenizer, self.max_new)

    @property
    def time_limit(self) -> int | None:
        return 1

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        question = jax.random.randint(key, (), 0, self.prompts.shape[0], jnp.int32)
        return question, self.prompts[question]

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        worth = jax.pure_callback(
            self.judge,
            jax.ShapeDtypeStruct((), jnp.float32),
            state,
            action,
            vmap_method="broadcast_all",  # one call for a batch, whatever its axes
        )
        unknown = jnp.isnan(worth)
        reward = jnp.where(unknown, 0.0, worth)
        return state, Step(self.prompts[state], reward, ~unknown, unknown)

    def text(self, tokens: Any) -> str:
        return self.tokenizer.decode(ids(tokens))

    def counts(self) -> dict[str, int]:
        """Since the task was made: completions that were scored, that could not be, those of them
        whose verifier raised; and what its workers counted."""
        found = self.judge.scores
        counts = {"scored": found.scored, "unscored": found.unscored, "raised": found.raised}
        workers: Any = getattr(self.judge.verifier, "workers", None)
        return counts | {f"workers/{k}": n for k, n in (workers.counts if workers else {}).items()}


def text_task(
    prompts: Sequence[str | Messages],
    answers: Sequence[str],
    verifier: Verifier,
    tokenizer: Tokenizer,
    max_new: int,
    *,
    chat: bool = False,
    bos: bool = False,
    stop: Sequence[int] | None = None,
    longest: int | None = None,
) -> TextTask:
    """A task from texts. `chat` puts each prompt through the tokenizer's chat template, as what a
    user says or as messages; else it is encoded as it is, after the BOS token if `bos`. `stop` are
    the tokens that end a completion, by default the tokenizer's EOS. Prompts of more than `longest`
    tokens are refused."""
    if len(prompts) != len(answers) or not prompts:
        raise ValueError(f"{len(prompts)} prompts and {len(answers)} answers: give one for each.")
    rows: list[list[int]] = []
    for prompt in prompts:
        if chat:
            said: Messages = [{"role": "user", "content": prompt}]
            rows.append(tokenizer.chat(said if isinstance(prompt, str) else prompt))
        elif isinstance(prompt, str):
            rows.append(tokenizer.encode(prompt, bos=bos))
        else:
            raise TypeError("A prompt that is a list of messages needs chat=True.")
    if not all(rows):
        raise ValueError("A prompt has no tokens: write bos=True, or some text.")
    length = max(len(row) for row in rows)
    if longest is not None and length > longest:
        many = sum(len(row) > longest for row in rows)
        raise ValueError(
            f"{many} of {len(rows)} prompts have more than longest={longest} tokens, the longest "
            f"{length}: leave them out, or raise `longest`."
        )
    length = length if longest is None else longest
    padded = np.full((len(rows), length), PAD, np.int32)
    for row, tokens in zip(padded, rows, strict=True):
        row[length - len(tokens) :] = tokens
    if stop is None:
        stop = () if tokenizer.eos is None else (tokenizer.eos,)
    judge = Judge(answers, verifier, tokenizer, tuple(int(n) for n in stop))
    return TextTask(jnp.asarray(padded), judge, max_new)
