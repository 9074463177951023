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

from jaxrl.llm.lora import variables as variables_of
from jaxrl.llm.model import Cache, Transformer, grow
from jaxrl.llm.sampling import Sampling, kept, log_probs, pack_bits, tempered, unpack_bits
from jaxrl.llm.sampling import draw as pick
from jaxrl.struct import struct

STAGE = 256
"""Slots below which a cache is not begun smaller"""

Carry = tuple[jax.Array, jax.Array, jax.Array, Any, Cache, "Completions"]
"""Of the loop: number of the token, last tokens, rows that go on, tokens seen, cache, result"""


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
) -> Completions:
    """Up to `max_new` tokens for `group` completions of each prompt [B, P], padded on any side.

    What a row gets depends on its own key and prompt only, not on its neighbours or the padding.
    A row without any real token gets none.
    """
    sampling = sampling or Sampling()
    sampling.check()
    (B, P), V = tokens.shape, network.config.vocab
    mask = jnp.ones((B, P), bool) if mask is None else mask.astype(bool)
    variables = variables_of(params)
    noise = random_numbers(key, B * group, max_new)

    def logits_of(x: jax.Array) -> jax.Array:  # [.., 1, D] -> [.., V]
        return network.apply(variables, x, method="head")[:, 0]  # pyright: ignore

    room = P + max_new
    # Prompts see prompts only, not the slots that are still empty.
    x, cache = network.apply(variables, tokens, mask, None, room, method="hidden")
    last = P - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    logits = logits_of(jnp.take_along_axis(x, last[:, None, None], axis=1))
    seen = None
    if sampling.repetition_penalty is not None:
        seen = jnp.zeros((B, V), bool).at[jnp.arange(B)[:, None], tokens].max(mask)
    R = B * group
    logits, cache, seen = jax.tree.map(
        lambda a: jnp.repeat(a, group, axis=0) if a.ndim else a, (logits, cache, seen)
    )

    def draw(
        n: Any, logits: jax.Array, seen: jax.Array | None, going: jax.Array, out: Completions
    ) -> tuple[jax.Array, jax.Array, jax.Array | None, Completions]:
        """Token n of every row that goes on -> tokens, rows that go on after it, seen, out"""
        warm = tempered(logits, sampling, seen)
        keep = kept(warm, sampling) if sampling.truncates else None
        left = warm if keep is None else jnp.where(keep, warm, -jnp.inf)
        if sampling.greedy:
            token = left.argmax(-1).astype(jnp.int32)
            own = left.max(-1) - jax.nn.logsumexp(left, axis=-1)
        else:
            token, own = pick(left, jax.lax.dynamic_index_in_dim(noise, n, 1, keepdims=False))
        ends = jnp.isin(token, jnp.asarray(stop, jnp.int32)) if stop else jnp.zeros(R, bool)
        all_kept = out.kept
        if all_kept is not None and keep is not None:
            all_kept = all_kept.at[:, n].set(pack_bits(keep))
        out = Completions(
            tokens=out.tokens.at[:, n].set(jnp.where(going, token, 0)),
            mask=out.mask.at[:, n].set(going),
            log_probs=out.log_probs.at[:, n].set(jnp.where(going, own, 0.0)),
            stopped=out.stopped | (going & ends),
            steps=jnp.asarray(n, jnp.int32),
            kept=all_kept,
            sampling=sampling,
        )
        if seen is not None:
            seen = seen.at[jnp.arange(R), token].max(going)
        return token, going & ~ends, seen, out

    out = Completions(
        tokens=jnp.zeros((R, max_new), jnp.int32),
        mask=jnp.zeros((R, max_new), bool),
        log_probs=jnp.zeros((R, max_new)),
        stopped=jnp.zeros(R, bool),
        steps=jnp.zeros((), jnp.int32),
        kept=jnp.zeros((R, max_new, -(-V // 32)), jnp.uint32) if sampling.truncates else None,
        sampling=sampling,
    )
    there = jnp.repeat(mask.any(axis=1), group)
    token, going, seen, out = draw(0, logits, seen, there, out)

    def more(carry: Carry) -> jax.Array:
        n, _, going, *_ = carry
        return (n < max_new) & going.any()

    def step(carry: Carry) -> Carry:
        n, token, going, seen, cache, out = carry
        both: Any = network.apply(
            variables, token[:, None], going[:, None], cache, room, method="hidden"
        )
        x, cache = both
        token, going, seen, out = draw(n, logits_of(x), seen, going, out)
        return n + 1, token, going, seen, cache, out

    n = jnp.ones((), jnp.int32)
    for slots in stages(P, room):
        carry = (n, token, going, seen, grow(cache, slots), out)
        n, token, going, seen, cache, out = jax.lax.while_loop(
            lambda carry, last=slots - P: more(carry) & (carry[0] <= last), step, carry
        )
    return out


def random_numbers(key: jax.Array, rows: int, max_new: int) -> jax.Array:
    """[rows, max_new, 2], all at once: one by one they would take as long as a small model. Those
    of a token depend on the row's and its own number only."""

    def of_row(row: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, row)
        each = jax.vmap(lambda n: jax.random.fold_in(own, n))(jnp.arange(max_new))
        return jax.vmap(lambda k: jax.random.uniform(k, (2,)))(each)

    return jax.vmap(of_row)(jnp.arange(rows))


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
    R, L = out.tokens.shape
    B, P = tokens.shape
    mask = jnp.ones((B, P), bool) if mask is None else mask.astype(bool)
    tokens, mask = (jnp.repeat(a, R // B, axis=0) for a in (tokens, mask))
    whole = jnp.concatenate([tokens, out.tokens], axis=1)
    x, _ = network.apply(
        variables_of(params),
        whole,
        jnp.concatenate([mask, out.mask], 1),
        None,
        P + L,
        method="hidden",
    )
    # The token before the first drawn one is the last real one of the prompt.
    last = P - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    first = jnp.take_along_axis(x, last[:, None, None], axis=1)
    x = jnp.concatenate([first, x[:, P : P + L - 1]], axis=1)  # [R, L, D]
    V, s = network.config.vocab, out.sampling
    seen = jnp.zeros((R, V), bool)
    if s.repetition_penalty is not None:
        seen = seen.at[jnp.arange(R)[:, None], tokens].max(mask)
    parts = -(-L // chunk)
    chunk = -(-L // parts)

    def split(a: jax.Array) -> jax.Array:  # [R, L, ..] -> [parts, R, chunk, ..]
        a = jnp.pad(a, [(0, 0), (0, parts * chunk - L)] + [(0, 0)] * (a.ndim - 2))
        return a.reshape(R, parts, chunk, *a.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def of_chunk(seen: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        x, token, real, words = part
        logits: Any = network.apply(variables_of(params), x, method="head")
        before = None
        if s.repetition_penalty is not None:
            new = jax.nn.one_hot(token, V, dtype=bool) & real[..., None]
            so_far = jax.lax.associative_scan(jnp.logical_or, new, axis=1) | seen[:, None]
            before = jnp.concatenate([seen[:, None], so_far[:, :-1]], axis=1)
            seen = so_far[:, -1]
        keep = None if words is None else unpack_bits(words, V).at[..., 0].max(~real)
        each = log_probs(tempered(logits, s, before), keep)
        own = jnp.take_along_axis(each, token[..., None], axis=-1)[..., 0]
        return seen, jnp.where(real, own, 0.0)

    parts_of = jax.tree.map(split, (x, out.tokens, out.mask, out.kept))
    _, found = jax.lax.scan(of_chunk, seen, parts_of)
    return found.swapaxes(0, 1).reshape(R, -1)[:, :L]


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
        lengths: Sequence[int] = (32, 64, 128, 256, 512, 1024),
        batches: Sequence[int] = (1, 4, 16, 64, 256),
    ) -> None:
        self.network, self.group = network, group
        self.lengths, self.batches = sorted(lengths), sorted(batches)
        stop = network.config.eos if stop is None else stop
        run = partial(generate, max_new=max_new, group=group, stop=tuple(stop))
        self._run = jax.jit(run, static_argnums=0)

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
        out = self._run(self.network, params, tokens, mask, key, sampling)
        rows = len(prompts) * self.group
        return jax.tree.map(lambda a: a[:rows] if a.ndim else a, jax.device_get(out))


def _next(sizes: Sequence[int], size: int, what: str) -> int:
    for enough in sizes:
        if enough >= size:
            return enough
    raise ValueError(f"{size} {what}, but there is room for {sizes[-1]} at most.")
