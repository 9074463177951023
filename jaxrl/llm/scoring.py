"""What a model says about given tokens: log-probabilities and entropy, drawn or read.

`of_completions` replays how completions were drawn (temperature, penalty, the very sets that
truncation left), so that the policy that learns is the one that acted. `of_rows` takes whole rows,
packed or not, as they are. The vocabulary is only ever there for `chunk` tokens of each row.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm.lora import variables
from jaxrl.llm.losses import logprobs
from jaxrl.llm.model import Transformer
from jaxrl.llm.sampling import Sampling, log_probs, tempered, unpack_bits

CHUNK = 64


def answer_states(
    network: Any, variables: Any, prompt: jax.Array, mask: jax.Array, tokens: jax.Array,
    real: jax.Array,
) -> jax.Array:  # fmt: skip
    """The states that predict each token of the answers, [R, L, D]: of prompts [R, P], padded on
    any side, and answers [R, L], padded on the right."""
    P, L = prompt.shape[1], tokens.shape[1]
    whole = jnp.concatenate([prompt, tokens], axis=1)
    both = jnp.concatenate([mask, real], axis=1)
    x, _ = network.apply(variables, whole, both, None, P + L, method="hidden")
    # The token before the first of the answer is the last real one of the prompt.
    last = P - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    first = jnp.take_along_axis(x, last[:, None, None], axis=1)
    return jnp.concatenate([first, x[:, P : P + L - 1]], axis=1)


def of_completions(
    network: Transformer,
    params: Any,
    prompt: jax.Array,
    mask: jax.Array,
    tokens: jax.Array,
    real: jax.Array,
    kept: jax.Array | None,
    sampling: Sampling,
    *,
    chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array]:
    """-> log-probability and entropy of the distributions that the tokens were drawn from, [R, L];
    0 where nothing was drawn. Differentiable."""
    (R, L), V = tokens.shape, network.config.vocab
    x = answer_states(network, variables(params), prompt, mask, tokens, real)
    seen = jnp.zeros((R, V), bool)
    if sampling.repetition_penalty is not None:
        seen = seen.at[jnp.arange(R)[:, None], prompt].max(mask)
    parts = -(-L // chunk)
    chunk = -(-L // parts)

    def split(a: jax.Array) -> jax.Array:  # [R, L, ..] -> [parts, R, chunk, ..]
        a = jnp.pad(a, [(0, 0), (0, parts * chunk - L)] + [(0, 0)] * (a.ndim - 2))
        return a.reshape(R, parts, chunk, *a.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def of_chunk(seen: jax.Array, part: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x, token, real, words = part
        logits: Any = network.apply(variables(params), x, method="head")
        before = None
        if sampling.repetition_penalty is not None:
            new = jax.nn.one_hot(token, V, dtype=bool) & real[..., None]
            so_far = jax.lax.associative_scan(jnp.logical_or, new, axis=1) | seen[:, None]
            before = jnp.concatenate([seen[:, None], so_far[:, :-1]], axis=1)
            seen = so_far[:, -1]
        keep = None if words is None else unpack_bits(words, V).at[..., 0].max(~real)
        each = log_probs(tempered(logits, sampling, before), keep)
        own = jnp.take_along_axis(each, token[..., None], axis=-1)[..., 0]
        possible = each > -jnp.inf
        finite = jnp.where(possible, each, 0.0)
        entropy = -jnp.sum(jnp.where(possible, jnp.exp(finite) * finite, 0.0), axis=-1)
        return seen, (jnp.where(real, own, 0.0), jnp.where(real, entropy, 0.0))

    _, found = jax.lax.scan(of_chunk, seen, jax.tree.map(split, (x, tokens, real, kept)))
    own, entropy = (a.swapaxes(0, 1).reshape(R, -1)[:, :L] for a in found)
    return own, entropy


def of_rows(
    network: Transformer,
    params: Any,
    tokens: jax.Array,
    segments: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    chunk: int = CHUNK,
) -> logprobs.Scores:
    """Of every token of rows [R, L] given those before it in its segment (0: padding). The first of
    a segment has nothing before it: its numbers mean nothing, and must not count."""
    x, _ = network.apply(  # pyright: ignore
        variables(params), tokens, segments, None, tokens.shape[1], method="hidden"
    )
    x = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)

    def one(x: jax.Array, token: jax.Array) -> logprobs.Scores:
        logits: Any = network.apply(variables(params), x, method="head")
        return logprobs.score(logits / temperature, token)

    return logprobs.in_chunks(one, chunk, x, tokens)
