"""Bandit agents: one pull after another by hand, and testbeds against plain loops."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from benchmarks import book_bandit
from jaxrl import spaces
from jaxrl.agents.bandit import gradient_bandit
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.types import Rollout, Spec

KEY = jax.random.key(0)
ARMS = Spec(spaces.Discrete(1), spaces.Discrete(3), None, 100)
PULLS = [(0, 1.0), (2, -1.0), (0, 2.0), (0, 6.0), (2, 0.5)]


def pulls(rows: list[tuple[int, float]], x: np.ndarray | None = None) -> Rollout:
    action = jnp.asarray([[a] for a, _ in rows], jnp.int32)
    no = jnp.zeros(action.shape, bool)
    obs: Any = jnp.zeros(action.shape, jnp.int32) if x is None else jnp.asarray(x)[:, None]
    reward = jnp.asarray([[r] for _, r in rows], jnp.float32)
    return Rollout(obs, action, reward, no, no, no, obs[-1], (), (), None, None)


def learned(agent: Any, rows: list[tuple[int, float]], spec: Spec = ARMS, x: Any = None) -> Any:
    agent = dataclasses.replace(agent, num_steps=len(rows))
    update = jax.jit(lambda agent, state, seen: agent.update(state, seen, KEY)[0])
    return update(agent, agent.init(KEY, spec), pulls(rows, x))


def chances(agent: Any, state: Any, obs: Any = None, count: int = 20_000) -> np.ndarray:
    """How often each arm is pulled in this state."""
    obs = jnp.zeros(count, jnp.int32) if obs is None else jnp.tile(jnp.asarray(obs), (count, 1))
    action = np.asarray(jax.jit(lambda s, o: agent.act(s, o, jax.random.key(3)).action)(state, obs))
    return np.bincount(action, minlength=3) / count


def test_sample_averages_and_constant_steps() -> None:
    known = learned(jaxrl.ActionValues(initial=5.0), PULLS).known
    np.testing.assert_allclose(known.value, [3.0, 5.0, -0.25], atol=1e-6)
    assert known.pulls.tolist() == [3, 0, 2]
    known = learned(jaxrl.ActionValues(lr=0.5, initial=5.0), PULLS).known
    np.testing.assert_allclose(known.value, [4.25, 5.0, 1.25], atol=1e-6)


def test_epsilon_greedy_chances() -> None:
    agent = jaxrl.ActionValues(exploration=EpsilonGreedy(0.3))
    np.testing.assert_allclose(chances(agent, learned(agent, PULLS)), [0.8, 0.1, 0.1], atol=0.015)
    state = learned(agent, PULLS)
    best = jax.jit(lambda s: agent.act(s, jnp.zeros(2, jnp.int32), KEY, False).action)(state)
    assert best.tolist() == [0, 0]


def test_ucb1_tries_all_and_then_the_upper_bound() -> None:
    agent = jaxrl.UCB1()
    assert chances(agent, learned(agent, PULLS)).tolist() == [0, 1, 0]
    rows = [(0, 1.0)] * 6 + [(1, 0.6)] * 2 + [(2, 0.0)] * 3
    bound = [m + math.sqrt(2 * math.log(11) / n) for m, n in ((1, 6), (0.6, 2), (0, 3))]
    assert np.argmax(bound) == 1  # 1.89, 2.15, 1.26
    assert chances(agent, learned(agent, rows)).tolist() == [0, 1, 0]


def test_the_gradient_bandit_by_hand() -> None:
    """First reward: no advantage. Then -1 - 1 = -2 at probabilities 1/3: h2 falls by .2 * 2/3."""
    agent = jaxrl.GradientBandit(lr=0.1)
    known = learned(agent, PULLS[:2]).known
    np.testing.assert_allclose(known.h, [0.2 / 3, 0.2 / 3, -0.4 / 3], atol=1e-6)
    assert float(known.mean) == 0.0 and int(known.pulls) == 2
    h, mean = np.zeros(3), 0.0
    for i, (a, r) in enumerate(PULLS):
        p = np.exp(h) / np.exp(h).sum()
        b = r if i == 0 else mean
        h = h + 0.1 * (r - b) * (np.eye(3)[a] - p)
        mean += (r - mean) / (i + 1)
    state = learned(agent, PULLS)
    np.testing.assert_allclose(state.known.h, h, atol=1e-6)
    p = np.exp(h) / np.exp(h).sum()
    np.testing.assert_allclose(chances(agent, state), p, atol=0.015)
    plain = jaxrl.GradientBandit(lr=0.1, baseline=gradient_bandit.nothing)
    known = learned(plain, PULLS[:1]).known
    np.testing.assert_allclose(known.h, [0.2 / 3, -0.1 / 3, -0.1 / 3], atol=1e-6)


def test_beliefs_by_hand() -> None:
    rows = [(0, 1.0), (0, 1.0), (0, 0.0), (2, 0.0)]
    known = learned(jaxrl.BernoulliThompson(ones=1.0, zeros=2.0), rows).known
    assert known.ones.tolist() == [3, 1, 1] and known.zeros.tolist() == [3, 2, 3]
    # Precision 1/4 + 2 * 4; mean of the rewards with the weights of prior and noise.
    agent = jaxrl.GaussianThompson(mean=1.0, spread=2.0, noise=0.5)
    known = learned(agent, [(1, 2.0), (1, 4.0)]).known
    np.testing.assert_allclose(known.precision, [0.25, 8.25, 0.25], atol=1e-5)
    np.testing.assert_allclose(known.mean, [1, (0.25 + 4 * 6) / 8.25, 1], atol=1e-5)
    wider = learned(dataclasses.replace(agent, drift=3.0), [(1, 2.0)]).known
    np.testing.assert_allclose(1 / wider.precision, [13, 1 / 4.25 + 9, 13], rtol=1e-5)


def test_thompson_sampling_pulls_in_proportion_to_being_best() -> None:
    """Two arms, N(0, 1) and N(1, 1 / 2): P(first > second) = Phi(-1 / sqrt(1.5))."""
    agent = jaxrl.GaussianThompson()
    spec = Spec(spaces.Discrete(1), spaces.Discrete(2), None, 100)
    state = learned(agent, [(1, 2.0)], spec)
    want = 0.5 * math.erfc(1 / math.sqrt(1.5) / math.sqrt(2))
    assert chances(agent, state)[0] == pytest.approx(want, abs=0.012)
    # Beta(1, 1) against Beta(3, 1): P(u > x) = 1 - E[x] = 1/4
    agent = jaxrl.BernoulliThompson()
    assert chances(agent, learned(agent, [(1, 1.0)] * 2, spec))[0] == pytest.approx(0.25, abs=0.012)


def ridge_loop(x: np.ndarray, rows: list[tuple[int, float]], ridge: float) -> Any:
    A = np.stack([ridge * np.eye(3)] * 3)
    b = np.zeros((3, 3))
    for v, (a, r) in zip(x, rows, strict=True):
        A[a] += np.outer(v, v)
        b[a] += r * v
    return np.linalg.inv(A), np.stack([np.linalg.solve(A[i], b[i]) for i in range(3)])


def contexts() -> tuple[np.ndarray, list[tuple[int, float]]]:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(30, 2)), np.ones((30, 1))], 1).astype(np.float32)
    return x, [(int(rng.integers(3)), float(rng.normal())) for _ in range(30)]


CONTEXT = Spec(spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3), None, 100)


def test_lin_ucb_is_ridge_regression() -> None:
    x, rows = contexts()
    agent = jaxrl.LinUCB(width=1.5, ridge=0.5)
    state = learned(agent, rows, CONTEXT, x[:, :2])
    inverse, theta = ridge_loop(x, rows, 0.5)
    np.testing.assert_allclose(state.known.inverse, inverse, atol=1e-5)
    np.testing.assert_allclose(state.known.theta, theta, atol=1e-5)
    rng = np.random.default_rng(1)
    fresh = rng.normal(size=(200, 2)).astype(np.float32)
    ones = np.concatenate([fresh, np.ones((200, 1), np.float32)], 1)
    spread = np.sqrt(np.einsum("ni,aij,nj->na", ones, inverse, ones))
    want = (ones @ theta.T + 1.5 * spread).argmax(1)
    greedy = (ones @ theta.T).argmax(1)
    assert (want != greedy).mean() > 0.1
    np.testing.assert_array_equal(agent.act(state, jnp.asarray(fresh), KEY).action, want)
    np.testing.assert_array_equal(agent.act(state, jnp.asarray(fresh), KEY, False).action, greedy)


def test_linear_thompson_draws_from_the_ridge_belief() -> None:
    x, rows = contexts()
    agent = jaxrl.LinearThompson(width=2.0, ridge=0.5)
    state = learned(agent, rows, CONTEXT, x[:, :2])
    inverse, theta = ridge_loop(x, rows, 0.5)
    v = np.array([0.5, -1.0, 1.0])
    mean, spread = theta @ v, 2.0 * np.sqrt(np.einsum("i,aij,j->a", v, inverse, v))
    rng = np.random.default_rng(2)
    drawn = (mean + spread * rng.normal(size=(200_000, 3))).argmax(1)
    want = np.bincount(drawn, minlength=3) / 200_000
    got = chances(agent, state, v[:2].astype(np.float32))
    np.testing.assert_allclose(got, want, atol=0.015)


# ---------------------------------------------------------------------------------- testbeds

SMALL = 300


@pytest.mark.parametrize(
    "name",
    [
        "epsilon 0.1",
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in sorted(set(book_bandit.METHODS) - {"epsilon 0.1"})
        ),
    ],
)
def test_testbeds_agree_with_a_plain_loop(name: str) -> None:
    """Figures 2.2 and 2.5, in small: share of the best arm over pulls 301 to 500."""
    got = book_bandit.testbed(name, SMALL, 500, 300)
    want = book_bandit.loop(name, SMALL, 500, 300)
    assert abs(got[0] - want[0]) < 4 * math.hypot(got[1], want[1])


@pytest.mark.slow
def test_regret_grows_with_the_logarithm() -> None:
    """Arms .8 and .6: as the plain loop; from 1000 to 10,000 pulls the regret of Thompson sampling
    grows by no more than Lai and Robbins's 1.91 log(10) = 4.4, and that of UCB1 stays below Auer's
    8 log(T) / gap + (1 + pi^2 / 3) gap."""
    assert book_bandit.lai_robbins(10) == pytest.approx(4.4, abs=0.01)
    early = {x: book_bandit.regret(x, SMALL, 1000) for x in book_bandit.REGRET}
    for name, (mean, spread) in early.items():
        want = book_bandit.regret_loop(name, SMALL, 1000)
        assert abs(mean - want[0]) < 4 * math.hypot(spread, want[1])
    late, spread = book_bandit.regret("Thompson", SMALL, 10_000)
    assert 1.5 - 4 * spread < late - early["Thompson"][0] < 4.4 + 4 * spread
    assert early["Thompson"][0] < early["UCB1"][0] < 8 * math.log(1000) / 0.2 + 1


@pytest.mark.slow
def test_contexts_are_used() -> None:
    """Ten arms, five numbers in a context: after 500 pulls nearly every choice is the best. Weights
    are N(0, 1) and the noise is .1: ridge = .1^2 and width = .1 are the exact belief."""
    for cls in (jaxrl.LinUCB, jaxrl.LinearThompson):
        agent = cls(width=0.1, ridge=0.01)
        assert book_bandit.contextual(agent, 50, 500)[0] > 0.85


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match="jaxrl.LinUCB"):
        jaxrl.UCB1().init(KEY, CONTEXT)
    with pytest.raises(TypeError, match="jaxrl.SAC"):
        jaxrl.UCB1().init(KEY, Spec(spaces.Discrete(1), spaces.Box(-1.0, 1.0, (1,))))
