"""How the next token is drawn, and the log-probabilities that belong to it.

The transformations come in the order of `transformers`: repetition penalty, temperature, top-k,
top-p, min-p. What they leave is a set of tokens; a completion keeps it (one bit per token of the
vocabulary), because scoring later must use the very same set. Without it, importance ratios are
off by the mass that was cut away, or infinite where rounding moved a border.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrl.struct import Float, param, static, struct

BLOCK = 128
"""Tokens whose probabilities are added up before one of them is drawn"""


@struct
class Sampling:
    """Settings that are numbers can change without a new compilation; None leaves a step out."""

    temperature: Float = param("logits are divided by it", default=1.0, above=0.0)
    top_k: int = static("only the k most probable tokens; 0: all", default=0, low=0)
    top_p: Float | None = param("the fewest tokens that have this mass", default=None)
    min_p: Float | None = param("at least this share of the best one's probability", default=None)
    repetition_penalty: Float | None = param("above 1: less of what was there", default=None)
    greedy: bool = static("the most probable token instead of a random one", default=False)

    @property
    def truncates(self) -> bool:
        return bool(self.top_k) or self.top_p is not None or self.min_p is not None

    def check(self) -> None:
        """Refuse values that are out of range; values inside a trace are left alone."""
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is None or isinstance(value, Tracer):
                continue
            low, high = 0.0, 1.0 if name.endswith("_p") else float("inf")
            lowest, highest = float(np.min(value)), float(np.max(value))
            fine = (low <= lowest if name == "min_p" else low < lowest) and highest <= high
            if not fine:
                more = " The most probable token: greedy=True." if name == "temperature" else ""
                raise ValueError(f"{name} is {value}, not above {low:g}, at most {high:g}.{more}")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; 0 keeps every token.")


def tempered(logits: jax.Array, sampling: Sampling, seen: jax.Array | None = None) -> jax.Array:
    """[..., V] with penalty and temperature. seen: [..., V], the tokens that were there already"""
    logits = logits.astype(jnp.float32)
    penalty = sampling.repetition_penalty
    if penalty is not None:
        assert seen is not None
        less = jnp.where(logits > 0, logits / penalty, logits * penalty)
        logits = jnp.where(seen, less, logits)
    return logits / sampling.temperature


def kept(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Which tokens may be drawn, [..., V]; `logits` are tempered."""
    keep = jnp.ones(logits.shape, bool)
    if sampling.top_k:
        best = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0]
        keep = logits >= best[..., -1:]
    if sampling.top_p is not None:
        left = jax.nn.softmax(jnp.where(keep, logits, -jnp.inf))
        order = jnp.argsort(-left, axis=-1)
        falling = jnp.take_along_axis(left, order, axis=-1)
        before = jnp.cumsum(falling, axis=-1) - falling  # mass of those that are more probable
        inside = before < sampling.top_p
        keep &= jnp.take_along_axis(inside, jnp.argsort(order, axis=-1), axis=-1)
    if sampling.min_p is not None:
        left = jnp.where(keep, logits, -jnp.inf)
        floor = left.max(-1, keepdims=True) + jnp.log(jnp.asarray(sampling.min_p, jnp.float32))
        keep &= left >= floor
    return keep


def log_probs(logits: jax.Array, keep: jax.Array | None) -> jax.Array:
    """Of each token, [..., V]; `logits` are tempered. -inf for those that are not kept."""
    return jax.nn.log_softmax(logits if keep is None else jnp.where(keep, logits, -jnp.inf))


def draw(logits: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A token of each row and its log-probability; logits [R, V] are -inf where nothing is kept.

    u: [R, 2] uniform in [0, 1), for a block of tokens and then for one inside it. Two numbers per
    row instead of one per token, as the Gumbel trick takes; and with two, rare tokens of a large
    vocabulary do not come and go with the spacing of float32.
    """
    V = logits.shape[-1]
    blocks = jnp.pad(logits, ((0, 0), (0, -V % BLOCK)), constant_values=-jnp.inf)
    blocks = blocks.reshape(-1, blocks.shape[-1] // BLOCK, BLOCK)
    best = logits.max(-1)
    mass = jnp.exp(blocks - best[:, None, None]).sum(-1)  # [R, V / BLOCK]
    block = _inverse(mass, u[:, 0])
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place = _inverse(jnp.exp(inside - best[:, None]), u[:, 1])
    own = jnp.take_along_axis(inside, place[:, None], axis=1)[:, 0]
    return block * BLOCK + place, own - best - jnp.log(mass.sum(-1))


def _inverse(mass: jax.Array, u: jax.Array) -> jax.Array:
    """The first place where the cumulated mass exceeds the share u of it; its own is not zero."""
    below = jnp.cumsum(mass, axis=-1)
    return jnp.argmax(below > u[:, None] * below[:, -1:], axis=-1).astype(jnp.int32)


def pack_bits(keep: jax.Array) -> jax.Array:
    """[..., V] bool -> [..., V / 32 rounded up] uint32"""
    room = -keep.shape[-1] % 32
    words = jnp.pad(keep, [(0, 0)] * (keep.ndim - 1) + [(0, room)])
    words = words.reshape(*keep.shape[:-1], -1, 32).astype(jnp.uint32)
    return (words << jnp.arange(32, dtype=jnp.uint32)).sum(-1, dtype=jnp.uint32)


def unpack_bits(words: jax.Array, vocab: int) -> jax.Array:
    bits = words[..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :vocab].astype(bool)
