"""Where completions end: at a token, or when a string is there, whatever tokens it is made of.

    strings = stop_strings(tokenizer, ["\n\n", "Question:"])
    out = generate(..., stop=(tokenizer.eos,), strings=strings)
    texts = [strings.cut(tokenizer.decode(row[mask])) for row, mask in zip(out.tokens, out.mask)]

Strings are found by an automaton over bytes (Aho and Corasick 1975) whose steps are put together to
one per token: a table, [states, vocabulary]. So the search is part of the compiled loop, costs one
look-up per token, and no text is ever decoded there.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm.tokenizer import Tokenizer
from jaxrl.struct import static, struct
from jaxrl.tensors import Array


@struct
class StopStrings:
    table: jax.Array
    """[N, V]: the next state. 0 is the beginning; who is in N - 1, found, stays there."""
    strings: tuple[str, ...] = static("what is looked for")

    def step(self, states: jax.Array, tokens: jax.Array) -> jax.Array:
        return self.table[states, tokens].astype(jnp.int32)

    def found(self, states: jax.Array) -> jax.Array:
        return states == self.table.shape[0] - 1

    def cut(self, text: str) -> str:
        """What stands before the first of the strings; all of it if none is there."""
        ends = [text.find(s) for s in self.strings if s in text]
        return text[: min(ends)] if ends else text


def stop_strings(
    tokenizer: Tokenizer, strings: Sequence[str], vocab: int | None = None
) -> StopStrings:
    """vocab: of the model, where its head has more outputs than the tokenizer has tokens"""
    if not strings or not all(strings):
        raise ValueError(f"{list(strings)}: needed are one or more strings that are not empty.")
    steps = automaton([s.encode() for s in strings])
    N, words = len(steps), tokenizer.bytes_of_tokens()
    words += [b""] * ((vocab or len(words)) - len(words))
    lengths = np.array([len(word) for word in words])
    states = np.repeat(np.arange(N)[:, None], len(words), axis=1)  # [N, V]
    for place in range(lengths.max()):
        longer = np.flatnonzero(lengths > place)
        byte = np.array([words[n][place] for n in longer])
        states[:, longer] = steps[states[:, longer], byte]
    return StopStrings(jnp.asarray(states.astype(np.min_scalar_type(N))), tuple(strings))


def automaton(strings: Sequence[bytes]) -> Array:
    """[N, 256]: state and byte -> state. A state is the longest end of what was read that one of
    the strings begins with; the last one, found, is never left."""
    begins = sorted({s[:n] for s in strings for n in range(len(s) + 1)}, key=lambda b: (len(b), b))
    number = {b: n for n, b in enumerate(b for b in begins if not _ends(b, strings))}
    N = len(number) + 1
    steps = np.full((N, 256), N - 1)
    for begin, state in number.items():
        for byte in range(256):
            read = begin + bytes([byte])
            if not _ends(read, strings):
                tails = (read[n:] for n in range(len(read) + 1))
                steps[state, byte] = next(number[tail] for tail in tails if tail in number)
    return steps


def _ends(text: bytes, strings: Sequence[bytes]) -> bool:
    return any(text.endswith(s) for s in strings)
