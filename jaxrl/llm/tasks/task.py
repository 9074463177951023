"""What a task for language models is, and those whose right answers can be written down."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm.tokenizer import Tokenizer
from jaxrl.spaces import Box, Space
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, PyTree, Step

PAD = -1
"""No token: on the left of prompts, on the right of completions"""


@runtime_checkable
class Task(Protocol):
    """An environment of one step, whose observation is a prompt [P] and whose action is a
    completion [C], the stop token included if it was drawn. C is `max_new`.

    A completion that cannot be scored ends with `truncated` and reward 0: we stopped watching. Only
    then is `time_limit` 1, else None."""

    @property
    def obs_space(self) -> Space: ...

    @property
    def action_space(self) -> Space: ...

    @property
    def time_limit(self) -> int | None: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def stop(self) -> tuple[int, ...]: ...

    @property
    def max_new(self) -> int: ...

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]: ...

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]: ...


def box(tokenizer: Tokenizer, length: int) -> Box:
    """The space of `length` tokens or pads."""
    return Box(PAD, tokenizer.size - 1, (length,), np.int32)


def ids(tokens: Any) -> list[int]:
    """Those of one prompt or completion, without pads."""
    return [int(n) for n in np.asarray(tokens).ravel() if n != PAD]


def to_the_left(tokens: jax.Array, present: jax.Array, length: int) -> jax.Array:
    """-> [length]: the tokens [L] that are present, in order, then pads."""
    place = jnp.where(present, jnp.cumsum(present) - 1, length)
    return jnp.full(length, PAD, jnp.int32).at[place].set(tokens, mode="drop")


def to_the_right(tokens: jax.Array, present: jax.Array, length: int) -> jax.Array:
    """-> [length]: pads, then the tokens [L] that are present, in order."""
    return to_the_left(tokens[::-1], present[::-1], length)[::-1]


@struct
class Written:
    """A question and its right answer, both as tokens."""

    prompt: jax.Array  # [P]
    answer: jax.Array  # [C], the stop token at its end


@partial(jax.jit, inline=True)
def _write(task: Any, key: Key) -> Written:
    """One program where nothing is compiled yet, part of another one where something is."""
    return task.write(key)


@partial(jax.jit, inline=True)
def _reward(task: Any, state: Written, completion: jax.Array) -> jax.Array:
    asked = state.answer != PAD  # [C]
    right = (completion == state.answer) & asked
    share = right.sum() / asked.sum()
    exact = right.sum() == asked.sum()
    return jnp.where(exact, 1.0, task.partial * share).astype(jnp.float32)


@partial(jax.jit, static_argnums=2)
def _examples(task: Any, key: Key, count: int) -> tuple[jax.Array, jax.Array]:
    states = jax.vmap(task.write)(jax.random.split(key, count))
    tokens = jnp.concatenate([states.prompt, states.answer], 1)
    return tokens, (jnp.arange(tokens.shape[1]) >= task.longest_prompt) & (tokens != PAD)


@struct
class WrittenTask:
    """Tasks that write questions and answers themselves, in characters, as part of a compiled
    program. A subclass says how (`write`), in which alphabet, and how long both may become."""

    room: int = static(
        "tokens of a completion; 0 for as many as the longest answer has", default=0, low=0
    )
    partial: Float = param(
        "reward of a wrong completion for the share of its tokens that are right",
        default=0.0,
        low=0.0,
        high=1.0,
    )

    @property
    def tokenizer(self) -> Tokenizer:
        raise NotImplementedError

    @property
    def longest_prompt(self) -> int:
        raise NotImplementedError

    @property
    def longest_answer(self) -> int:
        """The stop token included"""
        raise NotImplementedError

    def write(self, key: Key) -> Written:
        raise NotImplementedError

    @property
    def stop(self) -> tuple[int, ...]:
        assert self.tokenizer.eos is not None
        return (self.tokenizer.eos,)

    @property
    def max_new(self) -> int:
        if 0 < self.room < self.longest_answer:
            raise ValueError(
                f"{type(self).__name__}(room={self.room}) must be at least {self.longest_answer}, "
                "the length of its longest answer."
            )
        return self.room or self.longest_answer

    @property
    def obs_space(self) -> Box:
        return box(self.tokenizer, self.longest_prompt)

    @property
    def action_space(self) -> Box:
        return box(self.tokenizer, self.max_new)

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[Written, jax.Array]:
        state = _write(self, key)
        return state, state.prompt

    def step(self, state: Written, action: jax.Array, key: Key) -> tuple[Written, Step]:
        del key
        return state, Step(
            state.prompt, self.reward(state, action), jnp.array(True), jnp.array(False)
        )

    def reward(self, state: Written, completion: jax.Array) -> jax.Array:
        """1 if it is the answer to the last token (what follows the stop token is not looked at),
        else `partial` times the share of the answer's tokens that stand at their places."""
        return _reward(self, state, completion)

    def answer(self, state: Written) -> jax.Array:
        """The right completion [C]."""
        return state.answer

    def examples(self, key: Key, count: int) -> tuple[jax.Array, jax.Array]:
        """Questions with their answers, to be imitated: tokens [count, P + C], pads on both sides,
        and which of them belong to the answer."""
        return _examples(self, key, count)

    def text(self, tokens: Any) -> str:
        return self.tokenizer.decode(ids(tokens))
