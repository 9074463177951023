"""LoRA: nothing at first, merged the same, trained alone, and readable by PEFT."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import FileRefused, llm
from jaxrl.llm.checkpoint import LanguageModel
from jaxrl.llm.lora import Adapted, adapt, load_adapter, merge, save_adapter, variables

CONFIG = llm.Config(
    vocab=31, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope=llm.Rope(dims=4),
    max_positions=32,
)  # fmt: skip
NETWORK = llm.Transformer(CONFIG)
TOKENS = jnp.arange(14).reshape(2, 7) % 31
forward = jax.jit(lambda params: NETWORK.apply(variables(params), TOKENS)[0])


@pytest.fixture(scope="module")
def base() -> Any:
    params = jax.jit(NETWORK.init)(jax.random.key(0), TOKENS)["params"]
    return jax.tree.map(lambda x: 8 * x if x.ndim > 1 else x, params)


@pytest.fixture(scope="module")
def tuned(base: Any) -> Adapted:
    tuned = adapt(jax.random.key(1), base, rank=3, alpha=6.0)
    key = jax.random.key(2)
    return tuned.with_lora(
        jax.tree.map(lambda x: x + 0.2 * jax.random.normal(key, x.shape), tuned.lora)
    )


def test_at_first_nothing_changes(base: Any) -> None:
    tuned = adapt(jax.random.key(1), base, rank=2, targets=("query", "down"))
    np.testing.assert_array_equal(forward(tuned), forward(base))
    assert set(tuned.lora["blocks_0"]) == {"attention", "forward"}
    assert set(tuned.lora["blocks_1"]["attention"]) == {"query"}
    assert tuned.lora["blocks_1"]["forward"]["down"]["a"].shape == (24, 2)
    with pytest.raises(ValueError, match="no linear map called 'qkv'"):
        adapt(jax.random.key(0), base, targets=("query", "qkv"))


def test_merged_it_is_the_same(base: Any, tuned: Adapted) -> None:
    """W + a b alpha / rank, in every map of every layer."""
    merged = merge(tuned)
    out = forward(tuned)
    assert np.abs(out - forward(base)).max() > 0.1
    np.testing.assert_allclose(forward(merged), out, atol=2e-5)
    place = ("blocks_1", "forward", "up")
    before, pair, after = base, tuned.lora, merged
    for name in place:
        before, pair, after = before[name], pair[name], after[name]
    expected = before["kernel"] + 2.0 * np.asarray(pair["a"]) @ np.asarray(pair["b"])
    np.testing.assert_allclose(after["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_only_adapters_have_a_gradient(tuned: Adapted) -> None:
    gradient = jax.grad(lambda t: jnp.square(NETWORK.apply(variables(t), TOKENS)[0]).sum())(tuned)
    assert not any(np.abs(g).max() for g in jax.tree.leaves(gradient.base))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient.lora))


@pytest.mark.slow
def test_sampled_and_scored(tuned: Adapted) -> None:
    draw = jax.jit(partial(llm.generate, NETWORK, max_new=4))
    out = draw(tuned, TOKENS, None, jax.random.key(3))
    scored = jax.jit(partial(llm.score, NETWORK))(tuned, TOKENS, None, out)
    np.testing.assert_allclose(scored, out.log_probs, atol=1e-5)
    plain = draw(merge(tuned), TOKENS, None, jax.random.key(3))
    np.testing.assert_array_equal(plain.tokens, out.tokens)


def test_files(base: Any, tuned: Adapted, tmp_path: Path) -> None:
    save_adapter(tuned, CONFIG, tmp_path)
    again = load_adapter(base, CONFIG, tmp_path)
    assert (again.scale, again.rank) == (2.0, 3)
    for x, y in zip(jax.tree.leaves(again.lora), jax.tree.leaves(tuned.lora), strict=True):
        np.testing.assert_array_equal(x, y)
    other = llm.Config(**{**CONFIG.__dict__, "width": 32, "head_dim": 4})
    wide = jax.eval_shape(llm.Transformer(other).init, jax.random.key(0), TOKENS)["params"]
    with pytest.raises(FileRefused, match=r"has shape .*16.*, but should have .*32.*"):
        load_adapter(wide, other, tmp_path)
    about = tmp_path / "adapter_config.json"
    settings = json.loads(about.read_text())
    about.write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(FileRefused, match="use_dora is True"):
        load_adapter(base, CONFIG, tmp_path)
    gpt2 = llm.Config(
        vocab=9, width=8, layers=1, heads=2, hidden=8, family="gpt2", norm="layer", gated=False,
        qkv_bias=True, out_bias=True, mlp_bias=True, tied=True,
    )  # fmt: skip
    params = llm.Transformer(gpt2).init(jax.random.key(0), TOKENS[:, :2])["params"]
    with pytest.raises(ValueError, match="part of a larger tensor in the files of gpt2"):
        save_adapter(adapt(jax.random.key(0), params, targets=("query",)), gpt2, tmp_path)


@pytest.mark.filterwarnings("default")
def test_peft_reads_it(base: Any, tuned: Adapted, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    llm.save(LanguageModel(base, NETWORK), tmp_path / "base")
    save_adapter(tuned, CONFIG, tmp_path / "adapter")
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    with torch.no_grad():
        expected = model(torch.tensor(np.asarray(TOKENS)).long()).logits.numpy()
    np.testing.assert_allclose(forward(tuned), expected, atol=2e-4, rtol=0)
    model.save_pretrained(tmp_path / "theirs")
    again = load_adapter(base, CONFIG, tmp_path / "theirs")
    for x, y in zip(jax.tree.leaves(again.lora), jax.tree.leaves(tuned.lora), strict=True):
        np.testing.assert_array_equal(x, y)
