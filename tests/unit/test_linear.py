"""Linear learning: with one-hot features it is learning with tables, and with shared ones it is the
plain loop of the book."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import eligibility, features, spaces, traces
from jaxrl.behaviour import UCB, EpsilonGreedy
from jaxrl.features import Fourier, OneHot, TileCoding
from jaxrl.types import Rollout, Spec

S, A, GAMMA, LR, LAM, EPS = 5, 3, 0.9, 0.25, 0.8, 0.3
SPEC = Spec(spaces.Discrete(S), spaces.Discrete(A), 1, steps=1000)
TABLE = np.random.default_rng(7).normal(size=(S, 4)).astype(np.float32) / 2
SHARED = features.given(TABLE)
TILES = TileCoding(tilings=3, tiles=2)


@dataclasses.dataclass
class Seen:
    """One transition."""

    s: int
    a: int
    r: float
    to: int
    terminated: bool = False
    truncated: bool = False
    first: bool = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


def stream(seed: int, steps: int = 48) -> list[Seen]:
    """Episodes of random lengths with both kinds of end; the next one starts somewhere else."""
    rng = np.random.default_rng(seed)
    seen: list[Seen] = []
    s, first = 0, True
    for _ in range(steps):
        a, to, end = int(rng.integers(A)), int(rng.integers(S)), rng.random()
        x = Seen(s, a, float(rng.normal()), to, end < 0.12, 0.12 <= end < 0.25, first)
        seen.append(x)
        s, first = (int(rng.integers(S)) if x.ended else to), x.ended
    return seen


def rollout(seen: list[Seen], envs: int = 1) -> Rollout:
    """[T, envs]; `seen` is in order of time, and within a step of environment."""
    steps = len(seen) // envs

    def stack(name: str, dtype: Any) -> jax.Array:
        return jnp.asarray(np.array([getattr(x, name) for x in seen], dtype).reshape(steps, envs))

    return Rollout(
        obs=stack("s", np.int32),
        action=stack("a", np.int32),
        reward=stack("r", np.float32),
        terminated=stack("terminated", bool),
        truncated=stack("truncated", bool),
        first=stack("first", bool),
        last_obs=stack("to", np.int32)[-1],
        final_obs=stack("to", np.int32),  # time limit 1: a row for each step
        extras=jnp.ones((steps, envs)),  # pi / mu for n-step SARSA with tables
        memory=None,
        last_memory=None,
    )


def state(agent: Any, seen: list[Seen], chunk: int | None = None) -> Any:
    """After all of `seen`, given in rollouts of `chunk` steps."""
    envs = agent.num_envs
    chunk = chunk or len(seen) // envs
    agent = dataclasses.replace(agent, num_steps=chunk)
    now = agent.init(jax.random.key(0), SPEC)
    update = jax.jit(lambda agent, state, played: agent.update(state, played, KEY)[0])
    for i in range(0, len(seen), chunk * envs):
        now = update(agent, now, rollout(seen[i : i + chunk * envs], envs))
    return now


KEY = jax.random.key(0)


def learned(agent: Any, seen: list[Seen], chunk: int | None = None) -> np.ndarray:
    return np.asarray(state(agent, seen, chunk).weights.w)


def tabled(agent: Any, seen: list[Seen]) -> np.ndarray:
    return np.asarray(state(agent, seen).table.values)


# ------------------------------------------------------- one feature per observation is a table

KW: dict[str, Any] = dict(lr=LR, gamma=GAMMA)
ACT: dict[str, Any] = dict(KW, exploration=EpsilonGreedy(EPS))
SAME: dict[str, tuple[Any, Any]] = {
    "Q-learning": (jaxrl.LinearQLearning(**ACT), jaxrl.QLearning(**ACT)),
    "Expected SARSA": (jaxrl.LinearExpectedSARSA(**ACT), jaxrl.ExpectedSARSA(**ACT)),
    "SARSA": (jaxrl.LinearSARSA(**ACT), jaxrl.SARSA(**ACT)),
    "3-step SARSA": (jaxrl.LinearSARSA(**ACT, n_steps=3), jaxrl.SARSA(**ACT, n_steps=3)),
    "SARSA(lambda)": (
        jaxrl.LinearSARSALambda(**ACT, lam=LAM, kind=eligibility.replacing_trace),
        jaxrl.SARSALambda(**ACT, lam=LAM, kind=traces.replacing),
    ),
    "true online SARSA(lambda)": (
        jaxrl.LinearTrueOnlineSARSA(**ACT, lam=LAM),
        jaxrl.TrueOnlineSARSA(**ACT, lam=LAM),
    ),
    "TD(0)": (jaxrl.LinearTD(**KW), jaxrl.TD(**KW)),
    "4-step TD": (jaxrl.LinearTD(**KW, n_steps=4), jaxrl.TD(**KW, n_steps=4)),
    "TD(lambda)": (jaxrl.LinearTDLambda(**KW, lam=LAM), jaxrl.TDLambda(**KW, lam=LAM)),
    "true online TD(lambda)": (
        jaxrl.LinearTrueOnlineTD(**KW, lam=LAM),
        jaxrl.TrueOnlineTD(**KW, lam=LAM),
    ),
}


AGAIN = {name for name in SAME if "(lambda)" in name}
"""Beside a plain loop below."""


def some(names: Any, slow: Any) -> list[Any]:
    return [pytest.param(x, marks=pytest.mark.slow) if x in slow else x for x in names]


@pytest.mark.parametrize("name", some(SAME, AGAIN))
def test_one_hot_features_are_a_table(name: str) -> None:
    linear, table = SAME[name]
    seen = stream(1)
    want = tabled(table, seen)
    got = learned(dataclasses.replace(linear, features=OneHot()), seen)
    np.testing.assert_allclose(got, want.T, atol=1e-5)
    assert np.abs(want).max() > 0.1


@pytest.mark.parametrize(
    "name", some(["3-step SARSA", "true online SARSA(lambda)", "4-step TD"], AGAIN | {"4-step TD"})
)
def test_two_environments_are_two_streams(name: str) -> None:
    linear, table = (dataclasses.replace(x, num_envs=2) for x in SAME[name])
    a, b = stream(2, 24), stream(3, 24)
    seen = [x for pair in zip(a, b, strict=True) for x in pair]
    got = learned(dataclasses.replace(linear, features=OneHot()), seen)
    np.testing.assert_allclose(got, tabled(table, seen).T, atol=1e-5)


# -------------------------------------------------------------------------------- shared features


def vectors(basis: Any) -> np.ndarray:
    """[S, n]"""
    x = basis(SPEC.obs_space, jnp.arange(S))
    return np.asarray(features.dense(x, basis.size(SPEC.obs_space)), np.float64)


def soft(q: np.ndarray) -> np.ndarray:
    best = q == q.max()
    return EPS / len(q) + (1 - EPS) * best / best.sum()


def td_loop(seen: list[Seen], basis: Any, kind: str) -> np.ndarray:
    """TD(lambda) as in the book, sections 12.2 and 12.5."""
    X = vectors(basis)
    rates = basis.rates(SPEC.obs_space)
    alpha = LR / (basis.active(SPEC.obs_space) or 1) * (1 if rates is None else np.asarray(rates))
    w, z, old = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0.0
    for x in seen:
        here, there = X[x.s], X[x.to] * (not x.terminated)
        v, v2 = w @ here, w @ there
        delta = x.r + GAMMA * v2 - v
        if kind == "true online":
            z = GAMMA * LAM * z + (1 - GAMMA * LAM * (alpha * z) @ here) * here
            old = v if x.first else old
            w = w + alpha * ((delta + v - old) * z - (v - old) * here)
        else:
            z = GAMMA * LAM * z
            z = np.where(here > 0, 1.0, z) if kind == "replacing" else z + here
            w = w + alpha * delta * z
        old = v2
        if x.ended:
            z = np.zeros_like(z)
    return w


CASES: list[tuple[Any, Any, str]] = [
    (jaxrl.LinearTDLambda(), SHARED, "accumulating"),
    (jaxrl.LinearTDLambda(), Fourier(2), "accumulating"),
    (jaxrl.LinearTDLambda(), TILES, "accumulating"),
    (jaxrl.LinearTDLambda(kind=eligibility.replacing_trace), TILES, "replacing"),
    (jaxrl.LinearTrueOnlineTD(), SHARED, "true online"),
    (jaxrl.LinearTrueOnlineTD(), Fourier(2), "true online"),
    (jaxrl.LinearTrueOnlineTD(), TILES, "true online"),
]


DENSE, RECENT = traces.Dense(), traces.Recent(48)
PAIRS = [(i, DENSE) for i in range(7)] + [(i, RECENT) for i in (2, 3, 6)]
TWICE = {(1, DENSE), (2, DENSE), (4, DENSE), (6, DENSE), (2, RECENT)}


@pytest.mark.parametrize("pair", some(PAIRS, TWICE))
def test_td_lambda_is_the_loop(pair: Any) -> None:
    agent, basis, kind = CASES[pair[0]]
    seen = stream(4)
    agent = dataclasses.replace(agent, features=basis, lr=LR, gamma=GAMMA, lam=LAM, trace=pair[1])
    np.testing.assert_allclose(learned(agent, seen), td_loop(seen, basis, kind), atol=1e-5)


def sarsa_loop(seen: list[Seen], basis: Any, kind: str) -> np.ndarray:
    """SARSA(lambda) with binary features and true online SARSA(lambda), section 12.7. A transition
    is learned from when the next action is known, a cut one with the mean over the policy."""
    X = vectors(basis)
    alpha = LR / (basis.active(SPEC.obs_space) or 1)
    w, z, old = np.zeros((A, X.shape[1])), np.zeros((A, X.shape[1])), 0.0

    def learn(x: Seen, after: float) -> float:
        nonlocal w, z
        here = np.zeros_like(w)
        here[x.a] = X[x.s]
        q = (w * here).sum()
        delta = x.r + GAMMA * after - q
        if kind == "true online":
            z = GAMMA * LAM * z + (1 - alpha * GAMMA * LAM * (z * here).sum()) * here
            w = w + alpha * ((delta + q - old) * z - (q - old) * here)
            return q
        z = GAMMA * LAM * z
        if kind == "accumulating":
            z = z + here
        else:
            if kind == "clearing":
                z[:, X[x.s] > 0] = 0
            z[here > 0] = 1
        w = w + alpha * delta * z
        return q

    for i, x in enumerate(seen):
        if not x.first:
            after = w[x.a] @ X[x.s]
            learn(seen[i - 1], after)
            old = after
        else:
            old = w[x.a] @ X[x.s]
        if x.ended:
            q = w @ X[x.to]
            learn(x, 0.0 if x.terminated else soft(q) @ q)
            z = np.zeros_like(z)
    return w


KINDS: dict[str, Callable[..., Any]] = {
    "accumulating": eligibility.accumulating_trace,
    "replacing": eligibility.replacing_trace,
    "clearing": eligibility.clearing_trace,
}


EVERY = [(kind, trace) for kind in (*KINDS, "true online") for trace in (DENSE, RECENT)]
FEWER = {("accumulating", RECENT), ("replacing", DENSE), ("true online", DENSE)}


@pytest.mark.parametrize("case", some(EVERY, FEWER))
def test_sarsa_lambda_is_the_loop(case: Any) -> None:
    kind, trace = case
    cls = jaxrl.LinearTrueOnlineSARSA if kind == "true online" else jaxrl.LinearSARSALambda
    more = {"kind": KINDS[kind]} if kind in KINDS else {}
    agent = cls(**ACT, lam=LAM, features=TILES, trace=trace, **more)
    seen = stream(5)
    np.testing.assert_allclose(learned(agent, seen), sarsa_loop(seen, TILES, kind), atol=1e-5)


def test_true_online_sarsa_with_arrays_is_the_loop() -> None:
    agent = jaxrl.LinearTrueOnlineSARSA(**ACT, lam=LAM, features=SHARED)
    seen = stream(6)
    want = sarsa_loop(seen, SHARED, "true online")
    np.testing.assert_allclose(learned(agent, seen, 12), want, atol=1e-5)


def test_a_ring_forgets_what_is_old() -> None:
    """With two rows: the loop in which a trace is cut after two steps."""
    X, w = vectors(TILES), np.zeros(9)
    seen = [x for x in stream(7) if not x.ended][:12]
    for i, x in enumerate(seen):
        x.first, x.s = i == 0, seen[i - 1].to if i else x.s
    past: list[np.ndarray] = []
    for x in seen:
        past = [X[x.s], *past][:2]
        delta = x.r + GAMMA * w @ X[x.to] - w @ X[x.s]
        w = w + LR / 3 * delta * sum((GAMMA * 0.1) ** k * p for k, p in enumerate(past))
    agent = jaxrl.LinearTDLambda(**KW, lam=0.1, features=TILES, trace=traces.Recent(2))
    np.testing.assert_allclose(learned(agent, seen), w, atol=1e-5)
    with pytest.raises(ValueError, match=r"traces.Recent\("):
        learned(dataclasses.replace(agent, lam=0.9), seen)


def test_a_feature_named_twice_is_set_to_one() -> None:
    """Two tiles that share a number by a hash: a replacing trace of it is 1, not 2."""
    x = features.Active(jnp.array([3, 1, 3], jnp.int32))

    @jax.jit
    def found() -> Any:
        results = []
        for kept in (eligibility.Whole(1, 5), eligibility.Ring(4, 3, 5)):
            zero, one = jnp.array(0), jnp.array(1.0)
            twice = kept.put(kept.put(kept.init(), x, zero), x, zero)
            z = kept.push(kept.init(), x, zero, 1.0)
            moved = [kept.move(jnp.zeros(5), y, one, None) for y in (twice, z)]
            results.append((*moved, kept.dot(z, x, zero)))
        return results

    for put, pushed, dot in found():
        assert put.tolist() == [0, 1, 0, 1, 0]
        assert pushed.tolist() == [0, 1, 0, 2, 0]
        assert float(dot) == 5.0


def test_n_step_sarsa_with_shared_features_by_hand() -> None:
    """Two states with the features (1, 0) and (1, 1): two rewards and the pair after them."""
    basis = features.given([[1, 0], [1, 1], [0, 0], [0, 0], [0, 0]])
    agent = jaxrl.LinearSARSA(**ACT, features=basis, n_steps=2)
    seen = [Seen(0, 0, 1.0, 1, first=True), Seen(1, 1, 2.0, 0), Seen(0, 0, 4.0, 1, True)]
    # (0, 0): G = 1 + .9 * 2 + .81 * 0 = 2.8 -> w[0] = .7 (1, 0)
    # (1, 1): G = 2 + .9 * 4 = 5.6 -> w[1] = 1.4 (1, 1); then (0, 0): 4 - .7 -> .7 + .825
    np.testing.assert_allclose(learned(agent, seen), [[1.525, 0], [1.4, 1.4], [0, 0]], atol=1e-5)


def test_the_differential_error_by_hand() -> None:
    """delta = r - m + q' - q; the mean reward moves too."""
    agent = jaxrl.DifferentialSARSA(
        lr=0.5, lr_mean=0.1, features=OneHot(), exploration=EpsilonGreedy(EPS)
    )
    seen = [
        Seen(0, 0, 2.0, 1, first=True), Seen(1, 1, 1.0, 0), Seen(0, 0, 4.0, 2),
        Seen(2, 2, 7.0, 1, terminated=True), Seen(3, 0, 1.0, 0, first=True),
    ]  # fmt: skip
    # 2 - 0 + 0 - 0 = 2: q(0,0) = 1, m = .2
    # 1 - .2 + q(0,0) - 0 = 1.8: q(1,1) = .9, m = .38
    # 4 - .38 + 0 - 1 = 2.62: q(0,0) = 2.31, m = .642; the last one before the end is not learned.
    now = state(agent, seen)
    want = np.zeros((3, 5))
    want[0, 0], want[1, 1] = 2.31, 0.9
    np.testing.assert_allclose(now.weights.w, want, atol=1e-6)
    assert float(now.weights.extra) == pytest.approx(0.642)


def test_differential_sarsa_finds_the_best_average() -> None:
    """Action 1 pays 1 and stays, action 0 pays 0 now and 3 in the next step: 1.5 on average."""

    spec = Spec(spaces.Discrete(2), spaces.Discrete(2), None, 3000)
    agent = jaxrl.DifferentialSARSA(
        lr=0.1, lr_mean=0.02, features=OneHot(), exploration=EpsilonGreedy(0.1)
    )

    def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        now, s = carry
        a = agent.act(now, s[None], key).action[0]
        r = jnp.where(s == 1, 3.0, jnp.where(a == 1, 1.0, 0.0))
        to = jnp.where((s == 0) & (a == 0), 1, 0).astype(jnp.int32)
        no = jnp.zeros((1, 1), bool)
        played = Rollout(
            s[None, None], a[None, None], r[None, None], no, no, no, to[None], (), (), None, None
        )
        return (agent.update(now, played, key)[0], to), r

    begin = (agent.init(KEY, spec), jnp.zeros((), jnp.int32))
    (now, _), rewards = jax.jit(lambda keys: jax.lax.scan(step, begin, keys))(
        jax.random.split(jax.random.key(1), 3000)
    )
    assert float(rewards[-1000:].mean()) > 1.4
    assert float(now.weights.extra) == pytest.approx(float(rewards[-1000:].mean()), abs=0.1)
    w = np.asarray(now.weights.w)
    assert w[0, 0] > w[1, 0]


# ------------------------------------------------------------------------------------ acting


def test_masks_hide_actions() -> None:
    box = spaces.Box(0, 1, (A,), bool)
    space = spaces.Dict({"observation": spaces.Discrete(S), "action_mask": box})
    spec = Spec(space, spaces.Discrete(A), 1, 100)
    agent = jaxrl.LinearQLearning(**KW, features=OneHot(), exploration=EpsilonGreedy(1.0))
    now = agent.init(KEY, spec)
    w = jnp.asarray(np.arange(S * A).reshape(S, A).T, jnp.float32)
    now = dataclasses.replace(now, weights=dataclasses.replace(now.weights, w=w))
    obs = {
        "observation": jnp.full(64, 2, jnp.int32),
        "action_mask": jnp.tile(jnp.array([True, True, False]), (64, 1)),
    }
    act = jax.jit(lambda explore: agent.act(now, obs, KEY, explore).action, static_argnums=0)
    assert set(np.asarray(act(True))) == {0, 1}
    assert set(np.asarray(act(False))) == {1}
    one = jax.tree.map(lambda x: x[:1], obs)
    played = dataclasses.replace(
        rollout([Seen(2, 0, 0.0, 2)]),
        obs=jax.tree.map(lambda x: x[None], one),
        last_obs=one,
        final_obs=jax.tree.map(lambda x: x[None], one),
    )
    after = jax.jit(lambda now: agent.update(now, played, KEY)[0].weights.w)(now)
    assert float(after[0, 2]) == pytest.approx(6 + LR * (GAMMA * 7 - 6))  # 8 is not allowed


def test_lr_is_shared_by_the_active_features() -> None:
    """lr = 1 goes all the way to the target, however many tilings there are."""
    for tilings in (1, 8):
        agent = jaxrl.LinearTD(lr=1.0, features=TileCoding(tilings, 2))
        now = state(agent, [Seen(1, 0, 3.0, 2, True, first=True)])
        x = agent.features(SPEC.obs_space, jnp.array(1))
        assert float(features.dot(now.weights.w, x)) == pytest.approx(3.0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        jaxrl.LinearSARSALambda(features=SHARED, kind=eligibility.clearing_trace).init(KEY, SPEC)
    with pytest.raises(ValueError, match="trace=traces.Dense"):
        jaxrl.LinearTDLambda(features=SHARED, trace=RECENT).init(KEY, SPEC)
    with pytest.raises(TypeError, match="behaviour.EpsilonGreedy"):
        jaxrl.LinearSARSA(features=OneHot(), exploration=UCB()).init(KEY, SPEC)
    with pytest.raises(TypeError, match="jaxrl.SAC"):
        jaxrl.LinearSARSA().init(KEY, Spec(SPEC.obs_space, spaces.Box(-1.0, 1.0, (1,))))
    with pytest.raises(ValueError, match="not off-policy"):
        jaxrl.LinearTrueOnlineTD(target=lambda s: s, features=OneHot()).init(KEY, SPEC)
    with pytest.raises(ValueError, match="low="):
        env = jaxrl.envs.make("CartPole-v1")
        jaxrl.LinearSARSA().init(KEY, Spec(env.obs_space, env.action_space))


def test_mountain_car_is_learned() -> None:
    """Figure 12.10, in small: the mean of the first 50 episodes is about 192 there; without traces
    it is above 260, and a policy that does not learn needs thousands of steps."""
    env = jaxrl.envs.MountainCar()
    agent = jaxrl.LinearSARSALambda(
        features=TileCoding(8, 8, low=(-1.2, -0.07), high=(0.5, 0.07)),
        lr=1.3,
        lam=0.96,
        gamma=1.0,
        kind=eligibility.clearing_trace,
        exploration=EpsilonGreedy(0.0),
    )
    keys = jax.random.split(jax.random.key(0), 8)
    run = jaxrl.train(agent, env, keys, steps=9_600, log_every=9_600)  # about 50 episodes
    steps = np.asarray(run.metrics["episode/length"])
    assert 170 < steps.mean() < 215
