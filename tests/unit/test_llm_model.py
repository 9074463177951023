"""The transformer by itself: padding, packing, cache, windows, mixtures, dtypes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm import Config, Rope, Transformer, empty_cache
from jaxrl.llm.model import count_positions

TINY = Config(
    vocab=31, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope=Rope(dims=4), windows=(3, 0)
)
GPT2 = Config(
    vocab=31, width=16, layers=2, heads=4, hidden=24, norm="layer", gated=False,
    activation="gelu_tanh", max_positions=12, tied=True, qkv_bias=True,
)  # fmt: skip
MIXED = dataclasses.replace(
    TINY, experts=4, experts_per_token=2, expert_hidden=8, dense_layers=(0,)
)

Made = tuple[Transformer, Any]


@pytest.fixture(scope="module", params=[pytest.param("table", marks=pytest.mark.slow), "mixture"])
def made(request: pytest.FixtureRequest) -> Made:
    config = {"table": GPT2, "mixture": MIXED}[request.param]
    model = Transformer(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    key = jax.random.key(1)  # larger than at the start, so that every part matters
    leaves, tree = jax.tree.flatten(params)
    leaves = [
        x + 0.3 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True)
    ]
    return model, jax.tree.unflatten(tree, leaves)


def logits(made: Made, tokens: Any, mask: Any = None) -> Any:
    model, params = made
    return np.asarray(jax.jit(model.apply)({"params": params}, jnp.asarray(tokens), mask)[0])


def test_positions() -> None:
    segments = jnp.array([[0, 0, 1, 1, 1, 0], [1, 1, 2, 2, 2, 3], [1, 1, 0, 0, 1, 2]])
    expected = [[0, 0, 0, 1, 2, 0], [0, 1, 0, 1, 2, 0], [0, 1, 0, 0, 2, 0]]
    np.testing.assert_array_equal(count_positions(segments), expected)


def test_padding_on_either_side_changes_nothing(made: Made) -> None:
    text = jax.random.randint(jax.random.key(2), (7,), 0, 31)
    alone = logits(made, text[None])[0]
    rows, masks = np.full((3, 10), 5), np.zeros((3, 10), bool)
    for row, begin in enumerate((0, 3, 1)):  # right, left and on both sides
        rows[row, begin : begin + 7] = text
        masks[row, begin : begin + 7] = True
    padded = logits(made, rows, jnp.asarray(masks))
    for row, begin in enumerate((0, 3, 1)):
        np.testing.assert_allclose(padded[row, begin : begin + 7], alone, atol=2e-5)
    assert np.isfinite(padded).all()
    others = logits(made, np.where(masks, rows, 9), jnp.asarray(masks))
    np.testing.assert_array_equal(others[masks], padded[masks])


def test_texts_packed_into_a_row_do_not_see_one_another(made: Made) -> None:
    a, b = (jax.random.randint(jax.random.key(k), (n,), 0, 31) for k, n in ((3, 4), (4, 5)))
    row = jnp.concatenate([a, b, jnp.zeros(1, jnp.int32)])[None]
    packed = logits(made, row, jnp.array([[1] * 4 + [2] * 5 + [0]]))[0]
    np.testing.assert_allclose(packed[:4], logits(made, a[None])[0], atol=2e-5)
    np.testing.assert_allclose(packed[4:9], logits(made, b[None])[0], atol=2e-5)


def test_later_tokens_change_nothing_before(made: Made) -> None:
    tokens = jax.random.randint(jax.random.key(5), (1, 8), 0, 31)
    before = logits(made, tokens)
    after = logits(made, tokens.at[0, 5].add(1))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).min(axis=-1).max() > 0


def test_the_cache_gives_the_same(made: Made) -> None:
    """A prompt with padding first, then three tokens, then one."""
    model, params = made
    tokens = jax.random.randint(jax.random.key(6), (2, 10), 0, 31)
    mask = jnp.ones((2, 10), bool).at[0, :2].set(False).at[1, 4:6].set(False)
    whole = logits(made, tokens, mask)
    cache = empty_cache(model.config, 2, 12)
    apply = jax.jit(model.apply)
    for begin, end in ((0, 6), (6, 9), (9, 10)):
        part = slice(begin, end)
        out, cache = apply({"params": params}, tokens[:, part], mask[:, part], cache)
        seen = np.asarray(mask[:, part])
        np.testing.assert_allclose(out[seen], whole[:, part][seen], atol=2e-5)
    assert int(cache.length) == 10


def test_a_window_hides_what_is_further_back() -> None:
    """With a window of three in both layers, a token reaches four places ahead and no further."""
    config = dataclasses.replace(TINY, windows=(3, 3))
    model = Transformer(config)
    tokens = jnp.arange(9)[None]
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    apply = jax.jit(model.apply)
    change = apply(params, tokens)[0] - apply(params, tokens.at[0, 1].set(20))[0]
    moved = np.abs(np.asarray(change[0])).max(axis=-1) > 0
    assert moved.tolist() == [False] + [True] * 5 + [False] * 3


def test_too_many_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="13 tokens, but this model has only 12"):
        Transformer(GPT2).init(jax.random.key(0), jnp.zeros((1, 13), jnp.int32))


def test_the_mixture_is_the_weighted_sum_of_its_experts() -> None:
    """Against a loop over tokens in float64."""
    model = Transformer(dataclasses.replace(MIXED, layers=1, windows=(0,), dense_layers=()))
    tokens = jax.random.randint(jax.random.key(1), (1, 6), 0, 31)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    (_, _), state = model.apply(
        variables, tokens, capture_intermediates=lambda m, _: m.name == "experts" or
        m.name == "pre_forward", mutable=["intermediates"],
    )  # fmt: skip
    inside = state["intermediates"]["blocks_0"]
    x = np.asarray(inside["pre_forward"]["__call__"][0], np.float64)[0]
    y = np.asarray(inside["experts"]["__call__"][0])[0]
    p = variables["params"]["blocks_0"]["experts"]
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    expected = np.zeros_like(x)
    for n, token in enumerate(x):
        score = np.exp(token @ p["router"]["kernel"])
        best = np.argsort(-score)[:2]
        for e in best:
            gate = token @ p["gate"][e]
            inner = gate / (1 + np.exp(-gate)) * (token @ p["up"][e])
            expected[n] += score[e] / score[best].sum() * (inner @ p["down"][e])
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-9)


def test_gradients_flow_and_do_not_depend_on_rematerialisation(made: Made) -> None:
    model, params = made
    tokens = jax.random.randint(jax.random.key(7), (2, 6), 0, 31)
    mask = jnp.ones((2, 6), bool).at[0, :3].set(False)

    def loss(params: Any, model: Transformer) -> jax.Array:
        out = jax.nn.log_softmax(model.apply({"params": params}, tokens, mask)[0])
        return (out[:, :, 3] * mask).sum()

    plain = jax.jit(jax.grad(loss), static_argnums=1)(params, model)
    again = jax.jit(jax.grad(loss), static_argnums=1)(params, model.clone(remat=True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        assert np.isfinite(a).all() and np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_models_can_be_stacked(made: Made) -> None:
    """`vmap` over parameters, as sweeps and seeds need it."""
    model, params = made
    tokens = jax.random.randint(jax.random.key(8), (2, 5), 0, 31)
    two = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)
    out = jax.jit(jax.vmap(lambda p: model.apply({"params": p}, tokens)[0]))(two)
    np.testing.assert_allclose(out[0], logits(made, tokens), atol=2e-5)
    half = jax.tree.map(lambda x: 0.5 * x, params)
    np.testing.assert_allclose(out[1], logits((model, half), tokens), atol=2e-5)


def test_bfloat16(made: Made) -> None:
    model, params = made
    tokens = jax.random.randint(jax.random.key(9), (2, 6), 0, 31)
    small = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    out, _ = jax.jit(model.clone(dtype=jnp.bfloat16).apply)({"params": small}, tokens)
    assert out.dtype == jnp.float32
    exact = logits(made, tokens)
    assert np.abs(out - exact).max() < 0.05 * np.abs(exact).max()
