"""Hand-worked numbers: silent_bugs.md P4-P7, P17, S9, S13."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import optim
from jaxrl.losses import policy as losses


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [(1.5, 1, 1.2), (1.5, -1, -1.5), (0.5, 1, 0.5), (0.5, -1, -0.8)],
)
def test_clipping_takes_the_minimum(ratio: float, advantage: float, objective: float) -> None:
    log_ratio = jnp.log(jnp.array([ratio]))
    loss = losses.clipped_surrogate(log_ratio, jnp.array([float(advantage)]), 0.2)
    assert loss == pytest.approx(-objective, abs=1e-6)


def test_a_clipped_ratio_has_no_gradient() -> None:
    slope = jax.grad(lambda x: losses.clipped_surrogate(x, jnp.ones(1), 0.2))
    assert slope(jnp.log(jnp.array([1.5]))).item() == 0
    assert slope(jnp.zeros(1)).item() == pytest.approx(-1.0)


def test_value_clipping_takes_the_larger_error() -> None:
    # old 1, new 2, target 3, within .2: the error of 1.2, squared and halved, is 1.62, not .5.
    loss = losses.ClippedValueError(0.2)(jnp.array([2.0]), jnp.array([1.0]), jnp.array([3.0]))
    assert loss == pytest.approx(1.62, abs=1e-6)


def test_value_error_is_halved_once() -> None:
    loss = losses.value_error(jnp.array([1.0]), jnp.array([9.0]), jnp.array([2.0]))
    assert loss == pytest.approx(0.5)


def test_kl_estimate() -> None:
    # log(new / old) = .1 everywhere: exp(.1) - 1 - .1.
    assert losses.kl_estimate(jnp.full(4, 0.1)) == pytest.approx(0.005171, abs=1e-6)
    assert losses.kl_estimate(jnp.full(4, -0.1)) == pytest.approx(0.004837, abs=1e-6)


def test_clip_fraction() -> None:
    log_ratio = jnp.log(jnp.array([0.7, 0.9, 1.1, 1.3]))
    assert losses.clip_fraction(log_ratio, 0.2) == pytest.approx(0.5)


def test_normalize() -> None:
    got = losses.normalize(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(got, [-1.224745, 0, 1.224745], atol=1e-5)  # ddof 0
    assert losses.normalize(jnp.array([5.0])).item() == 0
    np.testing.assert_array_equal(losses.normalize(jnp.full(3, 7.0)), 0)


def test_explained_variance() -> None:
    target = jnp.array([1.0, 2.0, 3.0])
    assert losses.explained_variance(target, target) == pytest.approx(1)
    assert losses.explained_variance(jnp.full(3, 2.0), target) == pytest.approx(0, abs=1e-6)


def test_gradients_are_clipped_by_their_global_norm() -> None:
    gradient = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}
    clip = optim.clip(1.0)
    clipped, _ = clip.update(gradient, clip.init(gradient))
    np.testing.assert_allclose(clipped["a"], [0.230769, 0.307692], atol=1e-5)
    np.testing.assert_allclose(clipped["b"], [0.923077], atol=1e-5)


def test_linear_annealing() -> None:
    shares = jnp.arange(10) / 10
    factors = optim.linear(shares)
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0.1)
    assert optim.cosine(jnp.array(0.5)) == pytest.approx(0.5)
    np.testing.assert_array_equal(optim.constant(shares), 1)
