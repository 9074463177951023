"""More completions than there is room for at once: who has finished makes room for the next one.

`generate(..., slots=W)` gives what it gives without `slots`, with W rows at a time. It is one
program of two nested loops, and not chunks with the host between them: it can stand inside a
training step, the host is never waited for, and XLA updates the cache of a `while_loop` in place,
which it does not do for a `cond`.

- Outer loop: up to W / 4 free slots get the next prompts, which are read together.
- Inner loop: a token for every slot, until that many are free again or, at the end, all are.

All rows write to the same slot of the cache, which is a ring of P + max_new: when a row comes in,
its prompt is put right before the place where the others write next. No row lives longer than one
round, so nothing that is still needed is ever overwritten, and rows of any age share one program.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm.model import Cache, Transformer, empty_cache
from jaxrl.llm.rows import Drawn, Ends, Rows, draw, head, read
from jaxrl.llm.sampling import Sampling, pack_bits
from jaxrl.struct import struct


@struct
class Pages:
    """What was drawn, in the places of the ring: everyone writes to the same column."""

    tokens: jax.Array
    """[W, S]"""
    log_probs: jax.Array
    kept: jax.Array | None
    """[W, S, V / 32]"""

    def write(self, column: jax.Array, drawn: Drawn, going: jax.Array) -> Pages:
        """Who is finished and waits keeps what it has."""

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            there = going[:, None] if new.ndim == 2 else going
            return old.at[:, column].set(jnp.where(there, new, old[:, column]))

        kept = self.kept
        if kept is not None:
            assert drawn.kept is not None
            kept = put(kept, pack_bits(drawn.kept))
        return Pages(put(self.tokens, drawn.token), put(self.log_probs, drawn.log_prob), kept)


@struct
class Queue:
    next: jax.Array
    """Completions that were begun"""
    steps: jax.Array
    number: jax.Array
    """[W]: which completion is in the slot; R: none"""
    began: jax.Array
    """[W]: column of its first token"""
    n: jax.Array
    """[W]: its tokens so far"""
    stopped: jax.Array
    rows: Rows
    cache: Cache
    pages: Pages
    out: Any
    """The `Completions`, [R, L]"""


def refilled(
    network: Transformer,
    variables: dict[str, Any],
    tokens: jax.Array,
    mask: jax.Array,
    noise: jax.Array,
    sampling: Sampling,
    ends: Ends,
    out: Any,
    slots: int,
) -> Any:
    """tokens, mask: [B, P]; noise: [R, L, 2]; out: the empty result"""
    (B, P), (R, L), V = tokens.shape, out.tokens.shape, network.config.vocab
    W, S, few = slots, P + L, max(1, slots // 4)

    def fill(q: Queue) -> Queue:
        """The next few completions go into the first few free slots."""
        places = jnp.argsort(q.rows.going, stable=True)[:few]
        numbers = q.next + jnp.arange(few)
        fits = ~q.rows.going[places] & (numbers < R)
        places, numbers = jnp.where(fits, places, W), jnp.where(fits, numbers, R)
        q = hand_in(q, places)
        of = jnp.minimum(numbers, R - 1)
        prompt = of // (R // B)
        logits, cache, rows = read(
            network, variables, tokens[prompt], mask[prompt], S, sampling, ends
        )
        rows = dataclasses.replace(rows, going=rows.going & fits)
        there = rows.going
        zero = jnp.zeros(few, jnp.int32)
        rows, drawn = draw(rows, logits, noise[of, 0], zero, sampling, ends)
        rows = dataclasses.replace(rows, going=rows.going & (L > 1))
        column = (q.cache.length - 1) % S

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[places].set(new.astype(old.dtype), mode="drop")

        def ring(new: jax.Array, axis: int) -> jax.Array:  # the last prompt token before the rest
            whole = jnp.pad(new, [(0, L if n == axis else 0) for n in range(new.ndim)])
            return jnp.roll(whole, q.cache.length - P, axis=axis)

        keys, values = (
            tuple(put(old, ring(new, 2)) for old, new in zip(a, b, strict=True))
            for a, b in ((q.cache.keys, cache.keys), (q.cache.values, cache.values))
        )
        segments = put(q.cache.segments, ring(cache.segments, 1))
        positions = put(q.cache.positions, ring(cache.positions, 1))
        page = jax.tree.map(lambda x: x[places], q.pages).write(column, drawn, there)
        return Queue(
            next=q.next + fits.sum(),
            steps=q.steps,
            number=put(q.number, numbers),
            began=put(q.began, jnp.broadcast_to(column, (few,))),
            n=put(q.n, there),
            stopped=put(q.stopped, drawn.stopped),
            rows=jax.tree.map(put, q.rows, rows),
            cache=Cache(keys, values, segments, positions, q.cache.length),
            pages=jax.tree.map(put, q.pages, page),
            out=q.out,
        )

    def step(q: Queue) -> Queue:
        was, column = q.rows.going, q.cache.length % S
        both: Any = network.apply(
            variables, q.rows.token[:, None], was[:, None], q.cache, S, method="hidden"
        )
        x, cache = both
        u = noise[jnp.minimum(q.number, R - 1), jnp.minimum(q.n, L - 1)]
        rows, drawn = draw(q.rows, head(network, variables, x), u, q.n, sampling, ends)
        pages = q.pages.write(column, drawn, was)
        n = q.n + was
        rows = dataclasses.replace(rows, going=rows.going & (n < L))
        stopped = q.stopped | drawn.stopped
        return Queue(q.next, q.steps + 1, q.number, q.began, n, stopped, rows, cache, pages, q.out)

    def hand_in(q: Queue, places: jax.Array) -> Queue:
        """Results of the rows in some slots, from the ring to where they belong."""
        numbers = jnp.where(places < W, q.number[places], R)
        columns = (q.began[places, None] + jnp.arange(L)) % S  # [.., L]
        real = jnp.arange(L) < q.n[places, None]

        def put(old: jax.Array, page: jax.Array) -> jax.Array:
            there = real[..., None] if page.ndim == 3 else real
            row = page[places[:, None], columns]
            return old.at[numbers].set(jnp.where(there, row, 0), mode="drop")

        out, kept = q.out, q.out.kept
        out = dataclasses.replace(
            out,
            tokens=put(out.tokens, q.pages.tokens),
            mask=out.mask.at[numbers].set(real, mode="drop"),
            log_probs=put(out.log_probs, q.pages.log_probs),
            stopped=out.stopped.at[numbers].set(q.stopped[places], mode="drop"),
            kept=None if q.pages.kept is None else put(kept, q.pages.kept),
        )
        return dataclasses.replace(q, out=out)

    def decode(q: Queue) -> Queue:
        def more(q: Queue) -> jax.Array:
            waiting = (q.next < R) & ((~q.rows.going).sum() >= few)
            return q.rows.going.any() & ~waiting

        return jax.lax.while_loop(more, step, fill(q))

    nothing, each = jnp.zeros((), jnp.int32), jnp.zeros(W, jnp.int32)
    cache = empty_cache(network.config, W, S, network.dtype)
    q = Queue(
        next=nothing,
        steps=nothing,
        number=jnp.full(W, R),
        began=each,
        n=each,
        stopped=each > 0,
        rows=Rows(
            token=each,
            going=each > 0,
            seen=None if sampling.repetition_penalty is None else jnp.zeros((W, V), bool),
            text=None if ends.strings is None else each,
        ),
        cache=dataclasses.replace(cache, length=jnp.asarray(P, jnp.int32)),
        pages=Pages(
            tokens=jnp.zeros((W, S), jnp.int32),
            log_probs=jnp.zeros((W, S)),
            kept=None if out.kept is None else jnp.zeros((W, S, out.kept.shape[-1]), jnp.uint32),
        ),
        out=out,
    )
    q = jax.lax.while_loop(lambda q: (q.next < R) | q.rows.going.any(), decode, q)
    return dataclasses.replace(hand_in(q, jnp.arange(W)).out, steps=q.steps)
