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
class Queue:
    next: jax.Array
    """Completions that were begun"""
    steps: jax.Array
    number: jax.Array
    """[W]: which completion is in the slot; R: none"""
    n: jax.Array
    """[W]: its tokens so far"""
    rows: Rows
    cache: Cache
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
        of = jnp.minimum(numbers, R - 1)
        prompt = of // (R // B)
        logits, cache, rows = read(
            network, variables, tokens[prompt], mask[prompt], S, sampling, ends
        )
        rows = dataclasses.replace(rows, going=rows.going & fits)
        was = rows.going
        zero = jnp.zeros_like(numbers)
        rows, drawn = draw(rows, logits, noise[of, 0], zero, sampling, ends)
        rows = dataclasses.replace(rows, going=rows.going & (L > 1))

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
        return Queue(
            next=q.next + fits.sum(),
            steps=q.steps,
            number=put(q.number, numbers),
            n=put(q.n, zero + 1),
            rows=jax.tree.map(put, q.rows, rows),
            cache=Cache(keys, values, segments, positions, q.cache.length),
            out=write(q.out, drawn, was, numbers, zero),
        )

    def step(q: Queue) -> Queue:
        was, of = q.rows.going, jnp.minimum(q.number, R - 1)
        both: Any = network.apply(
            variables, q.rows.token[:, None], was[:, None], q.cache, S, method="hidden"
        )
        x, cache = both
        u = noise[of, jnp.minimum(q.n, L - 1)]
        rows, drawn = draw(q.rows, head(network, variables, x), u, q.n, sampling, ends)
        out = write(q.out, drawn, was, q.number, q.n)
        n = q.n + was
        rows = dataclasses.replace(rows, going=rows.going & (n < L))
        return Queue(q.next, q.steps + 1, q.number, n, rows, cache, out)

    def write(out: Any, drawn: Drawn, was: jax.Array, numbers: jax.Array, n: jax.Array) -> Any:
        at = jnp.where(was, numbers, R), n
        sets = out.kept
        if sets is not None:
            assert drawn.kept is not None
            sets = sets.at[at].set(pack_bits(drawn.kept), mode="drop")
        return dataclasses.replace(
            out,
            tokens=out.tokens.at[at].set(drawn.token, mode="drop"),
            mask=out.mask.at[at].set(True, mode="drop"),
            log_probs=out.log_probs.at[at].set(drawn.log_prob, mode="drop"),
            stopped=out.stopped.at[at[0]].max(drawn.stopped, mode="drop"),
            kept=sets,
        )

    def decode(q: Queue) -> Queue:
        def more(q: Queue) -> jax.Array:
            waiting = (q.next < R) & ((~q.rows.going).sum() >= few)
            return q.rows.going.any() & ~waiting

        return jax.lax.while_loop(more, step, fill(q))

    nothing = jnp.zeros((), jnp.int32)
    rows = Rows(
        token=jnp.zeros(W, jnp.int32),
        going=jnp.zeros(W, bool),
        seen=None if sampling.repetition_penalty is None else jnp.zeros((W, V), bool),
        text=None if ends.strings is None else jnp.zeros(W, jnp.int32),
    )
    cache = dataclasses.replace(
        empty_cache(network.config, W, S, network.dtype), length=jnp.asarray(P, jnp.int32)
    )
    q = Queue(nothing, nothing, jnp.full(W, R), jnp.zeros(W, jnp.int32), rows, cache, out)
    q = jax.lax.while_loop(lambda q: (q.next < R) | q.rows.going.any(), decode, q)
    return dataclasses.replace(q.out, steps=q.steps)
