"""Log-probabilities and entropy of tokens from hidden states, a few positions at a time.

The logits of a batch are its largest array by far: 8 rows of 4096 tokens and a vocabulary of
150,000 are 20 GB in float32, and their gradient as much again. Only one number per token is wanted.
So the positions are taken in chunks: logits [R, chunk, V] are made, reduced and forgotten, and in
the backward pass made again (rematerialisation): one more product with the output matrix, in
exchange for memory that no longer grows with the length.

Chunks run along positions, not rows, so that rows stay sharded over devices as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.struct import Float, struct


@struct
class Scores:
    """What a model says about given tokens, each [..., L] float32."""

    log_prob: jax.Array
    entropy: jax.Array
    log_collision: jax.Array
    """log sum_v p_v^2: how likely two draws agree; WPO divides by it."""


def in_chunks(function: Callable[..., Any], chunk: int, *arrays: jax.Array) -> Any:
    """function(*arrays) over slices of `chunk` positions, rematerialised in the backward pass.

    `arrays` are [..., L, D] or [..., L] with as many leading axes as the last one, whose last axis
    is L; the function must treat positions apart and return a tree of [..., chunk].
    """
    axis = arrays[-1].ndim - 1
    length = arrays[-1].shape[axis]
    if chunk < 1:
        raise ValueError(f"chunk={chunk}; need at least 1 position, such as 128.")
    if length <= chunk:
        return jax.checkpoint(function)(*arrays)
    function = jax.checkpoint(function, prevent_cse=False)  # not needed inside a loop
    steps = -(-length // chunk)

    def cut(x: jax.Array) -> jax.Array:  # [..., L, D] -> [steps, ..., chunk, D]
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, steps * chunk - length)
        x = jnp.pad(x, pad)
        x = x.reshape(*x.shape[:axis], steps, chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def join(y: jax.Array) -> jax.Array:  # [steps, ..., chunk] -> [..., L]
        y = jnp.moveaxis(y, 0, axis)
        return y.reshape(*y.shape[:axis], steps * chunk)[..., :length]

    out = jax.lax.map(lambda xs: function(*xs), tuple(cut(x) for x in arrays))
    return jax.tree.map(join, out)


def logits(
    hidden: jax.Array,
    unembed: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: Float = 1.0,
    softcap: Float | None = None,
    temperature: Float = 1.0,
    dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """hidden [..., D] x unembed [D, V] -> [..., V] float32: scaled, soft-capped, then divided by
    the temperature of sampling. The policy that acted was the tempered one: its old, current and
    reference log-probabilities must all be of it.

    The product is computed in `dtype` (bfloat16, say) and summed in float32; the gradient of
    `unembed` over all chunks adds up in the type that `unembed` has.
    """
    if dtype is not None:
        hidden, unembed = hidden.astype(dtype), unembed.astype(dtype)
    out = jnp.matmul(hidden, unembed, preferred_element_type=jnp.float32)
    if bias is not None:
        out = out + bias.astype(jnp.float32)
    out = out * scale
    if softcap is not None:
        out = softcap * jnp.tanh(out / softcap)
    return out / temperature


def score(logit: jax.Array, token: jax.Array) -> Scores:
    """logit [..., V], token [...]. Logits of -inf (tokens that could not be drawn) are allowed."""
    normaliser = jax.nn.logsumexp(logit, axis=-1)
    picked = jnp.take_along_axis(logit, token[..., None], axis=-1)[..., 0]
    possible = logit > -jnp.inf
    finite = jnp.where(possible, logit, 0.0)
    prob = jnp.where(possible, jnp.exp(finite - normaliser[..., None]), 0.0)
    return Scores(
        log_prob=picked - normaliser,
        entropy=normaliser - jnp.sum(prob * finite, axis=-1),
        log_collision=jax.nn.logsumexp(2.0 * logit, axis=-1) - 2.0 * normaliser,
    )


def token_scores(
    hidden: jax.Array,
    unembed: jax.Array,
    token: jax.Array,
    *,
    chunk: int = 128,
    bias: jax.Array | None = None,
    scale: Float = 1.0,
    softcap: Float | None = None,
    temperature: Float = 1.0,
    dtype: jax.typing.DTypeLike | None = None,
    transform: Callable[[jax.Array], jax.Array] | None = None,
) -> Scores:
    """hidden [..., L, D], unembed [D, V], token [..., L] -> scores [..., L].

    `hidden[..., j, :]` must be the state that predicts `token[..., j]`, which a decoder computes at
    the position before. `transform` replays what sampling did to the tempered logits (top-k,
    top-p): without it every importance ratio is wrong by the mass that was cut off.
    """
    if hidden.shape[:-1] != token.shape or hidden.shape[-1] != unembed.shape[0]:
        raise ValueError(
            f"hidden {hidden.shape}, unembed {unembed.shape} and token {token.shape} do not fit; "
            f"need [..., L, D], [D, V] and [..., L]. For tied embeddings [V, D] pass the transpose."
        )

    def one(hidden: jax.Array, token: jax.Array) -> Scores:
        logit = logits(
            hidden,
            unembed,
            bias=bias,
            scale=scale,
            softcap=softcap,
            temperature=temperature,
            dtype=dtype,
        )
        return score(logit if transform is None else transform(logit), token)

    return in_chunks(one, chunk, hidden, token)
