"""Densities against SciPy and by hand, masks, saturation, and sampling frequencies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.distributions import Categorical, MultiCategorical, Normal, TanhNormal

ZERO = jnp.zeros(1)


@pytest.mark.parametrize(
    ("u", "half_width", "expected"),
    [(0.5, 1.0, -0.80371), (10.0, 1.0, -32.305233), (0.5, 2.0, -1.496857)],
)
def test_c3_tanh_log_prob(u: float, half_width: float, expected: float) -> None:
    policy = TanhNormal(ZERO, ZERO, 0.0, half_width)
    assert policy.log_prob_unsquashed(jnp.array([u])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("center", "half_width"), [(0.0, 1.0), (3.0, 2.0)])
def test_c3b_density_integrates_to_one(center: float, half_width: float) -> None:
    policy = TanhNormal(jnp.array([0.3]), jnp.array([-0.5]), center, half_width)
    n = 200_000
    grid = center + half_width * (2 * (np.arange(n) + 0.5) / n - 1)
    density = np.exp(np.asarray(policy.log_prob(jnp.array(grid, jnp.float32)[:, None]), float))
    assert density.sum() * 2 * half_width / n == pytest.approx(1.0, abs=1e-4)


def test_tanh_sample_and_log_prob_agree_with_log_prob() -> None:
    policy = TanhNormal(jnp.zeros((500, 2)), jnp.full((500, 2), -0.3), 1.0, 2.0)
    action, log_prob = policy.sample_and_log_prob(jax.random.key(0))
    np.testing.assert_allclose(policy.log_prob(action), log_prob, rtol=1e-3, atol=1e-3)
    assert action.min() > -1 and action.max() < 3 and log_prob.shape == (500,)


def test_tanh_stays_finite_when_saturated() -> None:
    def both(loc: jax.Array, u: jax.Array) -> jax.Array:
        policy = TanhNormal(loc, ZERO)
        return policy.log_prob_unsquashed(u) + policy.log_prob(jnp.tanh(u))

    for u in (30.0, -30.0, 1e4):
        value, gradient = jax.value_and_grad(both)(ZERO, jnp.array([u]))
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_c9_mode_is_the_squashed_mean() -> None:
    policy = TanhNormal(jnp.array([1.0]), ZERO, 0.0, 2.0)
    assert policy.mode()[0] == pytest.approx(2 * 0.761594, abs=1e-5)


def test_tanh_entropy_estimate_is_exact_for_small_spread() -> None:
    policy = TanhNormal(jnp.array([0.7]), jnp.array([-5.0]), 0.0, 3.0)
    draws = jax.vmap(policy.sample_and_log_prob)(jax.random.split(jax.random.key(0), 4000))
    assert policy.entropy() == pytest.approx(-float(draws[1].mean()), abs=0.05)


def test_normal_against_numpy() -> None:
    rng = np.random.default_rng(0)
    loc, log_std, x = rng.normal(size=(3, 5, 2))
    policy = Normal(jnp.array(loc), jnp.array(log_std))
    std = np.exp(log_std)
    right = (-((x - loc) ** 2) / (2 * std**2) - np.log(std * np.sqrt(2 * np.pi))).sum(-1)
    np.testing.assert_allclose(policy.log_prob(jnp.array(x)), right, rtol=1e-4, atol=1e-4)
    entropy = np.log(std * np.sqrt(2 * np.pi * np.e)).sum(-1)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-5, atol=1e-5)
    shared = Normal(jnp.array(loc), jnp.array(log_std[0]))  # one log_std for the whole batch
    assert shared.entropy().shape == (5,)
    draws = Normal(jnp.full(20_000, 2.0), jnp.full(20_000, -1.0)).sample(jax.random.key(0))
    assert draws.mean() == pytest.approx(2.0, abs=0.02)
    assert draws.std() == pytest.approx(np.exp(-1), abs=0.01)


def test_p2_categorical_entropy_and_probabilities() -> None:
    assert Categorical(jnp.zeros(2)).entropy() == pytest.approx(0.693147, abs=1e-6)
    policy = Categorical(jnp.log(jnp.array([0.2, 0.3, 0.5])))
    draws = Categorical(jnp.broadcast_to(policy.logits, (50_000, 3))).sample(jax.random.key(0))
    np.testing.assert_allclose(np.bincount(draws) / 50_000, [0.2, 0.3, 0.5], atol=0.01)
    logs = jax.vmap(policy.log_prob)(jnp.arange(3))
    np.testing.assert_allclose(logs, np.log([0.2, 0.3, 0.5]), rtol=1e-5)
    assert policy.mode() == 2


def test_masked_actions_have_probability_exactly_zero() -> None:
    mask = jnp.array([True, False, True, False])
    policy = Categorical(jnp.array([1.0, 50.0, 2.0, -50.0]), mask)
    np.testing.assert_array_equal(np.asarray(policy.probs)[[1, 3]], 0)
    two = np.exp([1.0, 2.0]) / np.exp([1.0, 2.0]).sum()
    np.testing.assert_allclose(policy.probs[jnp.array([0, 2])], two, rtol=1e-5)
    assert policy.entropy() == pytest.approx(-(two * np.log(two)).sum(), abs=1e-5)
    assert policy.mode() == 2
    draws = jax.vmap(policy.sample)(jax.random.split(jax.random.key(0), 2000))
    assert set(np.asarray(draws)) == {0, 2}
    gradient = jax.grad(lambda x: Categorical(x, mask).entropy())(policy.logits)
    assert np.isfinite(gradient).all() and gradient[1] == 0


def test_entropy_is_not_nan_for_certain_or_infinite_logits() -> None:
    for logits in ([1e6, 0.0], [0.0, -jnp.inf]):
        entropy, gradient = jax.value_and_grad(lambda x: Categorical(x).entropy())(
            jnp.array(logits)
        )
        assert entropy == pytest.approx(0.0) and np.isfinite(gradient).all()


def test_multi_categorical_is_a_product() -> None:
    nvec, logits = (2, 3), jnp.array([[0.0, 1.0, 0.5, 0.0, 2.0]])
    mask = jnp.array([[True, True, True, True, False]])
    policy = MultiCategorical(logits, nvec, mask)
    parts = Categorical(logits[:, :2]), Categorical(logits[:, 2:], mask[:, 2:])
    action = jnp.array([[1, 1]])
    right = sum(p.log_prob(action[:, i]) for i, p in enumerate(parts))
    np.testing.assert_allclose(policy.log_prob(action), right, rtol=1e-6)
    np.testing.assert_allclose(policy.entropy(), sum(p.entropy() for p in parts), rtol=1e-6)
    np.testing.assert_array_equal(policy.mode(), [[1, 0]])
    keys = jax.random.split(jax.random.key(0), 3000)
    draws = np.asarray(jax.vmap(policy.sample)(keys))[:, 0]
    assert set(draws[:, 1]) == {0, 1}
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.06, "the parts must not share a key"
