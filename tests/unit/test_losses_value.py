"""Targets and losses of value-based agents against numbers worked by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.losses import value as losses


def test_d1_double_q_chooses_online_and_evaluates_target() -> None:
    online, target = jnp.array([[1.0, 2.0]]), jnp.array([[5.0, 3.0]])
    assert losses.double_value(online, target)[0] == 3
    assert losses.max_value(online, target)[0] == 5


def test_masked_actions_are_never_chosen() -> None:
    q, mask = jnp.array([[1.0, 9.0, 2.0]]), jnp.array([[True, False, True]])
    assert losses.greedy(q, mask)[0] == 2
    assert losses.max_value(q, q, mask)[0] == 2
    assert losses.double_value(q, jnp.array([[5.0, 6.0, 7.0]]), mask)[0] == 7


def test_d2_dueling_is_centred_over_actions() -> None:
    advantage = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]])
    q = losses.dueling(jnp.array([[1.0], [0.0]]), advantage)
    np.testing.assert_allclose(q, [[0, 1, 2], [-2, -2, 4]], atol=1e-6)


def test_d4_weights_multiply_each_loss() -> None:
    error, weight = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.5])
    assert losses.weighted_mean(error**2, weight) == pytest.approx(1.5)


def test_d13_huber() -> None:
    assert losses.huber(jnp.array(3.0)) == pytest.approx(2.5)
    assert jax.grad(losses.huber)(3.0) == pytest.approx(1.0)
    assert jax.grad(losses.huber)(-3.0) == pytest.approx(-1.0)
    assert losses.huber(jnp.array(-0.5)) == pytest.approx(0.125)
    assert jax.grad(losses.huber)(0.25) == pytest.approx(0.25)
    assert losses.huber(jnp.array(3.0), 2.0) == pytest.approx(4.0)


def test_d14_a_trailing_axis_is_refused() -> None:
    one, two = jnp.array([1.0, 2.0]), jnp.array([[1.0], [2.0]])
    for call in (
        lambda: losses.td_target(one, one, two),
        lambda: losses.td_target(one, two, one),
        lambda: losses.weighted_mean(one, two),
        lambda: losses.soft_value(jnp.stack([one, one]), two, 0.1),
    ):
        with pytest.raises(ValueError, match="broadcasting"):
            call()


def test_d16_no_gradient_through_the_target() -> None:
    ones = jnp.ones(2)
    gradient = jax.grad(lambda v: losses.td_target(ones, ones, v).sum())(ones)
    np.testing.assert_array_equal(gradient, 0)


def test_td_target() -> None:
    target = losses.td_target(jnp.array([1.0, 2.71]), jnp.array([0.0, 0.729]), jnp.full(2, 10.0))
    np.testing.assert_allclose(target, [1.0, 10.0], atol=1e-5)


def test_chosen_and_its_gradient() -> None:
    q, action = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])
    np.testing.assert_array_equal(losses.chosen(q, action), [2, 3])
    gradient = jax.grad(lambda q: losses.chosen(q, action).sum())(q)
    np.testing.assert_array_equal(gradient, [[0, 1], [1, 0]])


def test_soft_value_takes_the_least_critic_and_pays_for_log_prob() -> None:
    q = jnp.array([[1.0, 5.0], [2.0, 3.0]])  # [K, B]
    value = losses.soft_value(q, jnp.array([-1.0, 2.0]), 0.5)
    np.testing.assert_allclose(value, [1.5, 2.0])


def test_c4_temperature_falls_while_entropy_exceeds_the_target() -> None:
    gradient = jax.grad(losses.temperature_loss)(0.0, jnp.array([-0.5]), -1.0)
    assert gradient == pytest.approx(1.5)


def test_s10_polyak_direction() -> None:
    assert losses.polyak(jnp.array(1.0), jnp.array(3.0), 0.005) == pytest.approx(1.01)
