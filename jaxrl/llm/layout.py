"""Where each parameter lies in the files of each family: names, shapes and how they are turned.

An entry is one tensor of the file, or those that together make one parameter. PyTorch keeps linear
maps as [out, in], GPT-2 and this library as [in, out]; some families store queries, keys and values
as one tensor.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from jaxrl.llm.config import Config
from jaxrl.tensors import Array

Arrays = Sequence[Array]


def flatten(params: Any) -> dict[str, Any]:
    """Nested parameters by their paths, as "blocks_0/attention/query/kernel" """
    flat: Any = flax.traverse_util.flatten_dict(params, sep="/")
    return flat


def nest(flat: Mapping[str, Any]) -> Any:
    return flax.traverse_util.unflatten_dict(dict(flat), sep="/")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Tensors of a file, the parameters that they hold, and the way there and back."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]
    unpack: Callable[[Arrays], Arrays]
    pack: Callable[[Arrays], Arrays]


def same(x: Arrays) -> Arrays:
    return x


def transposed(x: Arrays) -> Arrays:
    return [a.T for a in x]


def plain(name: str, path: str, *shape: int) -> Entry:
    return Entry((name,), (shape,), (path,), same, same)


def linear(name: str, path: str, inner: int, outer: int, biased: bool) -> Iterator[Entry]:
    """[outer, inner] in the file."""
    weight, kernel = f"{name}.weight", f"{path}/kernel"
    yield Entry((weight,), ((outer, inner),), (kernel,), transposed, transposed)
    if biased:
        yield plain(f"{name}.bias", f"{path}/bias", outer)


def norm(name: str, path: str, width: int, biased: bool = False) -> Iterator[Entry]:
    yield plain(f"{name}.weight", f"{path}/scale", width)
    if biased:
        yield plain(f"{name}.bias", f"{path}/bias", width)


def fused(
    name: str, paths: Sequence[str], inner: int, outers: Sequence[int], turned: bool, biased: bool
) -> Iterator[Entry]:
    """Several linear maps of one input, one behind the other; [outers, inner] if `turned`."""
    cuts = np.cumsum(outers)[:-1].tolist()

    def split(x: Arrays) -> Arrays:
        return np.split(x[0].T if turned else x[0], cuts, axis=-1)

    def join(x: Arrays) -> Arrays:
        whole = np.concatenate(x, axis=-1)
        return [whole.T if turned else whole]

    both = (sum(outers), inner) if turned else (inner, sum(outers))
    kernels = tuple(f"{path}/kernel" for path in paths)
    yield Entry((f"{name}.weight",), (both,), kernels, split, join)
    if biased:
        biases = tuple(f"{path}/bias" for path in paths)
        yield Entry((f"{name}.bias",), ((sum(outers),),), biases, split, join)


def interleaved(name: str, paths: Sequence[str], c: Config, biased: bool) -> Iterator[Entry]:
    """GPT-NeoX: of each head the rows of its query, then its key, then its value."""

    def split(x: Arrays) -> Arrays:
        by_head = x[0].reshape(c.heads, 3, c.head_dim, *x[0].shape[1:])
        return [by_head[:, n].reshape(c.width, *x[0].shape[1:]).T for n in range(3)]

    def join(x: Arrays) -> Arrays:
        by_head = [a.T.reshape(c.heads, c.head_dim, *a.T.shape[1:]) for a in x]
        return [np.stack(by_head, axis=1).reshape(3 * c.width, *x[0].T.shape[1:])]

    shape = (3 * c.width, c.width)
    kernels = tuple(f"{path}/kernel" for path in paths)
    yield Entry((f"{name}.weight",), (shape,), kernels, split, join)
    if biased:
        biases = tuple(f"{path}/bias" for path in paths)
        yield Entry((f"{name}.bias",), (shape[:1],), biases, split, join)


def experts(names: Sequence[str], path: str, inner: int, outer: int) -> Entry:
    """One tensor [outer, inner] per expert, which together are one parameter."""

    def stack(x: Arrays) -> Arrays:
        return [np.stack([a.T for a in x])]

    def unstack(x: Arrays) -> Arrays:
        return [a.T for a in x[0]]

    return Entry(tuple(names), ((outer, inner),) * len(names), (path,), stack, unstack)


# --------------------------------------------------------------------------------------- families


def trunk(config: Config) -> list[Entry]:
    """Every parameter of the family but those of a head, once."""
    families = {"gpt2": _gpt2, "gpt_neox": _gpt_neox}
    return list(families.get(config.family, _llama)(config))


def layout(config: Config) -> list[Entry]:
    """Every parameter of a language model, once."""
    entries = trunk(config)
    if not config.tied:
        name = "embed_out" if config.family == "gpt_neox" else "lm_head"
        shape = (config.vocab, config.width)
        entries.append(Entry((f"{name}.weight",), (shape,), ("output",), transposed, transposed))
    return entries


BUFFERS = re.compile(
    r"(.*\.)?(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias)"
)
"""Tensors of older files that are no parameters."""


def _llama(c: Config) -> Iterator[Entry]:
    """Llama and all that copied its names."""
    D, Q, K = c.width, c.heads * c.head_dim, c.kv_heads * c.head_dim
    yield plain("model.embed_tokens.weight", "embedding", c.vocab, D)
    yield from norm("model.norm", "norm", D)
    norms = {
        "pre": {"input": "pre_attention", "post_attention": "pre_forward"},
        "post": {"post_attention": "post_attention", "post_feedforward": "post_forward"},
        "both": {"input": "pre_attention", "post_attention": "post_attention",
                 "pre_feedforward": "pre_forward", "post_feedforward": "post_forward"},
    }[c.norm_places]  # fmt: skip
    for n in range(c.layers):
        there, here = f"model.layers.{n}.", f"blocks_{n}/"
        for theirs, ours in norms.items():
            yield from norm(f"{there}{theirs}_layernorm", here + ours, D)
        attention, ours = f"{there}self_attn.", f"{here}attention/"
        if c.family == "phi3":
            three = [ours + name for name in ("query", "key", "value")]
            yield from fused(f"{attention}qkv_proj", three, D, (Q, K, K), True, c.qkv_bias)
        else:
            yield from linear(f"{attention}q_proj", f"{ours}query", D, Q, c.qkv_bias)
            yield from linear(f"{attention}k_proj", f"{ours}key", D, K, c.qkv_bias)
            yield from linear(f"{attention}v_proj", f"{ours}value", D, K, c.qkv_bias)
        yield from linear(f"{attention}o_proj", f"{ours}out", Q, D, c.out_bias)
        if c.qk_norm:
            whole = c.qk_norm == "all"
            yield from norm(f"{attention}q_norm", f"{ours}query_norm", Q if whole else c.head_dim)
            yield from norm(f"{attention}k_norm", f"{ours}key_norm", K if whole else c.head_dim)
        if c.mixed(n):
            yield from _experts(c, there, f"{here}experts/")
            continue
        ours, F = f"{here}forward/", c.hidden
        if c.family == "phi3":
            two = [ours + "gate", ours + "up"]
            yield from fused(f"{there}mlp.gate_up_proj", two, D, (F, F), True, c.mlp_bias)
        else:
            yield from linear(f"{there}mlp.gate_proj", f"{ours}gate", D, F, c.mlp_bias)
            yield from linear(f"{there}mlp.up_proj", f"{ours}up", D, F, c.mlp_bias)
        yield from linear(f"{there}mlp.down_proj", f"{ours}down", F, D, c.mlp_bias)


def _experts(c: Config, there: str, ours: str) -> Iterator[Entry]:
    mixtral = c.family == "mixtral"
    root = there + ("block_sparse_moe." if mixtral else "mlp.")
    yield from linear(f"{root}gate", f"{ours}router", c.width, c.experts, False)
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    for theirs, name in zip(names, ("gate", "up", "down"), strict=True):
        sizes = (c.expert_hidden, c.width) if name == "down" else (c.width, c.expert_hidden)
        each = [f"{root}experts.{e}.{theirs}.weight" for e in range(c.experts)]
        yield experts(each, ours + name, *sizes)


def _gpt2(c: Config) -> Iterator[Entry]:
    D, F, root = c.width, c.hidden, "transformer."
    yield plain(f"{root}wte.weight", "embedding", c.vocab, D)
    yield plain(f"{root}wpe.weight", "positions", c.max_positions, D)
    yield from norm(f"{root}ln_f", "norm", D, True)
    for n in range(c.layers):
        there, here = f"{root}h.{n}.", f"blocks_{n}/"
        yield from norm(f"{there}ln_1", f"{here}pre_attention", D, True)
        yield from norm(f"{there}ln_2", f"{here}pre_forward", D, True)
        three = [f"{here}attention/{name}" for name in ("query", "key", "value")]
        yield from fused(f"{there}attn.c_attn", three, D, (D, D, D), False, True)
        yield from fused(f"{there}attn.c_proj", [f"{here}attention/out"], D, (D,), False, True)
        yield from fused(f"{there}mlp.c_fc", [f"{here}forward/up"], D, (F,), False, True)
        yield from fused(f"{there}mlp.c_proj", [f"{here}forward/down"], F, (D,), False, True)


def _gpt_neox(c: Config) -> Iterator[Entry]:
    D, F = c.width, c.hidden
    yield plain("gpt_neox.embed_in.weight", "embedding", c.vocab, D)
    yield from norm("gpt_neox.final_layer_norm", "norm", D, True)
    for n in range(c.layers):
        there, here = f"gpt_neox.layers.{n}.", f"blocks_{n}/"
        yield from norm(f"{there}input_layernorm", f"{here}pre_attention", D, True)
        yield from norm(f"{there}post_attention_layernorm", f"{here}pre_forward", D, True)
        three = [f"{here}attention/{name}" for name in ("query", "key", "value")]
        yield from interleaved(f"{there}attention.query_key_value", three, c, c.qkv_bias)
        yield from linear(f"{there}attention.dense", f"{here}attention/out", D, D, c.out_bias)
        yield from linear(f"{there}mlp.dense_h_to_4h", f"{here}forward/up", D, F, True)
        yield from linear(f"{there}mlp.dense_4h_to_h", f"{here}forward/down", F, D, True)
