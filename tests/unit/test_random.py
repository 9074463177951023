"""Our draws are JAX's draws; our permutations are permutations, and uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import random

KEY = jax.random.key(7)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_bits_are_those_of_jax(dtype: str) -> None:
    for shape in [(), (3,), (4, 5)]:
        ours = jax.random.bits(random.unrolled(KEY), shape, dtype)
        np.testing.assert_array_equal(ours, jax.random.bits(KEY, shape, dtype))


def test_keys_are_those_of_jax() -> None:
    ours = random.unrolled(KEY)
    data = jax.random.key_data
    for n in (2, 3, (2, 5)):
        np.testing.assert_array_equal(
            data(jax.random.split(ours, n)), data(jax.random.split(KEY, n))
        )
    for i in (0, 1, 2**31, 2**32 - 1):
        np.testing.assert_array_equal(
            data(jax.random.fold_in(ours, i)), data(jax.random.fold_in(KEY, i))
        )


def test_distributions_under_vmap_and_jit_are_those_of_jax() -> None:
    keys = jax.random.split(KEY, 4)

    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        a, b, c = jax.random.split(key, 3)
        logits = jnp.arange(3.0)
        return (
            jax.random.normal(a, (5,)),
            jax.random.categorical(b, logits, shape=(6,)),
            jax.random.randint(c, (7,), 0, 10),
        )

    ours = jax.jit(jax.vmap(draw))(random.unrolled(keys))
    theirs = jax.vmap(draw)(keys)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_other_keys_are_left_alone() -> None:
    key = jax.random.key(0, impl="rbg")
    assert random.unrolled(key) is key
    ours = random.unrolled(KEY)
    assert random.unrolled(ours) is ours


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 100, 512, 1000, 4096])
def test_permutations_hold_every_number_once(n: int) -> None:
    orders = jax.jit(jax.vmap(lambda k: random.permutation(k, n)))(jax.random.split(KEY, 20))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n), (20, 1)))


@pytest.mark.parametrize("n", [8, 64, 100, 512])
def test_permutations_are_uniform_in_singles_and_pairs(n: int) -> None:
    draws, bins = 20_000, 8
    keys = jax.random.split(KEY, draws)
    orders = jax.jit(jax.vmap(lambda k: random.permutation(k, n)))(keys)
    group = np.asarray(orders)[:, [0, 1, n // 2, n - 1]] * bins // n  # which eighth they are from
    sizes = np.bincount(np.arange(n) * bins // n)
    for column in group.T:
        expected = draws * sizes / n
        chi2 = ((np.bincount(column, minlength=bins) - expected) ** 2 / expected).sum()
        assert chi2 < 35  # 7 degrees of freedom: p = 1e-5
    for i in range(1, 4):
        pairs = np.bincount(group[:, 0] * bins + group[:, i], minlength=bins * bins)
        expected = (np.outer(sizes, sizes) - np.diag(sizes)) / (n * (n - 1)) * draws
        kept = expected.ravel() > 0
        gap = (pairs - expected.ravel())[kept]
        chi2 = (gap**2 / expected.ravel()[kept]).sum()
        assert chi2 < 120, i  # 63 degrees of freedom at most: p = 2e-5


def test_large_permutations_look_random() -> None:
    # Neighbours before and after are unrelated, and half of all pairs are in order.
    order = np.asarray(random.permutation(KEY, 512))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.15
    assert abs(np.corrcoef(order, np.arange(512))[0, 1]) < 0.15
