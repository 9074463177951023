"""One decoder transformer for every family of `jaxrl.llm.config`.

    model = Transformer(config)
    params = model.init(key, tokens)["params"]
    logits, _ = model.apply({"params": params}, tokens, mask)             # [B, L, V] float32
    logits, cache = model.apply({"params": params}, tokens, mask, cache)  # and so on, with cache

`mask` says which tokens are real; where padding stands does not matter, because positions count
real tokens only. It may also hold rising segment numbers (1, 2, ..; 0 is padding): texts that share
a row then neither see nor shift one another. Queries, keys and values are computed in `dtype`;
scores, softmax, norms and logits in float32.

Shapes: B batch, L tokens, S slots of the cache, D width, N heads, K heads of keys, H numbers of a
head, E experts, F hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm.config import Config, Rope
from jaxrl.llm.quantise import Int8
from jaxrl.struct import struct

Turn = tuple[jax.Array, jax.Array]
"""Cosines and sines, [B, L, dims / 2] each."""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "relu": nn.relu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": nn.gelu,
}

FAR = -1e30
"""The score of what may not be seen. Finite: a row that sees nothing must not become NaN."""

TABLE = 8192
"""Positions up to which their angles are part of the program"""


@struct
class Cache:
    """Keys and values of the tokens so far, in slots: one array of each per layer."""

    keys: tuple[jax.Array, ...]
    """[B, K, S, H]: what one head of a row reads lies together"""
    values: tuple[jax.Array, ...]
    segments: jax.Array
    """[B, S]: 0 where a slot is empty or holds padding"""
    positions: jax.Array
    """[B, S]"""
    length: jax.Array
    """Slots in use, the same in every row"""

    @property
    def slots(self) -> int:
        return self.segments.shape[1]


def empty_cache(config: Config, batch: int, slots: int, dtype: Any = jnp.float32) -> Cache:
    def zeros() -> tuple[jax.Array, ...]:
        shape = (batch, config.kv_heads, slots, config.head_dim)
        return tuple(jnp.zeros(shape, dtype) for _ in range(config.layers))

    places = jnp.zeros((batch, slots), jnp.int32)
    return Cache(zeros(), zeros(), places, places, jnp.zeros((), jnp.int32))


def grow(cache: Cache, slots: int) -> Cache:
    """The same with empty slots at the end."""
    more = slots - cache.slots

    def padded(x: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(x, [(0, more if n == axis else 0) for n in range(x.ndim)])

    keys, values = (tuple(padded(x, 2) for x in each) for each in (cache.keys, cache.values))
    return Cache(keys, values, padded(cache.segments, 1), padded(cache.positions, 1), cache.length)


def count_positions(segments: jax.Array) -> jax.Array:
    """The place of each token among the real ones of its segment, [B, L]; 0 for padding. Padding
    inside a segment does not end it: after a prompt padded on the right its answer goes on."""
    real = segments > 0
    count = jnp.cumsum(real, axis=1) - 1
    before = jax.lax.cummax(jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1], axis=1)
    first = jax.lax.cummax(jnp.where(real & (segments > before), count, 0), axis=1)
    return jnp.where(real, count - first, 0).astype(jnp.int32)


# ------------------------------------------------------------------------------------- positions


def turns(rope: Rope, positions: jax.Array, context: int | None = None) -> Turn:
    """The angles' cosines and sines. Where they depend on the length of the context (dynamic,
    longrope), that is `context`, or the length of the row, but never that of its neighbours."""
    length = jnp.asarray(context or 1 + positions.max(axis=1)[:, None, None])  # [] or [B, 1, 1]
    each = frequencies(rope, length)
    if context is not None and context <= TABLE and isinstance(each, np.ndarray):
        # Of one token at a time XLA would find them again for every head of every layer.
        table = np.arange(context, dtype=np.float32)[:, None] * each
        cos, sin = (f(table) * np.float32(rope.attention_factor) for f in (np.cos, np.sin))
        return jnp.asarray(cos)[positions], jnp.asarray(sin)[positions]
    angles = positions[..., None].astype(jnp.float32) * each
    return jnp.cos(angles) * rope.attention_factor, jnp.sin(angles) * rope.attention_factor


def frequencies(rope: Rope, length: jax.Array) -> jax.Array | np.ndarray[Any, Any]:
    """Radians per position of each pair: [dims / 2], or [B, 1, dims / 2] if the length matters."""
    exponents = np.arange(0, rope.dims, 2, dtype=np.float32) / np.float32(rope.dims)
    plain = (1.0 / np.float32(rope.base) ** exponents).astype(np.float32)
    if rope.kind == "linear":
        return plain / np.float32(rope.factor)
    if rope.kind == "dynamic":  # the base grows with the context
        longer = jnp.maximum(length, rope.trained).astype(jnp.float32)
        grown = rope.factor * longer / rope.trained - (rope.factor - 1)
        base = rope.base * grown ** (rope.dims / (rope.dims - 2))
        return 1.0 / base**exponents
    if rope.kind == "llama3":  # long waves are stretched, short ones stay, smoothly in between
        turns_in_training = rope.trained * plain / (2 * np.pi)
        share = np.clip((turns_in_training - rope.low) / (rope.high - rope.low), 0.0, 1.0)
        return ((1 - share) * plain / rope.factor + share * plain).astype(np.float32)
    if rope.kind == "yarn":  # the same idea, with a ramp over the pairs instead
        low, high = (
            rope.dims * math.log(rope.trained / (n * 2 * math.pi)) / (2 * math.log(rope.base))
            for n in (rope.high, rope.low)
        )
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rope.dims - 1)
        high += 0.001 if low == high else 0.0
        ramp = np.clip((np.arange(rope.dims // 2) - low) / (high - low), 0, 1)
        return (plain / rope.factor * ramp + plain * (1 - ramp)).astype(np.float32)
    if rope.kind == "longrope":  # measured factors, one set for short and one for long contexts
        short, far = (np.asarray(f, np.float32) for f in (rope.short, rope.long))
        return plain / jnp.where(length > rope.trained, far, short)
    return plain


def turn(x: jax.Array, by: Turn) -> jax.Array:
    """[B, L, N, H], its first `dims` numbers turned in pairs (i, i + dims / 2)."""
    cos, sin = (a[:, :, None, :].astype(x.dtype) for a in by)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


# ----------------------------------------------------------------------------------------- parts


def stored(module: nn.Module, name: str, init: Any, shape: tuple[int, ...]) -> Any:
    """A parameter, or what `quantise` has put in its place."""
    if module.has_variable("params", name):
        found: Any = module.get_variable("params", name)
        if isinstance(found, Int8):
            return found
    return module.param(name, init, shape)


class Linear(nn.Module):
    features: int
    biased: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02 * self.scale)
        kernel = stored(self, "kernel", init, (x.shape[-1], self.features))
        rows = x.reshape(-1, x.shape[-1])  # XLA is slow at the gradients of more axes
        if isinstance(kernel, Int8):
            values = kernel.values.astype(x.dtype)
            y = jnp.dot(rows, values, preferred_element_type=jnp.float32) * kernel.scale
            y = y.astype(x.dtype)
        else:
            y = rows @ kernel.astype(x.dtype)
        if self.biased:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        if self.has_variable("lora", "a"):  # see jaxrl.llm.lora
            a, b = (self.get_variable("lora", name).astype(x.dtype) for name in ("a", "b"))
            y += rows @ a @ b
        return y.reshape(*x.shape[:-1], self.features)


class Norm(nn.Module):
    kind: str
    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        if self.kind == "layer":
            wide -= wide.mean(-1, keepdims=True)
        wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        init = nn.initializers.zeros if self.kind == "rms1" else nn.initializers.ones
        weight = self.param("scale", init, x.shape[-1:]).astype(jnp.float32)
        wide *= 1.0 + weight if self.kind == "rms1" else weight
        if self.kind == "layer":
            wide += self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return wide.astype(x.dtype)


class Attention(nn.Module):
    config: Config

    @nn.compact
    def __call__(
        self, x: jax.Array, by: Turn | None, allowed: jax.Array, past: Any, start: Any
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """allowed [B, L, S]; past: this layer's keys and values; start: the first slot to fill."""
        c, (B, L, _) = self.config, x.shape

        def project(name: str, heads: int) -> jax.Array:
            y = Linear(heads * c.head_dim, c.qkv_bias, name=name)(x)
            if c.qk_norm == "all" and name != "value":
                y = Norm(c.norm, c.norm_eps, name=f"{name}_norm")(y)
            y = y.reshape(B, L, heads, c.head_dim)
            if c.qk_norm == "head" and name != "value":
                y = Norm(c.norm, c.norm_eps, name=f"{name}_norm")(y)
            return turn(y, by) if by is not None and name != "value" else y

        q, k, v = (
            project("query", c.heads),
            project("key", c.kv_heads).swapaxes(1, 2),  # [B, K, L, H]
            project("value", c.kv_heads).swapaxes(1, 2),
        )
        if past is not None:
            k, v = (
                jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, 0, start, 0))
                for old, new in zip(past, (k, v), strict=True)
            )
        q = q.reshape(B, L, c.kv_heads, c.heads // c.kv_heads, c.head_dim)
        q = q.transpose(0, 2, 3, 1, 4)  # [B, K, N / K, L, H]
        scores = jnp.einsum("bkglh,bksh->bkgls", q, k, preferred_element_type=jnp.float32)
        scores *= c.attention_scale
        if c.attention_cap:
            scores = c.attention_cap * jnp.tanh(scores / c.attention_cap)
        weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, FAR), axis=-1)
        mixed = jnp.einsum("bkgls,bksh->bkglh", weights.astype(v.dtype), v).astype(x.dtype)
        shrink = 1 / math.sqrt(2 * c.layers)
        out = Linear(c.width, c.out_bias, shrink, name="out")
        mixed = mixed.transpose(0, 3, 1, 2, 4)
        return out(mixed.reshape(B, L, c.heads * c.head_dim)), (k, v)


class FeedForward(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        act = ACTIVATIONS[c.activation]
        up = Linear(c.hidden, c.mlp_bias, name="up")(x)
        if c.gated:
            up *= act(Linear(c.hidden, c.mlp_bias, name="gate")(x))
        else:
            up = act(up)
        return Linear(c.width, c.mlp_bias, 1 / math.sqrt(2 * c.layers), name="down")(up)


class Experts(nn.Module):
    """Each token passes the few experts that the router likes best; no token is ever dropped."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        E, F, n, D = c.experts, c.expert_hidden, c.experts_per_token, c.width
        init, act = nn.initializers.normal(0.02), ACTIVATIONS[c.activation]
        tokens = x.reshape(-1, D)
        gates = Linear(E, name="router")(tokens).astype(jnp.float32)
        weights, chosen = jax.lax.top_k(jax.nn.softmax(gates), n)  # [B L, n]
        if c.experts_normalised:
            weights /= weights.sum(-1, keepdims=True)
        order = jnp.argsort(chosen.reshape(-1))  # by expert: each multiplies one run of rows
        sizes = jnp.bincount(chosen.reshape(-1), length=E)
        rows = tokens[order // n]

        def each(name: str, rows: jax.Array, width: int) -> jax.Array:
            w = stored(self, name, init, (E, rows.shape[-1], width)).astype(x.dtype)
            return jax.lax.ragged_dot(rows, w, sizes)

        rows = each("down", act(each("gate", rows, F)) * each("up", rows, F), D)
        rows *= weights.reshape(-1)[order][:, None].astype(x.dtype)
        return jnp.zeros_like(tokens).at[order // n].add(rows).reshape(x.shape)


class Block(nn.Module):
    config: Config
    mixed: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, by: Turn | None, allowed: jax.Array, past: Any, start: Any
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        c = self.config

        def norm(name: str, y: jax.Array, place: str) -> jax.Array:
            if c.norm_places not in (place, "both"):
                return y
            return Norm(c.norm, c.norm_eps, name=f"{place}_{name}")(y)

        attention = Attention(c, name="attention")
        y, present = attention(norm("attention", x, "pre"), by, allowed, past, start)
        y = norm("attention", y, "post")
        forward = Experts(c, name="experts") if self.mixed else FeedForward(c, name="forward")
        z = norm("forward", forward(norm("forward", x if c.parallel else x + y, "pre")), "post")
        return x + y + z, present


# ----------------------------------------------------------------------------------------- whole


class Transformer(nn.Module):
    config: Config
    dtype: Any = jnp.float32
    """Of the computation; the parameters keep their own."""
    remat: bool = False
    """Compute each layer again for its gradient instead of keeping what is inside it."""

    def setup(self) -> None:
        c, init = self.config, nn.initializers.normal(0.02)
        self.embedding = self.param("embedding", init, (c.vocab, c.width))
        if c.rope is None:
            self.positions = self.param("positions", init, (c.max_positions, c.width))
        block: Any = nn.remat(Block) if self.remat else Block
        self.blocks = [block(c, c.mixed(n)) for n in range(c.layers)]
        self.norm = Norm(c.norm, c.norm_eps)
        if not c.tied:
            self.output = self.param("output", init, (c.width, c.vocab))

    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        """-> logits [B, L, V], the cache with these tokens in it"""
        x, present = self.hidden(tokens, mask, cache)
        return self.head(x), None if cache is None else present

    def hidden(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        cache: Cache | None = None,
        context: int | None = None,
    ) -> tuple[jax.Array, Cache]:
        """What the head reads, [B, L, D], and the cache with these tokens in it; without one they
        are all that is in it. A full cache forgets its first tokens.

        `context` is the length that dynamic and longrope go by; keys in a cache keep the angles
        that they had, so it must be told before they grow."""
        c, L = self.config, tokens.shape[1]
        segments = jnp.ones_like(tokens) if mask is None else mask.astype(jnp.int32)
        positions = count_positions(segments)
        start = jnp.zeros((), jnp.int32)
        all_segments, all_positions = segments, positions  # of what can be seen
        if cache is not None:
            start = cache.length % cache.slots
            positions += (cache.segments > 0).sum(axis=1, keepdims=True)
            put = jax.lax.dynamic_update_slice
            all_segments = put(cache.segments, segments, (0, start))
            all_positions = put(cache.positions, positions, (0, start))
        room = context or (L if cache is None else cache.slots)
        if c.rope is None and c.max_positions < room:
            raise ValueError(f"{room} tokens, but this model has only {c.max_positions} positions.")
        seen = self.seen(segments, positions, all_segments, all_positions, start)
        by = {w: self.turns(w, positions, context) for w in set(c.windows)}
        x = self.embedding[tokens].astype(self.dtype)
        x *= jnp.asarray(c.embed_scale, self.dtype)
        if c.rope is None:
            x += self.positions[positions].astype(self.dtype)
        made: list[tuple[jax.Array, jax.Array]] = []
        for n, (block, window) in enumerate(zip(self.blocks, c.windows, strict=True)):
            past = None if cache is None else (cache.keys[n], cache.values[n])
            x, present = block(x, by[window], seen[window], past, start)
            made.append(present)
        keys, values = zip(*made, strict=True)
        length = jnp.asarray(L if cache is None else cache.length + L, jnp.int32)
        return self.norm(x), Cache(keys, values, all_segments, all_positions, length)

    def head(self, x: jax.Array) -> jax.Array:
        """Logits in float32."""
        kernel = self.embedding.T if self.config.tied else self.output
        rows = x.reshape(-1, x.shape[-1])
        logits = jnp.dot(rows, kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        logits = logits.reshape(*x.shape[:-1], -1)
        cap = self.config.final_cap
        return cap * jnp.tanh(logits / cap) if cap else logits

    def seen(
        self,
        segments: jax.Array,
        positions: jax.Array,
        all_segments: jax.Array,
        all_positions: jax.Array,
        start: jax.Array,
    ) -> dict[int, jax.Array]:
        """[B, L, S] for each window: itself and earlier tokens of its segment, not too far back."""
        L, S = segments.shape[1], all_segments.shape[1]
        after = (jnp.arange(S) - start) % S  # the new tokens are in the first L of these slots
        earlier = (after <= jnp.arange(L)[:, None]) | (after >= L)
        same = segments[:, :, None] == all_segments[:, None, :]
        seen = earlier & same & (all_segments > 0)[:, None, :]
        back = positions[:, :, None] - all_positions[:, None, :]
        return {w: seen & (back < w) if w else seen for w in set(self.config.windows)}

    def turns(self, window: int, positions: jax.Array, context: int | None) -> Turn | None:
        c = self.config
        rope = c.local_rope if window and c.local_rope is not None else c.rope
        return None if rope is None else turns(rope, positions, context)
