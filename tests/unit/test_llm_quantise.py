"""Eight bits: how far off, how much smaller, and that adapters learn on top."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import llm
from jaxrl.llm.layout import flatten, nest
from jaxrl.llm.lora import adapt, merge, variables
from jaxrl.llm.quantise import Int8, memory, quantise

CONFIG = llm.Config(
    vocab=31, width=32, layers=2, heads=4, kv_heads=2, hidden=48, rope=llm.Rope(dims=4),
    experts=4, experts_per_token=2, expert_hidden=24, dense_layers=(0,), qkv_bias=True,
)  # fmt: skip
NETWORK = llm.Transformer(CONFIG)
TOKENS = jnp.arange(14).reshape(2, 7) % 31
forward = jax.jit(lambda params: NETWORK.apply(variables(params), TOKENS)[0])


@pytest.fixture(scope="module")
def base() -> Any:
    params = jax.jit(NETWORK.init)(jax.random.key(0), TOKENS)["params"]
    return jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, params)


def test_what_is_rounded_and_how_far(base: Any) -> None:
    small = quantise(base)
    before, after = flatten(base), flatten(small)
    rounded = [path for path, x in after.items() if isinstance(x, Int8)]
    assert len(rounded) == 2 * 4 + 3 + 3 and "blocks_1/experts/gate" in rounded
    assert "blocks_1/experts/router/kernel" not in rounded
    for path in rounded:
        exact, x = np.asarray(before[path]), after[path]
        assert x.values.dtype == jnp.int8 and x.shape == exact.shape
        np.testing.assert_allclose(np.abs(exact).max(axis=-2) / 127, x.scale, rtol=1e-6)
        step = np.asarray(x.scale)[..., None, :]
        off = np.abs(np.asarray(x.astype(jnp.float32)) - exact)
        assert (off <= 0.5001 * step).all() and off.max() > 0.4 * step.min()
    saved = sum(before[path].size * 3 - after[path].scale.nbytes for path in rounded)
    assert memory(base) - memory(small) == saved
    again = quantise(small)
    assert all(a is b for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(again), strict=True))
    assert not quantise({"kernel": jnp.zeros((3, 2))})["kernel"].astype(jnp.float32).any()


def test_logits(base: Any) -> None:
    """Those of the rounded kernels, and near those of the exact ones."""
    small, exact = quantise(base), forward(base)
    dense = {
        path: x.astype(jnp.float32) if isinstance(x, Int8) else x
        for path, x in flatten(small).items()
    }
    out = forward(small)
    np.testing.assert_allclose(out, forward(nest(dense)), atol=2e-5 * np.abs(exact).max())
    off = np.abs(out - exact).max() / np.abs(exact).max()
    assert 1e-4 < off < 0.03


def test_adapters_learn_on_a_rounded_base(base: Any) -> None:
    small = quantise(base)
    tuned = adapt(jax.random.key(1), small, rank=4)
    np.testing.assert_allclose(forward(tuned), forward(small), atol=1e-5)

    def loss(lora: Any) -> jax.Array:
        logits, _ = NETWORK.apply(variables(tuned.with_lora(lora)), TOKENS)
        lp = jax.nn.log_softmax(logits)[:, :-1]
        return -jnp.take_along_axis(lp, TOKENS[:, 1:, None], axis=-1).mean()

    @jax.jit
    def learn(lora: Any) -> tuple[Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(lora)
        return jax.tree.map(lambda x, g: x - 0.3 * g, lora, gradient), value

    lora, losses = tuned.lora, []
    for _ in range(80):
        lora, value = learn(lora)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    tuned = tuned.with_lora(lora)
    np.testing.assert_allclose(forward(merge(tuned)), forward(tuned), atol=5e-4)


def test_a_rounded_model_is_not_saved(tmp_path: Any) -> None:
    config = llm.Config(vocab=9, width=8, layers=1, heads=2, hidden=8, rope=llm.Rope(dims=4))
    network = llm.Transformer(config)
    params = jax.jit(network.init)(jax.random.key(0), TOKENS[:, :2] % 9)["params"]
    with pytest.raises(TypeError, match="is quantised"):
        llm.save(llm.LanguageModel(quantise(params), network), tmp_path)
