"""Datasets from lists of token ids: for fine-tuning, preferences, and thumbs up or down.

    data = examples.supervised(prompts, answers, room=128, eos=tokenizer.eos)

Prompts and answers are joined as ids: text that is cut elsewhere would be other tokens. The end
token is put behind every answer that does not have it, and counts: an answer whose end is never
trained never ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrl.dataset import Dataset
from jaxrl.llm.tasks.task import PAD

Ids = Sequence[int]
Array = np.ndarray[Any, Any]


def supervised(
    prompts: Sequence[Ids], answers: Sequence[Ids], *, room: int, eos: int | None
) -> Dataset:
    """A row per example, [n, room] each: `tokens`, `segments` and `mask` (the answer)."""
    _same(prompts, answers, "answers")
    rows = [_joined(p, a, room, eos, i) for i, (p, a) in enumerate(zip(prompts, answers))]
    return Dataset(_rows(rows, room))


def packed(
    prompts: Sequence[Ids], answers: Sequence[Ids], *, room: int, eos: int | None
) -> Dataset:
    """The same examples in fewer rows: several behind one another, kept apart by `segments`. Each
    goes to the first row with enough room, the longest first."""
    _same(prompts, answers, "answers")
    parts = [_joined(p, a, room, eos, i) for i, (p, a) in enumerate(zip(prompts, answers))]
    order = sorted(range(len(parts)), key=lambda i: -len(parts[i][0]))
    bins: list[list[int]] = []
    left: list[int] = []
    for i in order:
        size = len(parts[i][0])
        place = next((b for b, free in enumerate(left) if free >= size), None)
        if place is None:
            bins.append([])
            left.append(room)
            place = len(bins) - 1
        bins[place].append(i)
        left[place] -= size
    tokens, segments, mask = (np.zeros((len(bins), room), np.int32) for _ in range(3))
    for row, content in enumerate(bins):
        at = 0
        for segment, i in enumerate(content, start=1):
            ids, counts = parts[i]
            here = slice(at, at + len(ids))
            tokens[row, here], segments[row, here], mask[row, here] = ids, segment, counts
            at += len(ids)
    return Dataset({"tokens": tokens, "segments": segments, "mask": mask.astype(bool)})


def preferences(
    prompts: Sequence[Ids],
    chosen: Sequence[Ids],
    rejected: Sequence[Ids],
    *,
    room: int,
    eos: int | None,
    margin: Sequence[float] | None = None,
) -> Dataset:
    """{"chosen": rows, "rejected": rows}, see `jaxrl.llm.pairs`."""
    _same(prompts, chosen, "chosen")
    _same(prompts, rejected, "rejected")
    sides = {
        name: _rows(
            [_joined(p, a, room, eos, i) for i, (p, a) in enumerate(zip(prompts, side))], room
        )
        for name, side in (("chosen", chosen), ("rejected", rejected))
    }
    if margin is None:
        return Dataset(sides)
    _same(prompts, margin, "margin")
    return Dataset({**sides, "margin": np.asarray(margin, np.float32)})


def thumbs(
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    desirable: Sequence[bool],
    *,
    prompt_room: int,
    answer_room: int,
    eos: int | None,
) -> Dataset:
    """`prompt` padded on the left, `answer` on the right, both with -1, and `desirable`."""
    _same(prompts, answers, "answers")
    _same(prompts, desirable, "desirable")
    left = np.full((len(prompts), prompt_room), PAD, np.int32)
    right = np.full((len(prompts), answer_room), PAD, np.int32)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        answer = _ended(answer, eos)
        for name, ids, most in (("prompt", prompt, prompt_room), ("answer", answer, answer_room)):
            if not 0 < len(ids) <= most:
                raise ValueError(f"{name} {i} has {len(ids)} tokens; 1 to {most} are possible.")
        left[i, prompt_room - len(prompt) :] = prompt
        right[i, : len(answer)] = answer
    good = np.asarray(desirable, bool)
    return Dataset({"prompt": left, "answer": right, "desirable": good})


def written(task: Any, key: Any, count: int) -> Dataset:
    """`count` questions with their answers, of a task that can write both (`tasks.Addition`)."""
    tokens, mask = (np.asarray(x) for x in task.examples(key, count))
    real = tokens != PAD
    rows = {"tokens": np.where(real, tokens, 0), "segments": real.astype(np.int32), "mask": mask}
    return of_task(task, rows)


def preferred(pairs: Any) -> Dataset:
    """Of `tasks.synthetic` or `tasks.prefer`: prompts with a chosen and a rejected answer each."""
    prompt, chosen, rejected = (np.asarray(x) for x in (pairs.prompt, pairs.chosen, pairs.rejected))
    return Dataset({"chosen": joined(prompt, chosen), "rejected": joined(prompt, rejected)})


def of_task(task: Any, arrays: Any) -> Dataset:
    """A dataset that knows the task's spaces, so that what is fitted to it can be tried there."""
    return Dataset(arrays, obs_space=task.obs_space, action_space=task.action_space)


def joined(prompt: Array, answer: Array) -> dict[str, Array]:
    """Prompts [n, P] padded on the left and answers [n, L] on the right, with -1, as rows."""
    tokens = np.concatenate([prompt, answer], axis=1)
    real = tokens != PAD
    mask = np.concatenate([np.zeros_like(prompt, bool), answer != PAD], axis=1)
    return {
        "tokens": np.where(real, tokens, 0),
        "segments": real.astype(np.int32),
        "mask": mask,
    }


def _same(prompts: Sequence[Any], others: Sequence[Any], name: str) -> None:
    if len(prompts) != len(others):
        raise ValueError(f"{len(prompts)} prompts, but {len(others)} {name}.")


def _ended(answer: Ids, eos: int | None) -> list[int]:
    answer = list(answer)
    return answer if eos is None or (answer and answer[-1] == eos) else [*answer, eos]


def _joined(
    prompt: Ids, answer: Ids, room: int, eos: int | None, number: int
) -> tuple[list[int], list[int]]:
    """-> ids, and which of them count."""
    answer = _ended(answer, eos)
    ids = [*prompt, *answer]
    if not prompt or not answer:
        what = "prompt" if not prompt else "answer"
        raise ValueError(f"example {number} has an empty {what}.")
    if len(ids) > room:
        raise ValueError(
            f"example {number} has {len(ids)} tokens with its end; room={room}: write a larger "
            "room, or leave the example out."
        )
    return ids, [0] * len(prompt) + [1] * len(answer)


def _rows(rows: list[tuple[list[int], list[int]]], room: int) -> dict[str, Array]:
    tokens, segments, mask = (np.zeros((len(rows), room), np.int32) for _ in range(3))
    for i, (ids, counts) in enumerate(rows):
        tokens[i, : len(ids)], segments[i, : len(ids)], mask[i, : len(ids)] = ids, 1, counts
    return {"tokens": tokens, "segments": segments, "mask": mask.astype(bool)}
