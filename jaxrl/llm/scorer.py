"""A transformer that says one number per token instead of the next one: critics, reward models.

Its parameters are {"trunk": those of the transformer, "score": [D]}. The head begins at zero, so an
untrained critic says 0 everywhere and disturbs nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm import tuning
from jaxrl.llm.lora import variables
from jaxrl.llm.model import Transformer
from jaxrl.llm.scoring import answer_states
from jaxrl.llm.tuning import Lora
from jaxrl.types import Key, PyTree


def fresh(network: Transformer, key: Key, lora: Lora | None = None) -> PyTree:
    trunk = tuning.fresh(network, key, lora)
    return {"trunk": trunk, "score": jnp.zeros(network.config.width)}


def begin(own: PyTree, given: Any) -> PyTree:
    """With the parameters of a scorer, or with those of a language model for the trunk."""
    given = tuning.parameters(given)
    if isinstance(given, dict) and set(given) == {"trunk", "score"}:
        trunk = tuning.begin(own["trunk"], given["trunk"])
        return {"trunk": trunk, "score": jnp.asarray(given["score"], jnp.float32)}
    return {**own, "trunk": tuning.begin(own["trunk"], given)}


def head(params: PyTree, x: jax.Array) -> jax.Array:
    """[..., D] -> [...], in float32."""
    return x.astype(jnp.float32) @ params["score"]


def of_rows(
    network: Transformer, params: PyTree, tokens: jax.Array, segments: jax.Array
) -> jax.Array:
    """Scores [R, L] that have seen the token they stand at."""
    x, _ = network.apply(  # pyright: ignore
        variables(params["trunk"]), tokens, segments, None, tokens.shape[1], method="hidden"
    )
    return head(params, x)


def of_answers(
    network: Transformer,
    params: PyTree,
    prompt: jax.Array,
    mask: jax.Array,
    tokens: jax.Array,
    real: jax.Array,
) -> jax.Array:
    """Values [R, L] before each token of the answers: they have not seen it."""
    trunk = variables(params["trunk"])
    return head(params, answer_states(network, trunk, prompt, mask, tokens, real))


def of_last(network: Transformer, params: PyTree, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """The score [R] at the last real token of each row, which the mask tells: end tokens are often
    padding tokens as well. 0 for an empty row."""
    scores = of_rows(network, params, tokens, mask)
    last = tokens.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    found = jnp.take_along_axis(scores, last[:, None], axis=1)[:, 0]
    return jnp.where(mask.any(axis=1), found, 0.0)
