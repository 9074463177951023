"""Moments and the wrapping agents: silent_bugs.md S8, S14-S16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.normalize import Moments, merge, running_returns


def test_merge_of_two_batches() -> None:
    # (mean 0, var 0, n 1e-4) + four samples of mean 2, variance 1.
    start = Moments(jnp.array(0.0), jnp.array(0.0), jnp.array(1e-4))
    got = merge(start, jnp.array([1.0, 3.0, 1.0, 3.0]))
    assert got.mean == pytest.approx(1.99995, abs=1e-5)
    assert got.var == pytest.approx(1.000075, abs=1e-5)


def test_merging_equals_seeing_all_at_once() -> None:
    x = np.random.default_rng(0).normal(3, 2, (1000, 2)).astype(np.float32)
    moments = Moments(jnp.zeros(2), jnp.zeros(2), jnp.array(0.0))
    for part in np.split(x, [10, 400, 401]):
        moments = merge(moments, jnp.asarray(part))
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.var, x.var(0), rtol=1e-4)


def test_variance_of_large_numbers_keeps_its_digits() -> None:
    x = jnp.asarray(1e4 + (np.arange(1000) % 2), jnp.float32)
    start = Moments(jnp.array(0.0), jnp.array(0.0), jnp.array(0.0))
    assert merge(start, x).var == pytest.approx(0.25, rel=1e-3)


def test_running_return_is_reset_after_its_use() -> None:
    ended = jnp.array([False, True, False, False])
    carried, g = running_returns(jnp.array(0.0), jnp.ones(4), ended, 0.5)
    np.testing.assert_allclose(g, [1, 1.5, 1, 1.5])
    assert carried == 1.5


def test_observations_are_normalised_with_the_moments_they_were_played_with() -> None:
    # In the first minibatch of the first epoch the ratio is exactly one, or moments have changed
    # between acting and learning.
    agent = jaxrl.NormalizeObs(jaxrl.PPO(num_steps=16, epochs=1, minibatches=1))
    env = jaxrl.envs.make("CartPole-v1")
    result = jaxrl.train(agent, env, jax.random.key(0), steps=640, log_every=64)
    np.testing.assert_allclose(result.metrics["policy/kl"], 0, atol=1e-6)
    moments = result.state.moments
    assert moments.count == pytest.approx(640, abs=1)
    assert float(moments.var.max()) < 1


def test_evaluation_changes_no_moments() -> None:
    agent = jaxrl.NormalizeObs(jaxrl.NormalizeReward(jaxrl.PPO(num_steps=16)))
    env = jaxrl.envs.make("CartPole-v1")
    result = jaxrl.train(agent, env, jax.random.key(0), steps=640)
    before = jax.tree.map(np.array, result.state)
    jaxrl.evaluate(result, env, episodes=4)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, result.state))


def test_rewards_are_scaled_but_not_shifted() -> None:
    agent = jaxrl.NormalizeReward(jaxrl.PPO(num_steps=64))
    env = jaxrl.envs.make("CartPole-v1")
    result = jaxrl.train(agent, env, jax.random.key(0), steps=5120)
    # Rewards are all one, so discounted returns are positive: a centred reward would not be.
    assert float(result.state.moments.mean) > 1
    assert np.asarray(result.metrics["value/mean"])[-1] > 0


def test_replay_agents_are_refused() -> None:
    env = jaxrl.envs.make("CartPole-v1")
    with pytest.raises(TypeError, match="on-policy"):
        jaxrl.train(jaxrl.NormalizeObs(jaxrl.DQN()), env, jax.random.key(0), steps=1000)
