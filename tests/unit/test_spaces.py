"""Descriptions of observations and actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import spaces
from jaxrl.spaces import Box, Dict, Discrete, MultiDiscrete

EVERY = {
    "discrete": Discrete(3),
    "multi": MultiDiscrete((2, 4)),
    "box": Box([-1.0, 0.0], [1.0, 5.0]),
    "free": Box(-np.inf, np.inf, (2, 3)),
    "half": Box(0.0, np.inf, (4,)),
    "image": Box(0, 255, (2, 2, 1), np.uint8),
    "flags": Box(0, 1, (3,), bool),
    "dict": Dict({"b": Discrete(2), "a": Box(-1.0, 1.0, (2,))}),
}


@pytest.mark.parametrize("name", EVERY)
def test_samples_are_members_and_reach_everywhere(name: str) -> None:
    space = EVERY[name]
    keys = jax.random.split(jax.random.key(0), 500)
    samples = jax.vmap(space.sample)(keys)
    assert space.contains(samples)
    for x in jax.tree.leaves(samples):
        assert len(np.unique(np.asarray(x).reshape(500, -1), axis=0)) > 1
    hash(space)


def test_discrete_samples_are_uniform_over_all() -> None:
    samples = jax.vmap(Discrete(3).sample)(jax.random.split(jax.random.key(0), 3000))
    assert np.bincount(samples).min() > 900
    multi = jax.vmap(MultiDiscrete((2, 4)).sample)(jax.random.split(jax.random.key(0), 3000))
    assert (multi.max(0) == np.array([1, 3])).all()


@pytest.mark.parametrize(
    ("space", "x", "inside"),
    [
        (Discrete(3), np.int32(2), True),
        (Discrete(3), np.int32(3), False),
        (Discrete(3), np.int32(-1), False),
        (Discrete(3), np.float32(1), False),
        (MultiDiscrete((2, 4)), np.array([1, 3]), True),
        (MultiDiscrete((2, 4)), np.array([2, 3]), False),
        (MultiDiscrete((2, 4)), np.array([1, 3, 0]), False),
        (Box(0.0, 1.0, (2,)), np.float32([0, 1]), True),
        (Box(0.0, 1.0, (2,)), np.float32([0, 1.1]), False),
        (Box(0.0, 1.0, (2,)), np.float32([np.nan, 1]), False),
        (Box(0.0, 1.0, (2,)), np.float64([0, 1]), False),
        (Box(0.0, 1.0, (2,)), np.float32([0, 1, 1]), False),
        (Box([0.0, -1.0], [1.0, 0.0]), np.float32([1, 1]), False),
        (Box(0.0, 1.0, (2,)), np.zeros((5, 2), np.float32), True),
        (Dict({"a": Discrete(2)}), {"a": np.int32(1)}, True),
        (Dict({"a": Discrete(2)}), {"b": np.int32(1)}, False),
        (Dict({"a": Discrete(2)}), {"a": np.int32(2)}, False),
    ],
)
def test_contains(space, x, inside: bool) -> None:
    assert space.contains(x) is inside


def test_equal_spaces_are_equal_and_hash_alike() -> None:
    assert Box([0.0, 0.0], [1.0, 1.0]) == Box(0.0, 1.0, (2,))
    assert hash(Box([0.0, 0.0], [1.0, 1.0])) == hash(Box(0.0, 1.0, (2,)))
    assert Box(0.0, 1.0, (2,)) != Box(0.0, 1.0, (2,), np.uint8)
    assert Box(0.0, 1.0, (2,)) != Box(0.0, 2.0, (2,))
    assert Dict({"a": Discrete(2), "b": Discrete(3)}) == Dict({"b": Discrete(3), "a": Discrete(2)})


def test_bounded() -> None:
    assert Box(0.0, 1.0, (2,)).bounded
    assert not Box([0.0, -np.inf], [1.0, 1.0]).bounded


def test_flatten_by_hand() -> None:
    flat = spaces.flatten
    np.testing.assert_array_equal(flat(Discrete(3), jnp.asarray(1)), [0, 1, 0])
    multi = flat(MultiDiscrete((2, 3)), jnp.asarray([1, 2]))
    np.testing.assert_array_equal(multi, [0, 1, 0, 0, 1])
    image = jnp.arange(8, dtype=jnp.uint8).reshape(2, 2, 2)
    np.testing.assert_array_equal(
        flat(Box(0, 255, (2, 2), np.uint8), image), [[0, 1, 2, 3], [4, 5, 6, 7]]
    )
    both = {"b": jnp.asarray(1), "a": jnp.asarray([0.5, -0.5])}
    np.testing.assert_array_equal(flat(EVERY["dict"], both), [0.5, -0.5, 0, 1])


@pytest.mark.parametrize("name", EVERY)
def test_flatten_has_the_size_it_says_and_keeps_leading_axes(name: str) -> None:
    space = EVERY[name]
    flat = spaces.flatten(space, spaces.zeros(space, (4, 5)))
    assert flat.shape == (4, 5, spaces.size(space))
    assert flat.dtype == jnp.float32


def test_describe() -> None:
    assert spaces.describe(EVERY["dict"]) == "Dict(a: Box(2,) float32, b: Discrete(2))"
    assert spaces.describe(MultiDiscrete((2, 4))) == "MultiDiscrete(2, 4)"
