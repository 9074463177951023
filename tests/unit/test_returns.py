"""Numbers of ../shared/silent_bugs.md S1-S3, P1, and GAE against a plain loop and rlax."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import returns
from jaxrl.types import Rollout, Spec

FALSE = jnp.zeros((1, 1), bool)
TRUE = jnp.ones((1, 1), bool)


def column(*values: float) -> jnp.ndarray:
    return jnp.array(values, jnp.float32)[:, None]


def test_truncation_bootstraps_from_the_true_final_observation() -> None:
    # r = 1, gamma = .99, V(final) = 10, V(next episode's start) = 3: 10.9, not 1.0 or 3.97.
    v_tp1 = returns.next_values(column(5), jnp.array([3.0]), column(10), TRUE, 1)
    advantage = returns.gae(column(1), column(0), v_tp1, FALSE, TRUE, 0.99, 0.95)
    assert advantage.item() == pytest.approx(10.9, abs=1e-5)


def test_termination_does_not_bootstrap() -> None:
    v_tp1 = returns.next_values(column(5), jnp.array([3.0]), column(10), FALSE, 1)
    advantage = returns.gae(column(1), column(0), v_tp1, TRUE, FALSE, 0.99, 0.95)
    assert advantage.item() == pytest.approx(1.0)


def test_gae_does_not_leak_over_a_termination() -> None:
    terminated = jnp.array([[False], [True], [False], [False]])
    v = column(0.5, 0.6, 0.7, 0.8)
    v_tp1 = jnp.concatenate([v[1:], column(0.9)])
    got = returns.gae(column(1, 1, 1, 1), v, v_tp1, terminated, terminated & False, 0.99, 0.95)
    np.testing.assert_allclose(got[:, 0], [1.4702, 0.4, 2.118086, 1.091], atol=1e-5)


def test_gae_of_a_truncation_in_the_middle() -> None:
    # V(final) = 2 at t = 1: the advantage there is 1 + .99 * 2 - .6 = 2.38, not .994 or 1.
    truncated = jnp.array([[False], [True], [False], [False]])
    v = column(0.5, 0.6, 0.7, 0.8)
    v_tp1 = returns.next_values(v, jnp.array([0.9]), column(0, 2, 0, 0), truncated, 1)
    got = returns.gae(column(1, 1, 1, 1), v, v_tp1, truncated & False, truncated, 0.99, 0.95)
    assert got[1, 0] == pytest.approx(2.38, abs=1e-5)
    # The trace is cut there: t = 2 and 3 do not reach t = 1.
    np.testing.assert_allclose(got[2:, 0], [2.118086, 1.091], atol=1e-5)


def test_gae_against_a_loop_and_rlax() -> None:
    rlax = pytest.importorskip("rlax")
    rng = np.random.default_rng(0)
    T, N, gamma, lam = 50, 3, 0.97, 0.9
    reward, v, v_tp1 = rng.normal(size=(3, T, N)).astype(np.float32)
    terminated = rng.random((T, N)) < 0.1
    truncated = (rng.random((T, N)) < 0.1) & ~terminated
    expected = np.zeros((T, N))
    carry = np.zeros(N)
    for t in reversed(range(T)):
        delta = reward[t] + gamma * v_tp1[t] * ~terminated[t] - v[t]
        carry = delta + gamma * lam * carry * ~(terminated[t] | truncated[t])
        expected[t] = carry
    got = returns.gae(*map(jnp.asarray, (reward, v, v_tp1, terminated, truncated)), gamma, lam)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    # rlax knows no truncation: compare where there is none.
    values = np.concatenate([v[:, 0], v_tp1[-1:, 0]])
    mine = returns.gae(
        *map(jnp.asarray, (reward[:, :1], v[:, :1], values[1:, None])),
        jnp.asarray(terminated[:, :1]),
        jnp.zeros((T, 1), bool),
        gamma,
        lam,
    )
    theirs = rlax.truncated_generalized_advantage_estimation(
        jnp.asarray(reward[:, 0]), gamma * ~terminated[:, 0], lam, jnp.asarray(values)
    )
    np.testing.assert_allclose(mine[:, 0], theirs, atol=1e-4)


def test_final_rows_are_found_by_the_time_limit() -> None:
    # L = 3: truncations of one environment are at least three steps apart, one row per three steps.
    truncated = jnp.array([0, 1, 0, 0, 0, 0, 1], bool)[:, None]
    final = column(10, 20, 30)
    got = returns.next_values(column(*range(7)), jnp.array([7.0]), final, truncated, 3)
    np.testing.assert_allclose(got[:, 0], [1, 10, 3, 4, 5, 6, 30])


def test_one_critic_pass_covers_rollout_last_and_final() -> None:
    seen: list[tuple[int, ...]] = []

    def value(obs: jnp.ndarray) -> jnp.ndarray:
        seen.append(obs.shape)
        return obs[..., 0] * 10

    T, N = 6, 2
    obs = jnp.arange(T * N, dtype=jnp.float32).reshape(T, N, 1)
    truncated = jnp.zeros((T, N), bool).at[4, 1].set(True)
    zeros = jnp.zeros((T, N))
    rollout = Rollout(
        obs=obs,
        action=zeros,
        reward=zeros,
        terminated=zeros > 0,
        truncated=truncated,
        first=zeros > 0,
        last_obs=jnp.full((N, 1), 50.0),
        final_obs=jnp.full((2, N, 1), 99.0),
        extras=(),
        memory=None,
        last_memory=None,
    )
    spec = Spec(None, None, time_limit=4)  # pyright: ignore[reportArgumentType]
    v, v_tp1 = returns.rollout_values(value, rollout, spec)
    assert seen == [(T + 1 + 2, N, 1)]
    np.testing.assert_allclose(v, obs[..., 0] * 10)
    assert v_tp1[4, 1] == 990
    assert v_tp1[4, 0] == obs[5, 0, 0] * 10
    np.testing.assert_allclose(v_tp1[-1], 500)


def test_rewards_to_go() -> None:
    # r = [1, 2, 3], gamma = .5: [2.75, 3.5, 3], not the full return three times.
    terminated = jnp.array([False, False, True])
    got = returns.discounted(jnp.array([1.0, 2, 3]), jnp.array(100.0), terminated, 0.5)
    np.testing.assert_allclose(got, [2.75, 3.5, 3.0])
    got = returns.discounted(jnp.array([1.0, 2, 3]), jnp.array(8.0), terminated & False, 0.5)
    np.testing.assert_allclose(got, [3.75, 5.5, 7.0])
