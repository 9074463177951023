"""Features by hand, and against a plain implementation of the same definitions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import features, spaces
from jaxrl.features import Active, Fourier, OneHot, Polynomial, Raw, StateAggregation, TileCoding

LINE = spaces.Box(0.0, 1.0, (1,))
CAR = spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32))


def of(basis: Any, space: spaces.Space, x: Any) -> Any:
    return jax.jit(lambda x: basis(space, x))(jnp.asarray(x))


def index(found: Any) -> list[Any]:
    assert isinstance(found, Active) and found.index.dtype == jnp.int32
    return found.index.tolist()


def test_tiles_on_a_line() -> None:
    """Two tilings of two tiles: the second one half a tile further, with a third tile."""
    tiles = TileCoding(tilings=2, tiles=2)
    assert tiles.size(LINE) == 6 and tiles.active(LINE) == 2
    x = jnp.array([[0.0], [0.2], [0.3], [0.6], [1.0], [7.0], [-1.0]])
    want = [[0, 3], [0, 3], [0, 4], [1, 4], [2, 5], [2, 5], [0, 3]]
    assert index(of(tiles, LINE, x)) == want


def test_tilings_are_shifted_by_odd_numbers() -> None:
    """Four tilings of one tile in two dimensions, shifted by (0, 0), (1, 3), (2, 2), (3, 1)."""
    square = spaces.Box(0.0, 1.0, (2,))
    tiles = TileCoding(tilings=4, tiles=1)
    x = jnp.array([0.3, 0.55])  # + (.25, .75), (.5, .5), (.75, .25): (0, 1), (0, 1), (1, 0)
    assert index(of(tiles, square, x)) == [0, 4 + 1, 8 + 1, 12 + 2]
    even = TileCoding(tilings=4, tiles=1, offsets=(1, 1))
    assert index(of(even, square, x)) == [0, 4 + 0, 8 + 1, 12 + 3]


def classic(x: np.ndarray, tilings: int) -> np.ndarray:
    """Tiles of x [d], in units of a tile, as whole numbers: those of tiling t have moved by
    t (1, 3, 5, ...) parts of a tile. [tilings, d]"""
    parts = np.floor(x * tilings).astype(int)
    rows = [[(q + t * (1 + 2 * i)) // tilings for i, q in enumerate(parts)] for t in range(tilings)]
    return np.array(rows)


@pytest.mark.parametrize("hashed", [None, 2**30])
def test_who_shares_tiles_with_whom(hashed: int | None) -> None:
    tiles = TileCoding(8, 8, low=(-1.2, -0.07), high=(0.5, 0.07), hashed=hashed)
    rng = np.random.default_rng(0)
    low, width = np.array([-1.2, -0.07]), np.array([1.7, 0.14])
    x = low + rng.random((60, 2)) * width * [0.3, 0.3]  # close enough to share some
    got = np.array(index(of(tiles, CAR, jnp.asarray(x, jnp.float32))))
    want = np.stack([classic((row - low) / width * 8, 8) for row in x])
    shared = (got[:, None] == got[None]).sum(-1)
    expected = (want[:, None] == want[None]).all(-1).sum(-1)
    assert np.mean((expected > 0) & (expected < 8)) > 0
    np.testing.assert_array_equal(shared, expected)


def test_every_tile_is_one_feature() -> None:
    """No two tiles share a number, and none is beyond the size."""
    tiles = TileCoding(tilings=4, tiles=(3, 2))
    grid = np.stack(np.meshgrid(np.linspace(-1.2, 0.6, 37), np.linspace(-0.07, 0.07, 29)), -1)
    got = np.asarray(index(of(tiles, CAR, jnp.asarray(grid.reshape(-1, 2), jnp.float32))))
    assert tiles.size(CAR) == 4 * 4 * 3
    assert set(got.ravel()) <= set(range(48))
    for t in range(4):
        assert set(got[:, t]) <= set(range(12 * t, 12 * t + 12))
    assert set(got[:, 1]) == set(range(12, 24))


def test_a_circle_has_no_end() -> None:
    tiles = TileCoding(tilings=4, tiles=3, wrap=True)
    assert tiles.size(LINE) == 12
    same = [of(tiles, LINE, jnp.array([x])) for x in (0.05, 1.05, -0.95)]
    assert index(same[0]) == index(same[1]) == index(same[2])
    near = np.array(index(of(tiles, LINE, jnp.array([[0.99], [0.01], [0.5]]))))
    assert (near[0] == near[1]).sum() == 3 and (near[0] == near[2]).sum() == 0


def test_the_hash_spreads() -> None:
    """20,000 tiles into 256 places: as even as chance would have it."""
    tiles = TileCoding(tilings=2, tiles=100, hashed=256)
    space = spaces.Box(0.0, 1.0, (2,))
    centre = (np.stack(np.meshgrid(np.arange(100), np.arange(100)), -1) + 0.25) / 100
    got = np.asarray(index(of(tiles, space, jnp.asarray(centre.reshape(-1, 2), jnp.float32))))
    for column in (got[:, 0], got[:, 1], got.ravel()):
        count = np.bincount(column, minlength=256)
        chi = ((count - count.mean()) ** 2 / count.mean()).sum()
        assert abs(chi - 255) < 5 * np.sqrt(2 * 255)
    both = np.bincount(got[:, 0] * 256 + got[:, 1], minlength=65536)
    assert both.max() <= 4  # the tilings have nothing to do with one another
    beyond = np.asarray(index(of(tiles, space, jnp.array([[0.5, 9.0], [0.5, 9.1]]))))
    assert (beyond[0] != beyond[1]).any()  # no edge


def test_thousand_states_in_ten_groups() -> None:
    groups = StateAggregation(10, low=1, high=1000)
    space = spaces.Discrete(1002)
    got = np.array(index(of(groups, space, jnp.arange(1002, dtype=jnp.int32))))[:, 0]
    np.testing.assert_array_equal(got[1:1001], np.arange(1000) // 100)
    assert got[0] == 0 and got[1001] == 9 and groups.size(space) == 10
    even = StateAggregation(3)(spaces.Discrete(7), jnp.arange(7))
    assert [x for (x,) in index(even)] == [0, 0, 1, 1, 1, 2, 2]
    pair = StateAggregation((2, 3))(CAR, jnp.array([[-1.2, 0.069], [0.6, -0.07], [-0.2, 0.0]]))
    assert index(pair) == [[2], [3], [1 * 3 + 1]]


def test_fourier_by_hand() -> None:
    basis = Fourier(order=1, low=(0.0, -2.0), high=(4.0, 2.0))
    square = spaces.Box(-np.inf, np.inf, (2,))
    x = jnp.array([1.0, 0.0])  # scaled: .25, .5
    got = of(basis, square, x)
    want = np.cos(np.pi * np.array([0, 0.5, 0.25, 0.75]))
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(basis.rates(square), [1, 1, 1, 0.5**0.5], atol=1e-6)
    assert Fourier(order=3).size(CAR) == 16
    np.testing.assert_allclose(
        Fourier(order=2)(spaces.Discrete(5), jnp.array(1)),
        np.cos(np.pi * np.arange(3) / 4),
        atol=1e-6,
    )


def test_polynomial_by_hand() -> None:
    got = Polynomial(order=2)(spaces.Box(0.0, 2.0, (2,)), jnp.array([[1.0, 0.5], [0.0, 2.0]]))
    x, y = 0.5, 0.25
    want = [[x**i * y**j for i in range(3) for j in range(3)], [1, 1, 1, 0, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_others() -> None:
    three = spaces.MultiDiscrete((2, 3))
    assert index(OneHot()(three, jnp.array([[1, 0], [0, 2]]))) == [[1, 2], [0, 4]]
    assert index(OneHot()(spaces.Discrete(4), jnp.array([2, 3]))) == [[2], [3]]
    assert OneHot().size(three) == 5
    assert Raw()(CAR, jnp.array([-1.0, 0.05])).tolist() == pytest.approx([-1.0, 0.05, 1.0])
    assert Raw(bias=False).size(CAR) == 2
    given = features.given(np.arange(6).reshape(3, 2))
    assert of(given, spaces.Discrete(3), jnp.array([2, 0])).tolist() == [[4, 5], [0, 1]]
    assert hash(given) == hash(features.given([[0, 1], [2, 3], [4, 5]]))


def test_features_side_by_side() -> None:
    space = spaces.Discrete(6)
    binary = features.Union((StateAggregation(2), OneHot()))
    assert index(of(binary, space, jnp.array([4]))) == [[1, 2 + 4]]
    assert (binary.size(space), binary.active(space), binary.rates(space)) == (8, 2, None)
    mixed = features.Union((StateAggregation(2), Fourier(1)))
    got = of(mixed, space, jnp.array([0, 5]))
    np.testing.assert_allclose(got, [[1, 0, 1, 1], [0, 1, 1, -1]], atol=1e-6)
    assert mixed.active(space) is None
    np.testing.assert_allclose(mixed.rates(space), np.ones(4))
    assert Fourier(2).rates(space).tolist() == [1, 1, 0.5]


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_active_and_array_mean_the_same(leading: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    w = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    x = Active(jnp.asarray(rng.integers(0, 5, (*leading, 4)), jnp.int32))
    array = features.dense(x, 5)
    assert array.shape == (*leading, 5) and float(array.sum()) == pytest.approx(
        4 * np.prod(leading)
    )
    np.testing.assert_allclose(features.dot(w, x), array @ w.T, atol=1e-5)
    np.testing.assert_allclose(features.dot(w, array), array @ w.T, atol=1e-5)
    np.testing.assert_allclose(features.dot(w[1], x), array @ w[1], atol=1e-5)
    if leading:
        return
    a, amount = jnp.array(2), jnp.array(0.5)
    np.testing.assert_allclose(features.value(w, x, a), array @ w[2], atol=1e-5)
    np.testing.assert_allclose(features.value(w, array, a), array @ w[2], atol=1e-5)
    want = np.array(w)
    want[2] += 0.5 * np.asarray(array)
    for one in (x, array):
        np.testing.assert_allclose(features.add(w, one, amount, action=a), want, atol=1e-6)
        np.testing.assert_allclose(features.add(w[2], one, amount), want[2], atol=1e-6)
    rates = jnp.arange(5.0)
    scaled = np.asarray(w[2] + 0.5 * rates * array)
    for one in (x, array):
        np.testing.assert_allclose(features.add(w[2], one, amount, rates), scaled, atol=1e-6)


@pytest.mark.parametrize(
    "basis", [TileCoding(4, 3), TileCoding(4, 3, hashed=50), StateAggregation(4), Fourier(2), Raw()]
)
def test_maps_work_inside_jit_and_vmap(basis: Any) -> None:
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.uniform([-1.2, -0.07], [0.6, 0.07], (6, 2)), jnp.float32)
    whole = basis(CAR, x)
    single = jax.jit(jax.vmap(lambda x: basis(CAR, x)))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, single)
    assert hash(basis) == hash(type(basis)(**vars(basis)))


def test_refusals_say_what_to_type() -> None:
    free = spaces.Box(-np.inf, np.inf, (2,))
    for basis in (TileCoding(), Fourier(), Polynomial(), StateAggregation()):
        with pytest.raises(ValueError, match="number 0 .* -inf and inf: write low="):
            basis.check(free)
    with pytest.raises(ValueError, match="3 entries, but observations have 2"):
        TileCoding(tiles=(2, 2, 2)).check(CAR)
    with pytest.raises(ValueError, match="2 entries, but observations have 1"):
        Fourier(low=(0.0, 1.0)).check(LINE)
    with pytest.raises(ValueError, match="low must be less than high"):
        Fourier(low=1.0).check(LINE)
    with pytest.raises(ValueError, match="hashed=65_536"):
        TileCoding(tiles=100).check(spaces.Box(0.0, 1.0, (4,)))
    TileCoding(tiles=100, hashed=1000).check(spaces.Box(0.0, 1.0, (4,)))
    with pytest.raises(ValueError, match="lower order"):
        Fourier(order=9).check(spaces.Box(0.0, 1.0, (8,)))
    with pytest.raises(ValueError, match="at least"):
        TileCoding(tilings=0).check(LINE)
    with pytest.raises(ValueError, match="at least"):
        StateAggregation(0).check(LINE)
    with pytest.raises(TypeError, match="Discrete or MultiDiscrete"):
        OneHot().check(LINE)
    with pytest.raises(TypeError, match="a row for each"):
        features.given(np.eye(3)).check(spaces.Discrete(4))
    with pytest.raises(TypeError, match="SelectObs"):
        Raw().check(spaces.Dict({"a": LINE}))
    with pytest.raises(ValueError, match="no features"):
        features.Union(()).check(LINE)
