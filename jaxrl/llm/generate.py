"""Completions: the prompt in one pass, then a token at a time from the cache.

    out = generate(lm.network, lm.params, tokens, mask, key, Sampling(temperature=0.8), max_new=64)
    lp = score(lm.network, lm.params, tokens, mask, out)        equals out.log_probs

`generate` is pure and of fixed shapes: it can stand inside `jit`, inside `vmap`, inside a training
step. `Generator` is for lists of prompts: it pads them to few lengths, so that nothing is compiled
again after the first calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm import scoring
from jaxrl.llm.lora import variables as variables_of
from jaxrl.llm.model import Cache, Transformer, grow
from jaxrl.llm.refill import refilled
from jaxrl.llm.rows import Ends, Rows, draw, head, random_numbers, read
from jaxrl.llm.sampling import Sampling, pack_bits
from jaxrl.llm.stops import StopStrings
from jaxrl.struct import struct

STAGE = 256
"""Slots below which a cache is not begun smaller"""

Carry = tuple[jax.Array, Rows, Cache, "Completions"]
"""Of the loop: number of the token, rows, cache, result"""


@struct
class Completions:
    """R = B G rows, the G completions of a prompt one behind the other; L = max_new tokens."""

    tokens: jax.Array
    """[R, L]; 0 where the mask is False"""
    mask: jax.Array
    """[R, L]: drawn tokens, the stop token among them"""
    log_probs: jax.Array
    """[R, L] of the drawn tokens under the distribution that they were drawn from; else 0"""
    stopped: jax.Array
    """[R]: ended with a stop token, not for want of room"""
    steps: jax.Array
    """Passes through the model after the prompts"""
    kept: jax.Array | None
    """[R, L, V / 32]: the tokens that could be drawn, one bit each; None if all could"""
    sampling: Sampling


def generate(
    network: Transformer,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array | None,
    key: jax.Array,
    sampling: Sampling | None = None,
    *,
    max_new: int,
    group: int = 1,
    stop: Sequence[int] = (),
    strings: StopStrings | None = None,
    min_new: int = 0,
    slots: int | None = None,
) -> Completions:
    """Up to `max_new` tokens for `group` completions of each prompt [B, P], padded on any side.

    What a row gets depends on its own key and prompt only, not on its neighbours or the padding.
    A row without any real token gets none.

    stop, strings: tokens and texts that end a row (see `stop_strings`); no such token is drawn
    before the first `min_new`
    slots: rows at a time; the others wait until one of these is finished (see `refill`)
    """
    sampling = sampling or Sampling()
    sampling.check()
    (B, P), V, R = tokens.shape, network.config.vocab, tokens.shape[0] * group
    mask = jnp.ones((B, P), bool) if mask is None else mask.astype(bool)
    variables, room = variables_of(params), P + max_new
    ends = Ends(strings, tuple(stop), min_new)
    noise = random_numbers(key, R, max_new)
    cuts = sampling.truncates or bool(min_new and ends.tokens)
    out = Completions(
        tokens=jnp.zeros((R, max_new), jnp.int32),
        mask=jnp.zeros((R, max_new), bool),
        log_probs=jnp.zeros((R, max_new)),
        stopped=jnp.zeros(R, bool),
        steps=jnp.zeros((), jnp.int32),
        kept=jnp.zeros((R, max_new, -(-V // 32)), jnp.uint32) if cuts else None,
        sampling=sampling,
    )
    if slots is not None and slots < R:
        return refilled(network, variables, tokens, mask, noise, sampling, ends, out, slots)
    logits, cache, rows = read(network, variables, tokens, mask, room, sampling, ends)
    logits, cache, rows = jax.tree.map(
        lambda a: jnp.repeat(a, group, axis=0) if a.ndim else a, (logits, cache, rows)
    )

    def write(n: jax.Array, rows: Rows, logits: jax.Array, out: Completions) -> Any:
        u = jax.lax.dynamic_index_in_dim(noise, n, axis=1, keepdims=False)
        after, drawn = draw(rows, logits, u, n, sampling, ends)
        sets = out.kept
        if sets is not None:
            assert drawn.kept is not None
            sets = sets.at[:, n].set(pack_bits(drawn.kept))
        return after, Completions(
            tokens=out.tokens.at[:, n].set(drawn.token),
            mask=out.mask.at[:, n].set(rows.going),
            log_probs=out.log_probs.at[:, n].set(drawn.log_prob),
            stopped=out.stopped | drawn.stopped,
            steps=n,
            kept=sets,
            sampling=sampling,
        )

    def step(carry: Carry) -> Carry:
        n, rows, cache, out = carry
        both: Any = network.apply(
            variables, rows.token[:, None], rows.going[:, None], cache, room, method="hidden"
        )
        x, cache = both
        rows, out = write(n, rows, head(network, variables, x), out)
        return n + 1, rows, cache, out

    n = jnp.zeros((), jnp.int32)
    rows, out = write(n, rows, logits, out)
    n += 1
    for size in stages(P, room):
        n, rows, cache, out = jax.lax.while_loop(
            lambda carry, last=size - P: (
                (carry[0] <= last) & (carry[0] < max_new) & carry[1].going.any()
            ),
            step,
            (n, rows, grow(cache, size), out),
        )
    return out


def stages(prompt: int, room: int) -> list[int]:
    """Slots of the cache, from loop to loop: attention reads all of them, the empty ones too, so
    long completions begin with few. Each size is one more loop to compile."""
    sizes = [room]
    while sizes[0] >= 2 * STAGE and sizes[0] // 2 > prompt:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def score(
    network: Transformer,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array | None,
    out: Completions,
    *,
    chunk: int = 64,
) -> jax.Array:
    """Log-probabilities [R, L] of the completions' tokens, drawn as they were: same temperature,
    same sets. Differentiable; the vocabulary is only ever there for `chunk` tokens of each row.

    tokens, mask: the prompts [B, P], with R a multiple of B
    """
    B, R = len(tokens), len(out.tokens)
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    tokens, mask = (jnp.repeat(a, R // B, axis=0) for a in (tokens, mask))
    drawn = out.tokens, out.mask, out.kept, out.sampling
    return scoring.of_completions(network, params, tokens, mask, *drawn, chunk=chunk)[0]


def pad(texts: Sequence[Sequence[int]], room: int | None = None) -> tuple[Any, Any]:
    """-> tokens and mask [B, room] of texts, padded on the left."""
    room = room or max(len(text) for text in texts)
    tokens = np.zeros((len(texts), room), np.int32)
    mask = np.zeros((len(texts), room), bool)
    for row, text in enumerate(texts):
        if not 0 < len(text) <= room:
            raise ValueError(f"Text {row} has {len(text)} tokens; 1 to {room} are possible.")
        tokens[row, room - len(text) :] = text
        mask[row, room - len(text) :] = True
    return tokens, mask


class Generator:
    """Completions for lists of prompts of any length, from few compiled programs.

    Prompts are padded to the next of `lengths`, batches to the next of `batches`: that many
    programs there can be, and `compilations` says how many there are.
    """

    def __init__(
        self,
        network: Transformer,
        *,
        max_new: int,
        group: int = 1,
        stop: Sequence[int] | None = None,
        strings: StopStrings | None = None,
        min_new: int = 0,
        slots: int | None = None,
        lengths: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        batches: Sequence[int] = (1, 4, 16, 64, 256),
    ) -> None:
        self.network, self.group = network, group
        self.lengths, self.batches = sorted(lengths), sorted(batches)
        stop = network.config.eos if stop is None else stop
        fixed = dict(max_new=max_new, group=group, stop=tuple(stop), min_new=min_new, slots=slots)
        self._run = jax.jit(partial(generate, **fixed), static_argnums=0)  # pyright: ignore
        self.strings = strings

    @property
    def compilations(self) -> int:
        return self._run._cache_size()  # pyright: ignore

    def __call__(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        key: jax.Array,
        sampling: Sampling | None = None,
    ) -> Completions:
        """R = len(prompts) * group rows, as arrays of the host."""
        sampling = sampling or Sampling()
        sampling.check()
        # Numbers become arrays, so that a new value is no new program.
        sampling = jax.tree.map(lambda x: np.asarray(x, np.float32), sampling)
        tokens, mask = pad(prompts, _next(self.lengths, max(len(p) for p in prompts), "tokens"))
        if not 0 <= tokens.min() <= tokens.max() < self.network.config.vocab:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ValueError(f"{wrong} is no token; there are {self.network.config.vocab} of them.")
        spare = _next(self.batches, len(prompts), "prompts") - len(prompts)
        tokens, mask = (np.pad(a, ((0, spare), (0, 0))) for a in (tokens, mask))
        out = self._run(self.network, params, tokens, mask, key, sampling, strings=self.strings)
        rows = len(prompts) * self.group
        return jax.tree.map(lambda a: a[:rows] if a.ndim else a, jax.device_get(out))


def _next(sizes: Sequence[int], size: int, what: str) -> int:
    for enough in sizes:
        if enough >= size:
            return enough
    raise ValueError(f"{size} {what}, but there is room for {sizes[-1]} at most.")
