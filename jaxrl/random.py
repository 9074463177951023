"""Random numbers at the engine's pace: the same bits as JAX's, in fewer operations.

`jax.random` draws with the Threefry hash. For quick compilation JAX lowers it on CPUs to a loop of
many small operations; inside a rollout that loop costs more than the policy. `unrolled` gives a
key whose draws are the same bits from straight-line code that the compiler fuses with its use.

`permutation` shuffles without sorting.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as extend

from jaxrl.types import Key

Shape = tuple[int, ...]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(k1: jax.Array, k2: jax.Array, x1: jax.Array, x2: jax.Array) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011)."""
    keys = (k1, k2, k1 ^ k2 ^ np.uint32(0x1BD11BDA))
    x1, x2 = x1 + k1, x2 + k2
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x1 = x1 + x2
            x2 = x1 ^ ((x2 << np.uint32(r)) | (x2 >> np.uint32(32 - r)))
        x1 = x1 + keys[(i + 1) % 3]
        x2 = x2 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x1, x2


def _counts(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """0, 1, 2, ... as 64-bit numbers, their high and low halves."""
    size = int(np.prod(shape))
    if size >= 2**32:
        raise ValueError(f"cannot draw {size:,} random numbers at once; draw them in parts.")
    return jnp.zeros(shape, jnp.uint32), jnp.arange(size, dtype=jnp.uint32).reshape(shape)


def _seed(seed: jax.Array) -> jax.Array:
    return extend.threefry_prng_impl.seed(seed)  # pyright: ignore


def _key(halves: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Derived keys are written down: fused with their uses, a chain of splits would be computed
    again at each, and compilation would take minutes."""
    return jax.lax.optimization_barrier(jnp.stack(halves, axis=-1))


def _split(key: jax.Array, shape: Shape) -> jax.Array:
    return _key(threefry(key[0], key[1], *_counts(shape)))


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    return _key(threefry(key[0], key[1], jnp.uint32(0), jnp.asarray(data).astype(jnp.uint32)))


def _random_bits(key: jax.Array, bit_width: int, shape: Shape) -> jax.Array:
    high, low = threefry(key[0], key[1], *_counts(shape))
    if bit_width == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{bit_width}")


@functools.cache
def _implementation() -> Any:
    return extend.define_prng_impl(
        key_shape=(2,),
        seed=_seed,
        split=_split,
        random_bits=_random_bits,
        fold_in=_fold_in,
        name="threefry2x32_unrolled",
        tag="fryu",
    )


def unrolled(key: Key) -> Key:
    """A Threefry key, or an array of them, as keys with the same numbers but cheaper draws. Keys
    of any other implementation are returned as they are, and so is every key where the old layout
    of random bits was asked for (`jax_threefry_partitionable=False`)."""
    old_layout = not jax.config.jax_threefry_partitionable  # pyright: ignore
    if jax.random.key_impl(key) != "threefry2x32" or old_layout:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_implementation())


FEISTEL_ROUNDS = 12

FEW = 64
"""Below this the network has too few bits to mix, and a sort costs nothing."""


def _mix(x: jax.Array) -> jax.Array:
    """A 32-bit finaliser with little bias (constants of Wellons' hash prospector)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def permutation(key: Key, n: int) -> jax.Array:
    """A random order of 0 .. n-1, without a sort where n is large (Mitchell et al. 2022,
    arXiv:2106.06161).

    A Feistel network is a bijection of the 2^b numbers that cover n; those beyond n are dropped.
    It cannot reach all n! orders (no generator with 64 bits of state can), but each element is
    equally likely in each place, and pairs are as good as independent: what a shuffle of
    minibatches needs.
    """
    if n < FEW:
        return jnp.argsort(jax.random.bits(key, (n,))).astype(jnp.int32)
    size = 2 ** (n - 1).bit_length()
    x = _shuffled(key, n, jnp.arange(size, dtype=jnp.uint32)).astype(jnp.int32)
    if size == n:
        return x
    inside = x < n
    place = jnp.where(inside, jnp.cumsum(inside) - 1, n)
    return jnp.zeros(n, jnp.int32).at[place].set(x, mode="drop")


def permuted(key: Key, n: int, index: jax.Array) -> jax.Array:
    """Elements `index` of a random order of 0 .. n-1, without making the rest of it: an order of
    millions of examples is never in memory. (Not the same order as `permutation`'s.)

    An image beyond n is sent through the network again until it lies inside: along its cycle, so
    that no two elements meet.
    """
    if n < FEW:
        return permutation(key, n)[index]

    def outside(x: jax.Array) -> jax.Array:
        return (x >= n).any()

    def again(x: jax.Array) -> jax.Array:
        return jnp.where(x >= n, _shuffled(key, n, x), x)

    start = _shuffled(key, n, index.astype(jnp.uint32))
    return jax.lax.while_loop(outside, again, start).astype(jnp.int32)


def _shuffled(key: Key, n: int, x: jax.Array) -> jax.Array:
    """A random bijection of the 2^b numbers that cover n, at x."""
    bits = (n - 1).bit_length()
    high_bits, low_bits = bits // 2, bits - bits // 2
    high, low = x >> np.uint32(low_bits), x & np.uint32(2**low_bits - 1)
    for round_key in jax.random.bits(key, (FEISTEL_ROUNDS,)):
        mixed = _mix(low * np.uint32(0x9E3779B9) + round_key)
        high, low = low, high ^ (mixed & np.uint32(2**high_bits - 1))
        high_bits, low_bits = low_bits, high_bits
    return (high << np.uint32(low_bits)) | low
