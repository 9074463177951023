"""GGUF files: one file with the sizes, the vocabulary and the tensors of a model, quantised or not.

Read here: architecture llama, tensors in F32, F16, BF16, Q8_0, Q4_0 and Q4_1. The files interleave
the rows of queries and keys, for rotations of neighbouring pairs; reading puts them back.
"""

from __future__ import annotations

import math
import struct as layouts
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrl.llm.config import MANY, Config, Rope
from jaxrl.llm.shards import Shape
from jaxrl.tensors import Array, refuse

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip
TEXT, LIST = 8, 9

KINDS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
         8: ("Q8_0", 32, 34), 30: ("BF16", 1, 2)}  # fmt: skip
"""Name, numbers in a block, bytes of a block"""


class Gguf:
    """Metadata and tensors of a file."""

    def __init__(self, path: Path) -> None:
        self.where: object = path
        self.metadata: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self._bytes: Array = (
            np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, "u1")
        )
        self._at = 0
        self._places: dict[str, tuple[int, int, int]] = {}
        if self._take(4) != b"GGUF":
            refuse(path, "it is no GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            refuse(path, f"it is GGUF version {version}; 2 and 3 can be read")
        tensors, entries = self._number("Q"), self._number("Q")
        for _ in range(entries):
            name = self._text()
            self.metadata[name] = self._value(self._number("I"))
        places = [self._about() for _ in range(tensors)]
        step = self.metadata.get("general.alignment", 32)
        if type(step) is not int or step < 1:
            refuse(path, f"its alignment is {step!r}")
        start = self._at + -self._at % step
        for name, shape, kind, offset in places:
            if kind not in KINDS:
                known = ", ".join(k[0] for k in KINDS.values())
                refuse(path, f"tensor {name!r} has the GGML type {kind}; known are {known}")
            title, block, size = KINDS[kind]
            count = math.prod(shape)
            if not shape or shape[-1] % block:
                refuse(path, f"tensor {name!r} of {title} has shape {shape}")
            begin, end = start + offset, start + offset + count // block * size
            if end > self._bytes.size:
                why = f"ends at byte {end:,}, but the file has {self._bytes.size:,}: truncated"
                refuse(path, f"tensor {name!r} {why}")
            if name in self.shapes:
                refuse(path, f"tensor {name!r} is there twice")
            self.shapes[name] = shape
            self._places[name] = kind, begin, end

    def read(self, name: str) -> Array:
        kind, begin, end = self._places[name]
        return dequantised(self._bytes[begin:end], KINDS[kind][0]).reshape(self.shapes[name])

    def _take(self, count: int) -> bytes:
        if count > self._bytes.size - self._at:
            refuse(self.where, f"it ends at byte {self._bytes.size:,}, inside its header")
        self._at += count
        return self._bytes[self._at - count : self._at].tobytes()

    def _number(self, code: str) -> Any:
        (value,) = layouts.unpack("<" + code, self._take(layouts.calcsize("<" + code)))
        return value

    def _text(self) -> str:
        return self._take(self._number("Q")).decode(errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == TEXT:
            return self._text()
        if kind == LIST:
            inner, count = self._number("I"), self._number("Q")
            if inner in NUMBERS:
                code = NUMBERS[inner]
                raw = self._take(count * layouts.calcsize("<" + code))
                return list(layouts.unpack(f"<{count}{code}", raw))
            if inner == TEXT:
                return [self._text() for _ in range(count)]
        if kind not in NUMBERS:
            refuse(self.where, f"its metadata has a value of type {kind}")
        return self._number(NUMBERS[kind])

    def _about(self) -> tuple[str, Shape, int, int]:
        """-> name, shape, type and place of a tensor; the file has sizes from last to first."""
        name = self._text()
        rank = self._number("I")
        if rank > 4:
            refuse(self.where, f"tensor {name!r} has {rank} dimensions")
        shape = tuple(self._number("Q") for _ in range(rank))[::-1]
        return name, shape, self._number("I"), self._number("Q")


def dequantised(raw: Array, kind: str) -> Array:
    """The numbers, flat. A block of 32 has a scale (and a lowest value) in float16."""
    if kind in ("F32", "F16", "BF16"):
        plain = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}[kind]
        return raw.view(np.dtype(plain).newbyteorder("<"))
    size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
    blocks = raw.reshape(-1, size)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # [blocks, 1]
    if kind == "Q8_0":
        return (scale * blocks[:, 2:].view(np.int8)).reshape(-1)
    packed = blocks[:, -16:]  # low halves of the bytes are the first 16 numbers
    numbers = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    if kind == "Q4_0":
        return (scale * (numbers - 8)).reshape(-1)
    lowest = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
    return (scale * numbers + lowest).reshape(-1)


class Llama:
    """A GGUF file with the names and the order of rows that Llama has elsewhere."""

    parts = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }  # fmt: skip

    def __init__(self, file: Gguf, config: Config) -> None:
        self.where, self._file, self._config = file.where, file, config
        names = {
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight",
        }
        for n in range(config.layers):
            for theirs, short in self.parts.items():
                names[f"blk.{n}.{short}.weight"] = f"model.layers.{n}.{theirs}.weight"
        self._names = {names.get(name, name): name for name in file.shapes}
        self.shapes: Mapping[str, Shape] = {
            name: file.shapes[own] for name, own in self._names.items()
        }

    def read(self, name: str) -> Array:
        x = self._file.read(self._names[name])
        c = self._config
        heads = {"q_proj": c.heads, "k_proj": c.kv_heads}.get(name.split(".")[-2])
        if heads is None:
            return x
        pairs = x.reshape(heads, c.head_dim // 2, 2, -1)
        return pairs.swapaxes(1, 2).reshape(x.shape)


def open_file(path: Path) -> tuple[Config, Llama]:
    """-> configuration and tensors of a file of the llama architecture"""
    file = Gguf(path)
    m = file.metadata
    family = m.get("general.architecture")
    if family != "llama":
        refuse(path, f"its architecture is {family!r}; GGUF is read for llama only")

    def need(key: str) -> Any:
        if f"llama.{key}" not in m:
            refuse(path, f"its metadata lacks llama.{key}")
        value = m[f"llama.{key}"]
        if not isinstance(value, float) and not (type(value) is int and 0 < value < 2**31):
            refuse(path, f"its llama.{key} is {str(value)[:60]}")
        return value

    if need("block_count") > MANY:
        refuse(path, f"it has {need('block_count'):,} layers")
    if m.get("llama.rope.scaling.type", "none") != "none" or "llama.expert_count" in m:
        refuse(path, "scaled rotations and mixtures are read from safetensors only")
    width, heads = need("embedding_length"), need("attention.head_count")
    head_dim = m.get("llama.rope.dimension_count", width // heads)
    eos = m.get("tokenizer.ggml.eos_token_id")
    config = Config(
        vocab=file.shapes.get("token_embd.weight", (0,))[0],
        width=width,
        layers=need("block_count"),
        heads=heads,
        hidden=need("feed_forward_length"),
        kv_heads=m.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_positions=need("context_length"),
        rope=Rope(dims=head_dim, base=m.get("llama.rope.freq_base", 10_000.0)),
        norm_eps=float(f"{need('attention.layer_norm_rms_epsilon'):.6g}"),  # of a float32
        tied="output.weight" not in file.shapes,
        bos=m.get("tokenizer.ggml.bos_token_id"),
        eos=() if eos is None else (eos,),
        pad=m.get("tokenizer.ggml.padding_token_id"),
    )
    return config, Llama(file, config)
