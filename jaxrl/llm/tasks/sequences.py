"""Copying, reversing and sorting letters."""

from __future__ import annotations

import string

import jax
import jax.numpy as jnp

from jaxrl.llm.tasks.task import PAD, Written, WrittenTask, to_the_left, to_the_right
from jaxrl.llm.tokenizer import CharTokenizer
from jaxrl.struct import static, struct
from jaxrl.types import Key

TOKENS = {n: CharTokenizer(string.ascii_lowercase[:n] + ">") for n in range(1, 27)}


@struct
class Copy(WrittenTask):
    """cab> is to be followed by cab. The number of letters is drawn uniformly, and each letter."""

    length: int = static("letters at most", default=5, low=1)
    shortest: int = static("letters at least", default=1, low=1)
    letters: int = static("different letters", default=10, low=1, high=26)

    @property
    def tokenizer(self) -> CharTokenizer:
        return TOKENS[self.letters]

    @property
    def longest_prompt(self) -> int:
        return self.length + 1

    @property
    def longest_answer(self) -> int:
        return self.length + 1

    def changed(self, letters: jax.Array, count: jax.Array) -> jax.Array:
        """What is to be written for `count` letters [length]; those behind are PAD."""
        del count
        return letters

    def write(self, key: Key) -> Written:
        if not 1 <= self.shortest <= self.length:
            raise ValueError(f"shortest={self.shortest} must be from 1 to length={self.length}.")
        count_key, letter_key = jax.random.split(key)
        count = jax.random.randint(count_key, (), self.shortest, self.length + 1)
        drawn = jax.random.randint(letter_key, (self.length,), 0, self.letters, jnp.int32)
        letters = jnp.where(jnp.arange(self.length) < count, drawn, PAD)
        prompt = jnp.append(letters, self.letters)  # the alphabet ends with >
        answer = jnp.append(self.changed(letters, count), jnp.array(self.stop))
        return Written(
            to_the_right(prompt, prompt != PAD, self.longest_prompt),
            to_the_left(answer, answer != PAD, self.max_new),
        )


@struct
class Reverse(Copy):
    """cab> is to be followed by bac."""

    def changed(self, letters: jax.Array, count: jax.Array) -> jax.Array:
        return letters[::-1]


@struct
class Sort(Copy):
    """cab> is to be followed by abc."""

    def changed(self, letters: jax.Array, count: jax.Array) -> jax.Array:
        return jnp.sort(letters)
