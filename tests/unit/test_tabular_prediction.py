"""Prediction with tables: by hand, against plain loops, and against the forward view."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import behaviour, episodes, planning, spaces, stepsizes, traces
from jaxrl.agents.tabular import importance_sampling
from jaxrl.envs.tabular.blackjack import encode
from jaxrl.mdp import MDP
from jaxrl.types import Rollout, Spec

S, GAMMA, LR = 5, 0.9, 0.2
SPEC = Spec(spaces.Discrete(S), spaces.Discrete(2), 1, steps=1000)


@dataclasses.dataclass
class Seen:
    s: int
    r: float
    to: int
    terminated: bool = False
    truncated: bool = False
    first: bool = False
    a: int = 0


def stream(seed: int, steps: int = 60, cut: bool = True) -> list[list[Seen]]:
    """Whole episodes."""
    rng = np.random.default_rng(seed)
    found: list[list[Seen]] = [[]]
    s = 0
    for _ in range(steps):
        to, end = int(rng.integers(S)), rng.random()
        x = Seen(s, float(rng.normal()), to, end < 0.12, cut and 0.12 <= end < 0.25)
        x = dataclasses.replace(x, first=not found[-1], a=int(rng.integers(2)))
        found[-1].append(x)
        s = to
        if x.terminated or x.truncated:
            found.append([])
            s = int(rng.integers(S))
    return found[:-1]


def values(agent: Any, played: list[list[Seen]], chunk: int | None = None) -> np.ndarray:
    seen = [x for episode in played for x in episode]
    chunk = chunk or len(seen)
    agent = dataclasses.replace(agent, num_steps=chunk)
    state = agent.init(jax.random.key(0), SPEC)
    update = jax.jit(lambda state, played, key: agent.update(state, played, key)[0])
    for i in range(0, len(seen), chunk):
        part = seen[i : i + chunk]

        def stack(name: str, dtype: Any, part: list[Seen] = part) -> jax.Array:
            return jnp.asarray(np.array([getattr(x, name) for x in part], dtype)[:, None])

        rollout = Rollout(
            obs=stack("s", np.int32), action=stack("a", np.int32), reward=stack("r", np.float32),
            terminated=stack("terminated", bool), truncated=stack("truncated", bool),
            first=stack("first", bool), last_obs=stack("to", np.int32)[-1],
            final_obs=stack("to", np.int32), extras=(), memory=None, last_memory=None,
        )  # fmt: skip
        state = update(state, rollout, jax.random.key(i))
    return np.asarray(state.table.values)


def two_states() -> list[list[Seen]]:
    """A -> B -> T, rewards 0 and 1."""
    return [[Seen(0, 0.0, 1, first=True), Seen(1, 1.0, 2, True)]]


def twice() -> list[list[Seen]]:
    """s -> s -> T, rewards 0 and 1."""
    return [[Seen(0, 0.0, 0, first=True), Seen(0, 1.0, 2, True)]]


HAND: dict[str, Any] = dict(gamma=0.9, lam=0.8, lr=0.1)

# ---------------------------------------------------------------------------------------- traces


@pytest.mark.parametrize("trace", [traces.Dense(), traces.Recent(16)])
def test_the_first_state_gets_its_share(trace: Any) -> None:
    """T5: a trace decayed before its use would give .05184."""
    got = values(jaxrl.TDLambda(**HAND, trace=trace), two_states(), 1)
    assert got[:2] == pytest.approx([0.072, 0.1])


def test_accumulating_and_replacing() -> None:
    """T6"""
    accumulating = jaxrl.TDLambda(**HAND, kind=traces.accumulating)
    replacing = jaxrl.TDLambda(**HAND, kind=traces.replacing)
    assert values(accumulating, twice())[0] == pytest.approx(0.172)
    assert values(replacing, twice())[0] == pytest.approx(0.1)


@pytest.mark.parametrize("agent", [jaxrl.TDLambda, jaxrl.TrueOnlineTD])
@pytest.mark.parametrize("trace", [traces.Dense(), traces.Recent(16)])
@pytest.mark.parametrize("cut", [False, True])
def test_traces_end_with_their_episode(agent: Any, trace: Any, cut: bool) -> None:
    """T7: what happens in the second episode is nothing to the first one's states."""
    one = two_states()
    one[0][-1] = dataclasses.replace(one[0][-1], terminated=not cut, truncated=cut)
    two = [[Seen(3, 1.0, 4, True, first=True)]]
    agent = agent(**HAND, trace=trace)
    np.testing.assert_allclose(values(agent, one + two)[:2], values(agent, one)[:2])


def interim_return(episode: list[Seen], t: int, h: int, lam: float, v: list[np.ndarray]) -> float:
    """The lambda-return of time t as known at time h, from its definition; v[k] are the values at
    time k (Sutton and Barto, equation 12.9 and section 12.4)."""

    def n_step(end: int) -> float:
        g = sum(GAMMA ** (k - t) * episode[k].r for k in range(t, end))
        last = episode[end - 1]
        return g + (0 if last.terminated else GAMMA ** (end - t) * v[end - 1][last.to])

    total = sum((1 - lam) * lam ** (end - t - 1) * n_step(end) for end in range(t + 1, h))
    return total + lam ** (h - t - 1) * n_step(h)


def test_true_online_is_the_online_lambda_return() -> None:
    """At every horizon the values are as if all updates were made anew with what is known."""
    lam, v = 0.8, np.zeros(S)
    played = stream(0, 50)
    for episode in played:
        start, now = v.copy(), [v.copy()]
        for h in range(1, len(episode) + 1):
            fresh = start.copy()
            for t in range(h):
                g = interim_return(episode, t, h, lam, now)
                fresh[episode[t].s] += LR * (g - fresh[episode[t].s])
            now.append(fresh)
        v = now[-1]
    got = values(jaxrl.TrueOnlineTD(gamma=GAMMA, lam=lam, lr=LR), played, chunk=1)
    np.testing.assert_allclose(got, v, atol=1e-5)


def test_off_line_lambda_return_from_its_definition() -> None:
    lam, v = 0.8, np.zeros(S)
    played = stream(1)
    for episode in played:
        still = [v.copy()] * (len(episode) + 1)
        for t, x in enumerate(episode):
            v[x.s] += LR * (interim_return(episode, t, len(episode), lam, still) - v[x.s])
    agent = jaxrl.LambdaReturn(gamma=GAMMA, lam=lam, lr=LR, horizon=64)
    np.testing.assert_allclose(values(agent, played), v, atol=1e-5)
    np.testing.assert_allclose(values(agent, played, 1), v, atol=1e-5)


# ---------------------------------------------------------------------------------------- n steps


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, None])
def test_n_step_td_is_the_books_loop(n: int, chunk: int | None) -> None:
    v = np.zeros(S)
    played = stream(2)
    for episode in played:
        for t in range(len(episode) + n - 1):
            tau = t - n + 1
            if tau < 0:
                continue
            stop = min(tau + n, len(episode))
            g = sum(GAMMA ** (k - tau) * episode[k].r for k in range(tau, stop))
            last = episode[stop - 1]
            if not last.terminated:
                g += GAMMA ** (stop - tau) * v[last.to]
            v[episode[tau].s] += LR * (g - v[episode[tau].s])
    got = values(jaxrl.TD(gamma=GAMMA, lr=LR, n_steps=n), played, chunk)
    np.testing.assert_allclose(got, v, atol=1e-5)


def test_td_zero_with_means() -> None:
    """The n-th step is 1 / n."""
    seen = [[Seen(0, r, 1, True, first=True)] for r in (1.0, 2.0, 6.0)]
    agent = jaxrl.TD(lr=1.0, decay=stepsizes.harmonic, initial=50.0)
    assert values(agent, seen)[0] == pytest.approx(3.0)


# ------------------------------------------------------------------------------------ Monte Carlo


def test_first_and_every_visit() -> None:
    """T3: s -> s -> T, rewards 1 and 2."""
    seen = [[Seen(0, 1.0, 0, first=True), Seen(0, 2.0, 1, True)]]
    first = jaxrl.MonteCarlo(gamma=1.0, horizon=8)
    every = jaxrl.MonteCarlo(gamma=1.0, horizon=8, visits=episodes.every_visit)
    assert values(first, seen)[0] == pytest.approx(3.0)
    assert values(every, seen)[0] == pytest.approx(2.5)
    again = [*seen, [Seen(0, 7.0, 1, True, first=True)]]  # a first visit again, in a new episode
    assert values(first, again, 1)[0] == pytest.approx(5.0)


def test_returns_are_discounted() -> None:
    """s -> s' -> T, rewards 1 and 2, gamma 0.5: 1 + 0.5 * 2, and 2."""
    seen = [[Seen(0, 1.0, 1, first=True), Seen(1, 2.0, 2, True)]]
    got = values(jaxrl.MonteCarlo(gamma=0.5, horizon=8), seen)
    np.testing.assert_allclose(got[:2], [2.0, 2.0])


def test_what_is_older_than_the_horizon_is_forgotten() -> None:
    seen = [[Seen(i, 1.0, i + 1, i == 3, first=i == 0) for i in range(4)]]
    got = values(jaxrl.MonteCarlo(gamma=1.0, horizon=2), seen)
    assert got.tolist() == [0, 0, 2, 1, 0]


@pytest.mark.parametrize("name", ["ordinary", "weighted"])
def test_importance_sampling_by_hand(name: str) -> None:
    """T14: two choices with ratios 1.8 and 0.2, returns 3 and 2; then 0.2 and return 5."""
    target = ((0.9, 0.1),) * S
    seen = [
        [Seen(0, 1.0, 1, first=True, a=0), Seen(1, 2.0, 2, True, a=1)],
        [Seen(1, 5.0, 2, True, first=True, a=1)],
        [Seen(1, 1.0, 2, True, first=True, a=0)],
    ]
    agent = jaxrl.ImportanceSampling(
        gamma=1.0, target=target, weighing=getattr(importance_sampling, name), horizon=8
    )
    got = values(agent, seen)
    if name == "ordinary":  # of state 1: the mean of .2 * 2, .2 * 5 and 1.8 * 1
        assert got[:2] == pytest.approx([1.8 * 0.2 * 3, (0.4 + 1.0 + 1.8) / 3])
    else:
        assert got[:2] == pytest.approx([3.0, (0.4 + 1.0 + 1.8) / (0.2 + 0.2 + 1.8)])


# ------------------------------------------------------------------------------- against the truth


def test_a_policy_that_is_given_is_followed() -> None:
    policy = behaviour.rows(np.array([[0, 1], [0, 1], [1, 0], [0, 1], [0, 1]]))
    agent = jaxrl.TD(policy=policy)
    state = agent.init(jax.random.key(0), SPEC)
    for explore in (True, False):
        out = agent.act(state, jnp.arange(S), jax.random.key(1), explore)
        assert out.action.tolist() == [1, 1, 0, 1, 1]
    for bad, words in (
        (((1.0, 0.0),) * 3, r"shape \(3, 2\), but the task has 5 states and 2 actions"),
        (((0.7, 0.7),) * 5, "does not sum to 1"),
        (((1.5, -0.5),) * 5, "negative"),
    ):
        with pytest.raises(ValueError, match=words):
            jaxrl.TD(policy=bad).init(jax.random.key(0), SPEC)
        with pytest.raises(ValueError, match=words):
            jaxrl.ImportanceSampling(target=bad).init(jax.random.key(0), SPEC)


@functools.cache
def sticking() -> tuple[Any, behaviour.Rows, np.ndarray, np.ndarray]:
    """Blackjack, the policy of example 5.1 that sticks on 20 and 21, its values from the linear
    equations, and the hands on which it hits."""
    env: Any = jaxrl.envs.Blackjack()
    sticks = np.arange(env.obs_space.n) // 22 >= 20
    seen = np.asarray(jax.vmap(env.observe)(jnp.arange(env.num_states)))
    found = planning.evaluate_linear(MDP.from_env(env, 1.0), jnp.asarray(~sticks[seen], jnp.int32))
    values = np.asarray(found.v)[: env.obs_space.n]
    hands = [
        encode(total, dealer, usable)
        for total in range(12, 20)
        for dealer in range(1, 11)
        for usable in (False, True)
    ]
    return env, behaviour.rows(np.eye(2)[(~sticks).astype(int)]), values, np.array(hands)


def test_example_5_4() -> None:
    """The dealer shows a deuce, the player has 13 and a usable ace. The book's number is the mean
    of 10^8 returns, with a standard error of 1e-4."""
    _, _, values, _ = sticking()
    assert values[encode(13, 2, True)] == pytest.approx(-0.27726, abs=2e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda rows: jaxrl.ImportanceSampling(target=rows),
        pytest.param(lambda rows: jaxrl.MonteCarlo(policy=rows), marks=pytest.mark.slow),
        pytest.param(
            lambda rows: jaxrl.TD(policy=rows, lr=1.0, decay=stepsizes.harmonic),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_blackjack_is_predicted(build: Any) -> None:
    """Off-policy from random play, and on-policy, through the driver. Off-policy a hundred returns
    of a hand that is seldom dealt follow the policy: its standard error is 0.1."""
    env, rows, values, hands = sticking()
    agent = dataclasses.replace(build(rows), gamma=1.0, num_envs=50, num_steps=20)
    if hasattr(agent, "horizon"):
        agent = dataclasses.replace(agent, horizon=16)
    result = jaxrl.train(agent, env, jax.random.key(0), steps=800_000, progress=False)
    error = (np.asarray(result.state.table.values) - values)[hands]
    assert np.sqrt(np.mean(error**2)) < 0.15 and abs(error.mean()) < 0.02


@pytest.mark.parametrize(
    "agent",
    [
        jaxrl.TD(lr=1.0, gamma=1.0, decay=stepsizes.Polynomial(0.7), n_steps=2, initial=0.5),
        pytest.param(
            jaxrl.TrueOnlineTD(lr=0.02, gamma=1.0, lam=0.8, initial=0.5), marks=pytest.mark.slow
        ),
        pytest.param(jaxrl.MonteCarlo(gamma=1.0, horizon=200), marks=pytest.mark.slow),
    ],
)
def test_the_random_walk_is_learned(agent: Any) -> None:
    """Place i of 5 is worth i / 6; 20 runs, a few thousand episodes each."""
    env = jaxrl.envs.make("RandomWalk5-v0")
    keys = jax.random.split(jax.random.key(0), 20)
    result = jaxrl.train(agent, env, keys, steps=16_000, progress=False, lanes=20)
    got = np.asarray(result.state.table.values)[:, 1:6]
    np.testing.assert_allclose(got.mean(0), np.arange(1, 6) / 6, atol=0.02)
