"""One token for each of several rows: what `generate` and its queue do between two passes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm.model import Cache, Transformer
from jaxrl.llm.sampling import Sampling, kept, tempered
from jaxrl.llm.sampling import draw as sample
from jaxrl.llm.stops import StopStrings
from jaxrl.struct import static, struct


@struct
class Ends:
    """When a row stops."""

    strings: StopStrings | None
    tokens: tuple[int, ...] = static("that end a row")
    min_new: int = static("tokens of a row before which none of these is drawn", default=0)


@struct
class Rows:
    """What is known of the rows from token to token, [R]."""

    token: jax.Array
    """The last one"""
    going: jax.Array
    seen: jax.Array | None
    """[R, V], for the repetition penalty"""
    text: jax.Array | None
    """State of the automaton that looks for strings"""


@struct
class Drawn:
    """What is kept of a token, [R]."""

    token: jax.Array
    log_prob: jax.Array
    kept: jax.Array | None
    """[R, V]: the tokens that could be drawn; None if all could"""
    stopped: jax.Array
    """The row ends with it."""


def read(
    network: Transformer,
    variables: dict[str, Any],
    tokens: jax.Array,
    mask: jax.Array,
    room: int,
    sampling: Sampling,
    ends: Ends,
) -> tuple[jax.Array, Cache, Rows]:
    """Prompts [B, P] -> logits [B, V] of what comes next, cache with P slots, rows."""
    (B, P), V = tokens.shape, network.config.vocab
    # Prompts see prompts only, not the slots that are still empty.
    both: Any = network.apply(variables, tokens, mask, None, room, method="hidden")
    x, cache = both
    last = P - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    x = jnp.take_along_axis(x, last[:, None, None], axis=1)
    seen = None
    if sampling.repetition_penalty is not None:
        seen = jnp.zeros((B, V), bool).at[jnp.arange(B)[:, None], tokens].max(mask)
    zeros = jnp.zeros(B, jnp.int32)
    text = None if ends.strings is None else zeros
    return head(network, variables, x), cache, Rows(zeros, mask.any(axis=1), seen, text)


def head(network: Transformer, variables: dict[str, Any], x: jax.Array) -> jax.Array:
    """[R, 1, D] -> logits [R, V]"""
    logits: Any = network.apply(variables, x, method="head")
    return logits[:, 0]


def draw(
    rows: Rows, logits: jax.Array, u: jax.Array, n: jax.Array, sampling: Sampling, ends: Ends
) -> tuple[Rows, Drawn]:
    """Token n ([] or [R]) of every row that goes on; u: [R, 2] random numbers."""
    R, V = logits.shape
    warm = tempered(logits, sampling, rows.seen)
    stops = jnp.asarray(np.isin(np.arange(V), ends.tokens))
    keep = None
    if ends.min_new and ends.tokens:
        late = jnp.broadcast_to(n >= ends.min_new, (R,))
        keep = late[:, None] | ~stops
        warm = jnp.where(keep, warm, -jnp.inf)
    if sampling.truncates:
        chosen = kept(warm, sampling)
        keep = chosen if keep is None else keep & chosen
    if keep is not None:
        warm = jnp.where(keep, warm, -jnp.inf)
    if sampling.greedy:
        token = warm.argmax(-1).astype(jnp.int32)
        own = warm.max(-1) - jax.nn.logsumexp(warm, axis=-1)
    else:
        token, own = sample(warm, u)
    stopped, text, seen = stops[token], rows.text, rows.seen
    if ends.strings is not None:
        assert text is not None
        text = ends.strings.step(text, token)
        stopped |= ends.strings.found(text)
    if seen is not None:
        seen = seen.at[jnp.arange(R), token].max(rows.going)
    stopped &= rows.going
    token = jnp.where(rows.going, token, 0)
    drawn = Drawn(token, jnp.where(rows.going, own, 0.0), keep, stopped)
    return Rows(token, rows.going & ~stopped, seen, text), drawn


def random_numbers(key: jax.Array, rows: int, max_new: int) -> jax.Array:
    """[rows, max_new, 2], all at once: one by one they would take as long as a small model. Those
    of a token depend on the row's and its own number only."""

    def of_row(row: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, row)
        each = jax.vmap(lambda n: jax.random.fold_in(own, n))(jnp.arange(max_new))
        return jax.vmap(lambda k: jax.random.uniform(k, (2,)))(each)

    return jax.vmap(of_row)(jnp.arange(rows))
