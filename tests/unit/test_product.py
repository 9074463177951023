"""The product of rows and weights: the same numbers as XLA's own, of every order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.networks import product

DIMENSIONS = (((1,), (0,)), ((), ()))


def ours(x: jax.Array, w: jax.Array) -> jax.Array:
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    return jnp.tanh(product.dot_general(x, w, dimensions))


def theirs(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(x @ w)


@pytest.fixture(scope="module", params=[(6, 16), (2, 3, 16), (16,)], ids=str)
def numbers(request: Any) -> tuple[jax.Array, ...]:
    shape = request.param
    keys = jax.random.split(jax.random.key(0), 4)
    x, dx = (jax.random.normal(k, shape) for k in keys[:2])
    w, dw = (jax.random.normal(k, (16, 17)) / 4 for k in keys[2:])
    return x, w, dx, dw


def same(got: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)


def test_values_and_gradients(numbers: Any) -> None:
    x, w, *_ = numbers

    def loss(product: Any) -> Any:
        return lambda x, w: jnp.sum(product(x, w) ** 2)

    same(ours(x, w), theirs(x, w))
    for both in (0, 1, (0, 1)):
        same(jax.grad(loss(ours), both)(x, w), jax.grad(loss(theirs), both)(x, w))


def test_forward_and_second_derivatives(numbers: Any) -> None:
    x, w, dx, dw = numbers
    same(jax.jvp(ours, (x, w), (dx, dw)), jax.jvp(theirs, (x, w), (dx, dw)))
    same(*(jax.hessian(lambda w, f=f: f(x, w).sum())(w) for f in (ours, theirs)))  # type: ignore


def test_many_at_once(numbers: Any) -> None:
    x, w, dx, dw = numbers
    xs, ws = jnp.stack([x, dx]), jnp.stack([w, dw])
    for axes in ((0, 0), (0, None), (None, 0)):
        pair = (xs if axes[0] == 0 else x, ws if axes[1] == 0 else w)
        got, wanted = (
            jax.vmap(jax.grad(lambda x, w, f=f: f(x, w).sum(), (0, 1)), axes)(*pair)  # type: ignore
            for f in (ours, theirs)
        )
        same(got, wanted)


def test_large_or_narrow_weights_and_other_types_go_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(product, "_product", never)
    rows = jnp.ones((2, 200))
    large = product.dot_general(rows, jnp.ones((200, 100)), DIMENSIONS)
    np.testing.assert_array_equal(large, 200.0)
    product.dot_general(rows, jnp.ones((200, 3)), DIMENSIONS)
    product.dot_general(rows, jnp.ones((200, 20), jnp.bfloat16), DIMENSIONS)
    with pytest.raises(AssertionError):
        product.dot_general(rows, jnp.ones((200, 20)), DIMENSIONS)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    product.dot_general(rows, jnp.ones((200, 20)), DIMENSIONS)
