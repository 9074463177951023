"""Preferences that are made up from a known reward, so that what is learned from them can be
compared with the truth."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.llm.tasks.task import PAD, Written, WrittenTask
from jaxrl.struct import Float, struct
from jaxrl.types import Key

Gold = Callable[[Written, jax.Array], jax.Array]
"""(question, completion [C]) -> scalar"""


@struct
class Preferences:
    """N pairs of completions, and what was known when they were labelled."""

    prompt: jax.Array  # [N, P], padded on the left
    chosen: jax.Array  # [N, C], padded on the right
    rejected: jax.Array  # [N, C]
    margin: jax.Array  # [N]: gold reward of the chosen one minus that of the other, often negative
    swapped: jax.Array  # [N] bool: the worse one was chosen


def prefer(
    key: Key,
    prompt: jax.Array,
    a: jax.Array,
    b: jax.Array,
    gold_a: jax.Array,
    gold_b: jax.Array,
    temperature: Float = 1.0,
) -> Preferences:
    """Label pairs as Bradley and Terry's model does: a is chosen with probability
    sigmoid((gold_a - gold_b) / temperature); 0 chooses the better one always, and either of two
    that are equally good."""
    gap = gold_a - gold_b  # [N]
    cold = jnp.asarray(temperature) == 0
    logit = jnp.where(cold, jnp.sign(gap) * jnp.inf, gap / jnp.where(cold, 1.0, temperature))
    logit = jnp.where(gap == 0, 0.0, logit)
    first = jax.random.uniform(key, gap.shape) < jax.nn.sigmoid(logit)
    margin = jnp.where(first, gap, -gap)
    chosen, rejected = (jnp.where(which[:, None], a, b) for which in (first, ~first))
    return Preferences(prompt, chosen, rejected, margin, margin < 0)


def corrupted(task: WrittenTask, question: Written, key: Key, rate: jax.Array) -> jax.Array:
    """The right answer, in which each token was replaced by any character with probability `rate`,
    the stop token excepted: a completion of the same length."""
    swap_key, token_key = jax.random.split(key)
    answer = question.answer
    letters = min(n for n in (*task.stop, task.tokenizer.size, task.tokenizer.bos) if n is not None)
    swap = jax.random.uniform(swap_key, answer.shape) < rate
    swap &= (answer != PAD) & ~jnp.isin(answer, jnp.asarray(task.stop))
    return jnp.where(swap, jax.random.randint(token_key, answer.shape, 0, letters), answer)


def synthetic(
    task: WrittenTask,
    key: Key,
    count: int,
    *,
    gold: Gold | None = None,
    scale: Float = 4.0,
    temperature: Float = 1.0,
) -> Preferences:
    """`count` pairs of corrupted answers to the task's questions, some hardly and some badly so.
    The gold reward is `scale` times the share of tokens that are right, unless `gold` is given."""

    def right(question: Written, completion: jax.Array) -> jax.Array:
        asked = question.answer != PAD
        return scale * ((completion == question.answer) & asked).sum() / asked.sum()

    known = right if gold is None else gold
    write_key, rate_key, a_key, b_key, label_key = jax.random.split(key, 5)
    questions = jax.vmap(task.write)(jax.random.split(write_key, count))
    rates = jax.random.uniform(rate_key, (2, count))
    a, b = (
        jax.vmap(lambda q, k, r: corrupted(task, q, k, r))(questions, jax.random.split(k, count), r)
        for k, r in zip((a_key, b_key), rates, strict=True)
    )
    gold_a, gold_b = (jax.vmap(known)(questions, completion) for completion in (a, b))
    return prefer(label_key, questions.prompt, a, b, gold_a, gold_b, temperature)
