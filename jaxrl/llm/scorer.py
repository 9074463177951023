"""A transformer that says one number per token instead of the next one: critics, reward models.

Its parameters are {"trunk": those of the transformer, "score": [D]}. The head begins at zero, so an
untrained critic says 0 everywhere and disturbs nothing.

    judge = jaxrl.llm.load_scorer("folder")          # ...ForSequenceClassification, one label
    scores = judge(tokens, mask)
    jaxrl.llm.save_scorer(judge, "other")            # transformers reads it
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm import tuning
from jaxrl.llm.checkpoint import SCORE, Place, read_config, read_params, write
from jaxrl.llm.hf_write import ARCHITECTURES
from jaxrl.llm.layout import Entry, flatten, trunk
from jaxrl.llm.lora import Adapted, merge, variables
from jaxrl.llm.model import Transformer
from jaxrl.llm.scoring import answer_states
from jaxrl.llm.shards import open_folder
from jaxrl.llm.tuning import Lora
from jaxrl.struct import static, struct
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


# ------------------------------------------------------------------------------------------ files


@struct
class Scorer:
    """Parameters of a reward model together with the network that they belong to."""

    params: PyTree
    network: Transformer = static()

    def __call__(self, tokens: Any, mask: Any) -> jax.Array:
        """[R], one for each row [R, L]."""
        return _scored(self.network, self.params, jnp.asarray(tokens), jnp.asarray(mask))


_scored = partial(jax.jit, static_argnums=0)(of_last)


def _layout(network: Transformer) -> list[Entry]:
    shape = (1, network.config.width)
    head = Entry(
        (SCORE,), (shape,), ("score",), lambda x: [x[0][0]], lambda x: [np.asarray(x[0])[None]]
    )
    return [*trunk(network.config), head]


def load_scorer(
    path: str | Path, *, dtype: Any = None, compute: Any = jnp.float32, place: Place | None = None
) -> Scorer:
    """The reward model in a folder; the arguments are those of `jaxrl.llm.load`. Its network has no
    head of its own, as if it were tied to the embedding."""
    path = Path(path)
    config = dataclasses.replace(read_config(path), tied=True)
    network = Transformer(config, dtype=compute)
    source = open_folder(path)
    flat = dict(read_params(config, _layout(network), source, dtype, place))
    score = flat.pop("score")
    return Scorer({"trunk": flat, "score": score}, network)


def save_scorer(
    scorer: Scorer, folder: str | Path, *, shard_bytes: int = 5 * 10**9, replace: bool = False
) -> Path:
    """Write config.json and the parameters as transformers would; adapters are merged first."""
    base, config = scorer.params["trunk"], scorer.network.config
    flat = flatten(merge(base) if isinstance(base, Adapted) else base)
    flat.pop("output", None)  # the head of the language model that it was
    name = ARCHITECTURES[config.family].replace("LMHeadModel", "ForCausalLM")
    name = name.replace("Gemma3", "Gemma3Text").replace("ForCausalLM", "ForSequenceClassification")
    return write(
        folder, config, _layout(scorer.network), flat | {"score": scorer.params["score"]},
        shard_bytes, replace, architectures=[name], id2label={"0": "score"}, label2id={"score": 0},
    )  # fmt: skip
