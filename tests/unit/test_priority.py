"""Prioritised sampling: the numbers of the paper, float32 at its limits, and the ring around it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import priority, replay, spaces
from jaxrl.priority import Priorities, Prioritized
from jaxrl.replay import Index
from jaxrl.types import Rollout, Spec

put, find = jax.jit(priority.put), jax.jit(priority.find)


def tree_of(values: np.ndarray) -> priority.SumTree:
    values = np.asarray(values, np.float32)
    return put(priority.empty(len(values)), jnp.arange(len(values)), jnp.array(values))


def ring_of(num_rows: int, num_envs: int, stack: int = 1) -> replay.Replay:
    spec = Spec(spaces.Box(-1, 1, (stack,)), spaces.Discrete(2), None)
    return replay.init(spec, num_rows * num_envs, num_envs, stack)


def rollout(num_steps: int, num_envs: int, stack: int = 1) -> Rollout:
    flag = jnp.zeros((num_steps, num_envs), bool)
    return Rollout(
        obs=jnp.zeros((num_steps, num_envs, stack)),
        action=jnp.zeros((num_steps, num_envs), jnp.int32),
        reward=jnp.zeros((num_steps, num_envs)),
        terminated=flag,
        truncated=flag,
        first=flag,
        last_obs=jnp.zeros((num_envs, stack)),
        final_obs=jnp.zeros((0, num_envs, stack)),
        extras=(),
        memory=None,
        last_memory=None,
    )


def test_d3_probabilities_and_weights() -> None:
    p = jnp.array([1.0, 2.0, 3.0, 4.0])
    sampler = Prioritized(alpha=0.6, beta=0.4, eps=1e-12)
    ring = replay.add(ring_of(7, 1), rollout(4, 1))  # 4 of 7 rows filled: N is 4
    memory = sampler.added(sampler.init(ring), ring, 4, 1)
    index = Index(jnp.arange(4), jnp.zeros(4, jnp.int32), jnp.ones(4))
    memory = sampler.learned(memory, ring, index, p)
    probability = priority.get(memory.tree, jnp.arange(4)) / memory.tree.total
    np.testing.assert_allclose(probability, [0.14823, 0.224674, 0.286555, 0.340542], atol=1e-5)
    weight = priority.importance_weights(probability, 4, 0.4)
    np.testing.assert_allclose(weight, [1, 0.846745, 0.768229, 0.716978], atol=1e-5)
    drawn = sampler.draw(memory, ring, jax.random.key(0), 64, 1, jnp.array(0.0))
    assert set(np.asarray(drawn.row)) == {0, 1, 2, 3}
    np.testing.assert_allclose(drawn.weight, weight[drawn.row], atol=1e-5)
    late = sampler.draw(memory, ring, jax.random.key(0), 64, 1, jnp.array(1.0))
    full = priority.importance_weights(probability, 4, 1.0)
    np.testing.assert_allclose(late.weight, full[late.row], atol=1e-5)


def test_d4_priorities_are_unweighted_errors() -> None:
    sampler = Prioritized(alpha=1.0, eps=1e-12)
    ring = replay.add(ring_of(4, 1), rollout(2, 1))
    memory = sampler.added(sampler.init(ring), ring, 2, 1)
    index = Index(jnp.arange(2), jnp.zeros(2, jnp.int32), jnp.array([1.0, 0.5]))
    memory = sampler.learned(memory, ring, index, jnp.array([1.0, -2.0]))
    np.testing.assert_allclose(priority.get(memory.tree, jnp.arange(2)), [1, 2], atol=1e-6)


def test_d5_no_drift_in_a_million_updates() -> None:
    size, batch, rounds = 10_000, 1000, 1000
    rng = np.random.default_rng(0)
    leaves = rng.integers(0, size, (rounds, batch))
    values = (10 ** rng.uniform(-4, 4, size)).astype(np.float32)
    tree = tree_of(np.ones(size))

    @jax.jit
    def run(tree: priority.SumTree, leaves: jax.Array) -> priority.SumTree:
        def body(tree: priority.SumTree, x: tuple) -> tuple:
            i, leaf = x
            return priority.put(tree, leaf, jnp.array(values)[(leaf + i) % size]), None

        return jax.lax.scan(body, tree, (jnp.arange(rounds), leaves))[0]

    tree = run(tree, jnp.array(leaves))
    expected = np.ones(size)
    for i in range(rounds):
        expected[leaves[i]] = values[(leaves[i] + i) % size]
    np.testing.assert_array_equal(priority.get(tree, jnp.arange(size)), expected.astype(np.float32))
    assert float(tree.total) == pytest.approx(expected.sum(), rel=1e-5)
    for below, above in zip(tree.levels, tree.levels[1:], strict=False):
        sums = np.asarray(below, np.float64).sum(1)
        np.testing.assert_allclose(np.asarray(above).ravel()[: len(sums)], sums, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 16, 17, 1000, 70_000])
def test_d5_the_edges_of_the_interval_hit_valid_leaves(size: int) -> None:
    rng = np.random.default_rng(size)
    values = np.where(rng.random(size) < 0.3, 10 ** rng.uniform(-30, 30, size), 0.0)
    values[-1] = 0.0 if size > 1 else 1.0
    values[size // 2] = 1.0
    tree = tree_of(values)
    total = np.float32(tree.total)
    u = np.concatenate(
        [
            [0.0, np.nextafter(total, np.float32(0)), total, total * np.float32(1.001)],
            total * rng.random(2000),
            10 ** rng.uniform(-30, np.log10(total), 2000),
        ]
    ).astype(np.float32)
    leaf = np.asarray(find(tree, jnp.array(u)))
    assert (leaf >= 0).all() and (leaf < size).all()
    assert (values[leaf] > 0).all()


def test_frequencies_equal_the_priorities() -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(size=300) * (rng.random(300) < 0.7)
    tree = tree_of(values)
    draws = 200 * 1000
    u = priority.stratified(jax.random.key(0), draws, tree.total)
    counts = np.bincount(np.asarray(find(tree, u)), minlength=300)
    # stratified: a leaf is hit once for each part it covers, give or take one at either end
    assert np.abs(counts - draws * values / values.sum()).max() < 3.0


def test_stratified_points_lie_one_in_each_part() -> None:
    u = np.asarray(priority.stratified(jax.random.key(1), 50, jnp.array(100.0)))
    np.testing.assert_array_equal(np.floor(u / 2), np.arange(50))


def test_d6_new_transitions_get_the_largest_priority() -> None:
    sampler = Prioritized(alpha=0.5, eps=1e-12)
    ring = replay.add(ring_of(5, 1), rollout(2, 1))
    memory = sampler.added(sampler.init(ring), ring, 2, 1)
    index = Index(jnp.arange(2), jnp.zeros(2, jnp.int32), jnp.ones(2))
    memory = sampler.learned(memory, ring, index, jnp.array([1.0, 4.0]))
    ring = replay.add(ring, rollout(1, 1))
    memory = sampler.added(memory, ring, 1, 1)
    assert float(priority.get(memory.tree, jnp.array(2)) / memory.tree.total) == pytest.approx(0.4)


@pytest.mark.parametrize(("n", "stack"), [(1, 1), (3, 1), (2, 3)])
def test_only_whole_windows_have_priority(n: int, stack: int) -> None:
    """After every addition, the leaves above zero are exactly the windows `replay` may draw."""
    ring, sampler = ring_of(12, 2, stack), Prioritized()
    memory = sampler.init(ring)
    add = jax.jit(replay.add)
    added = jax.jit(lambda m, r, steps: sampler.added(m, r, steps, n), static_argnums=2)
    for steps in (1, 3, 3, 1, 3, 3, 1, 3, 3, 1, 1, 3):
        ring = add(ring, rollout(steps, 2, stack))
        memory = added(memory, ring, steps)
        count = int(replay.windows(ring, n))
        ages = np.arange(n, n + count)
        allowed = np.zeros((13, 2), bool)
        allowed[(int(ring.head.value) - ages) % 13] = True
        have = np.asarray(priority.get(memory.tree, jnp.arange(26))).reshape(13, 2) > 0
        np.testing.assert_array_equal(have, allowed)
    index = sampler.draw(memory, ring, jax.random.key(0), 500, n, jnp.array(0.0))
    assert allowed[np.asarray(index.row), np.asarray(index.env)].all()
    assert len(set(zip(np.asarray(index.row), np.asarray(index.env), strict=True))) == 2 * count


def test_lanes_equal_single_trees() -> None:
    values = np.random.default_rng(0).random((3, 500)).astype(np.float32)
    u = np.random.default_rng(1).random((3, 64)).astype(np.float32) * 200
    leaves = jnp.arange(500)
    trees = jax.vmap(put, in_axes=(None, None, 0))(priority.empty(500), leaves, values)
    together = jax.vmap(find)(trees, u)
    for i in range(3):
        np.testing.assert_array_equal(together[i], find(tree_of(values[i]), u[i]))


def test_huge_and_tiny_errors_stay_finite() -> None:
    sampler = Prioritized(alpha=1.0)
    ring = replay.add(ring_of(4, 1), rollout(3, 1))
    memory = sampler.added(sampler.init(ring), ring, 3, 1)
    index = Index(jnp.arange(3), jnp.zeros(3, jnp.int32), jnp.ones(3))
    memory: Priorities = sampler.learned(memory, ring, index, jnp.array([0.0, 1e38, 1e-38]))
    assert np.isfinite(float(memory.tree.total))
    assert (np.asarray(priority.get(memory.tree, jnp.arange(3))) > 0).all()
    drawn = sampler.draw(memory, ring, jax.random.key(0), 8, 1, jnp.array(0.0))
    assert np.isfinite(np.asarray(drawn.weight)).all()
