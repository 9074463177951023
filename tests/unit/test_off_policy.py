"""Gradient, emphatic and least-squares TD: by hand, on Baird's counterexample, and by solves."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from benchmarks import book_linear
from jaxrl import behaviour, features, least_squares, rollout, spaces
from jaxrl.agents.linear import emphatic_td, gradient_td
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.envs.tabular import baird
from jaxrl.features import Active, OneHot
from jaxrl.mdp import MDP, Sparse
from jaxrl.types import Rollout, Spec

KEY = jax.random.key(0)
PAIR = features.given([[1.0, 0.0], [1.0, 2.0]])
SPEC = Spec(spaces.Discrete(2), spaces.Discrete(2), 1, steps=100)


def target(s: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.array([0.25, 0.75]), (*s.shape, 2))


def played(rows: list[tuple[int, int, float, int, bool]]) -> Rollout:
    """(s, a, r, s', terminated), one environment."""
    s, a, r, to, over = (np.array(x)[:, None] for x in zip(*rows, strict=True))
    after = jnp.asarray(to, jnp.int32)
    first = np.concatenate([[[True]], over[:-1]])
    return Rollout(
        obs=jnp.asarray(s, jnp.int32),
        action=jnp.asarray(a, jnp.int32),
        reward=jnp.asarray(r, jnp.float32),
        terminated=jnp.asarray(over),
        truncated=jnp.zeros(over.shape, bool),
        first=jnp.asarray(first),
        last_obs=after[-1],
        final_obs=after,
        extras=(),
        memory=None,
        last_memory=None,
    )


def learned(agent: Any, rows: list[tuple[int, int, float, int, bool]], spec: Spec = SPEC) -> Any:
    agent = dataclasses.replace(agent, num_steps=len(rows))
    update = jax.jit(lambda agent, state, seen: agent.update(state, seen, KEY)[0])
    return update(agent, agent.init(KEY, spec), played(rows)).weights


STEPS = [(0, 1, 1.0, 1, False), (1, 0, 2.0, 0, True), (1, 1, -1.0, 0, False)]
"""Ratios 1.5, .5, 1.5 for the target above and a uniform policy."""


def test_ratios_weigh_semi_gradient_td() -> None:
    """w = 0: +.1 * 1.5 * 1 (1, 0) = (.15, 0); error 2 - .15 = 1.85: +.1 * .5 * 1.85 (1, 2);
    w = (.2425, .185): error -1 + .9 * .2425 - .6125 = -1.39425: -.2091375 (1, 2)."""
    agent = jaxrl.LinearTD(features=PAIR, lr=0.1, gamma=0.9, target=target)
    np.testing.assert_allclose(learned(agent, STEPS).w, [0.0333625, -0.233275], atol=1e-6)


def loop(kind: str, lr: float, second: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """As in the book, section 11.7."""
    X, rho = np.array(PAIR.rows), {0: 0.5, 1: 1.5}
    w, v = np.zeros(2), np.zeros(2)
    for s, a, r, to, over in STEPS * 3:
        x, x2, c = X[s], X[to], gamma * (not over)
        delta = r + c * w @ x2 - w @ x
        if kind == "GTD2":
            new = w + lr * rho[a] * (x - c * x2) * (x @ v)
        else:
            new = w + lr * rho[a] * (delta * x - c * x2 * (x @ v))
        w, v = new, v + second * rho[a] * (delta - v @ x) * x
    return w, v


@pytest.mark.parametrize("name", ["GTD2", "TDC"])
def test_gradient_td_is_the_loop(name: str) -> None:
    agent = getattr(jaxrl, name)(features=PAIR, lr=0.1, lr_second=0.2, gamma=0.9, target=target)
    got = learned(agent, STEPS * 3)
    w, v = loop(name, 0.1, 0.2, 0.9)
    np.testing.assert_allclose(got.w, w, atol=1e-6)
    np.testing.assert_allclose(got.extra, v, atol=1e-6)


def test_gradient_td_by_hand_with_active_features() -> None:
    """v . x = .5 with x = (1, 0, 1) and x' = (0, 1, 0): GTD2 moves by .1 * .5 (x - .9 x'), TDC by
    .1 (2 x - .9 * .5 x')."""
    x, after = Active(jnp.array([0, 2])), Active(jnp.array([1]))
    w, v = jnp.zeros(3), jnp.array([0.25, 7.0, 0.25])
    rest = (x, after, jnp.array(2.0), jnp.array(0.9), jnp.array(0.1))
    np.testing.assert_allclose(gradient_td.gtd2(w, v, *rest), [0.05, -0.045, 0.05], atol=1e-6)
    np.testing.assert_allclose(gradient_td.tdc(w, v, *rest), [0.2, -0.045, 0.2], atol=1e-6)
    got = gradient_td.second(v, x, jnp.array(2.0), jnp.array(0.1))
    np.testing.assert_allclose(got, [0.4, 7.0, 0.4], atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_emphatic_td_is_the_loop(lam: float) -> None:
    """Followon, emphasis and trace as in the book, sections 11.8, 12.11; interest 1, 3."""
    X, rho, interest = np.array(PAIR.rows), {0: 0.5, 1: 1.5}, (1.0, 3.0)
    w, z, f, before, first = np.zeros(2), np.zeros(2), 0.0, 0.0, True
    for s, a, r, to, over in STEPS * 2:
        delta = r + 0.9 * (not over) * w @ X[to] - w @ X[s]
        f = interest[s] + (0.0 if first else 0.9 * before * f)
        m = lam * interest[s] + (1 - lam) * f
        z = rho[a] * (0.9 * lam * (0 if first else z) + m * X[s])
        w = w + 0.1 * delta * z
        before, first = rho[a], over
    agent = jaxrl.EmphaticTD(
        features=PAIR, lr=0.1, gamma=0.9, lam=lam, target=target, weight=lambda s: 1.0 + 2.0 * s
    )
    np.testing.assert_allclose(learned(agent, STEPS * 2).w, w, atol=1e-5)


# ------------------------------------------------------------------------------ Baird, expected

X7 = baird.FEATURES
GAMMA = 0.99


def expected(step: Any, sweeps: int, start: Any) -> np.ndarray:
    """`step(carry)` again and again; the largest value of a state on the way, and at the end."""

    def body(carry: Any, _: None) -> tuple[Any, jax.Array]:
        carry = step(carry)
        return carry, jnp.max(jnp.abs(X7 @ carry[0]))

    return np.asarray(jax.lax.scan(body, start, None, length=sweeps)[1])


def deltas(w: jax.Array) -> jax.Array:
    """Of the seven states when the target policy goes to state 6; all rewards are 0."""
    return GAMMA * X7[6] @ w - X7 @ w


def test_semi_gradient_td_diverges_on_baird() -> None:
    """Figure 11.2: expected updates, lr .01."""
    one = jax.vmap(lambda x, d: 0.01 * d * x)

    def step(carry: Any) -> Any:
        (w,) = carry
        return (w + one(X7, deltas(w)).mean(0),)

    size = expected(step, 1000, (jnp.asarray(baird.START_WEIGHTS),))
    assert size[-1] > 2 * size[499] > 8 * size[0] / 2


@pytest.mark.parametrize("name", ["gtd2", "tdc"])
def test_gradient_td_does_not_diverge_on_baird(name: str) -> None:
    """Figure 11.5: expected updates with the library's own step, lr .005 and second step size .05.
    In expectation rho is 1 for the target's action, and every state is as likely."""
    rule = getattr(gradient_td, name)

    def step(carry: Any) -> Any:
        w, v = carry
        d = deltas(w)

        def change(x: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
            lr, second = jnp.array(0.005), jnp.array(0.05)
            moved = rule(w, v, x, jnp.asarray(X7[6]), delta, jnp.array(GAMMA), lr)
            return moved - w, gradient_td.second(v, x, delta, second) - v

        dw, dv = jax.vmap(change)(jnp.asarray(X7), d)
        return w + dw.mean(0), v + dv.mean(0)

    start = (jnp.asarray(baird.START_WEIGHTS), jnp.zeros(8))
    size = expected(step, 3000, start)
    assert size.max() < 1.5 * size[0]
    assert size[-1] < 0.5 * size[0]


def test_emphatic_td_does_not_diverge_on_baird() -> None:
    """Figure 11.6: expected updates at the steady emphasis m = (I - gamma P^T)^-1 d; lr .03."""
    P = np.zeros((7, 7))
    P[:, 6] = 1  # the target policy
    m = jnp.asarray(np.linalg.solve(np.eye(7) - GAMMA * P.T, np.full(7, 1 / 7)), jnp.float32)
    # The followon of the library comes to it: state 6 is entered with ratio 7, else with 0.
    f = jnp.zeros(7)
    for _ in range(2000):
        enter = jnp.zeros(7).at[6].set(jnp.sum(emphatic_td.followon(f, 1.0, GAMMA, 0.0)))  # pyright: ignore
        f = enter + 1 / 7
    np.testing.assert_allclose(f, m, rtol=1e-4)

    def step(carry: Any) -> Any:
        (w,) = carry
        return (w + 0.03 * (m * deltas(w)) @ X7 / m.sum(),)

    size = expected(step, 3000, (jnp.asarray(baird.START_WEIGHTS),))
    assert size.max() < 1.5 * size[0] and size[-1] < 0.2 * size[0]


@pytest.mark.slow
def test_sampled_updates_on_baird() -> None:
    """The agents themselves in the environment: semi-gradient TD leaves the others far behind."""
    env = jaxrl.envs.Baird()
    basis = features.given(X7)
    size = {}
    spec = Spec(env.obs_space, env.action_space, None, 1000)
    for cls, kw in (
        (jaxrl.LinearTD, {"lr": 0.01}),
        (jaxrl.TDC, {"lr": 0.005, "lr_second": 0.05}),
    ):
        agent = cls(
            features=basis,
            gamma=GAMMA,
            policy=behaviour.rows([baird.BEHAVIOUR] * 7),
            target=behaviour.rows([[0.0, 1.0]] * 7),
            num_steps=1000,
            **kw,
        )
        state = agent.init(KEY, spec)
        start = dataclasses.replace(state.weights, w=jnp.asarray(baird.START_WEIGHTS))
        state = dataclasses.replace(state, weights=start)

        def run(agent: Any, state: Any, key: jax.Array) -> jax.Array:
            streams = rollout.start(agent, env, key)
            _, seen, _ = rollout.collect(agent, env, spec, state, streams, key)
            return agent.update(state, seen, key)[0].weights.w

        keys = jax.random.split(jax.random.key(1), 20)
        w = jax.jit(jax.vmap(run, (None, None, 0)))(agent, state, keys)
        size[cls] = float(jnp.median(jnp.linalg.norm(w, axis=-1)))
    assert size[jaxrl.LinearTD] > 30 and size[jaxrl.TDC] < 15, size


# ------------------------------------------------------------------------------- least squares


def test_sherman_morrison() -> None:
    rng = np.random.default_rng(0)
    m, u, v = rng.normal(size=(5, 5)) + 4 * np.eye(5), rng.normal(size=5), rng.normal(size=5)
    got = least_squares.sherman_morrison(jnp.asarray(np.linalg.inv(m)), jnp.asarray(u), v)
    np.testing.assert_allclose(got, np.linalg.inv(m + np.outer(u, v)), atol=1e-4)


@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_lstd_is_the_solve(lam: float) -> None:
    rng = np.random.default_rng(1)
    rows, s = [], 0
    for i in range(40):
        to = int(rng.integers(5))
        rows.append((s, int(rng.integers(2)), float(rng.normal()), to, i % 9 == 8))
        s = int(rng.integers(5)) if i % 9 == 8 else to
    table = rng.normal(size=(5, 3)).astype(np.float32)
    spec = Spec(spaces.Discrete(5), spaces.Discrete(2), 1, 40)
    a, b, z = 0.5 * np.eye(3), np.zeros(3), np.zeros(3)
    for s, action, r, to, over in rows:
        z = (0.5 if action == 0 else 1.5) * (0.9 * lam * z + table[s])
        a += np.outer(z, table[s] - 0.9 * (not over) * table[to])
        b += r * z
        z = z * (not over)
    agent = jaxrl.LSTD(features=features.given(table), gamma=0.9, lam=lam, ridge=0.5, target=target)
    got = learned(agent, rows, spec).w
    np.testing.assert_allclose(got, np.linalg.solve(a, b), atol=1e-4)


def test_lstd_on_exact_data_is_exact() -> None:
    """Every transition of the 5-state walk, weighed by its probability."""
    s, to = np.repeat(np.arange(1, 6), 2), np.array([0, 2, 1, 3, 2, 4, 3, 5, 4, 6])
    x = np.eye(7)[s]
    over = (to == 0) | (to == 6)
    w = least_squares.lstd(x, (to == 6) * 1.0, np.eye(7)[to], 1.0 - over, 1e-9)  # pyright: ignore
    np.testing.assert_allclose(w[1:6], np.arange(1, 6) / 6, atol=1e-5)


CHAIN = 20
"""States in a row, as Lagoudakis and Parr have them: an action goes the other way with probability
.1, and being at either end pays 1."""


def chain() -> MDP:
    s, a, k = (x.ravel() for x in np.indices((CHAIN, 2, 2)))
    by = np.where((a == 1) == (k == 0), 1, -1)
    to = np.clip(s + by, 0, CHAIN - 1)
    pays = (to == 0) | (to == CHAIN - 1)
    return MDP.from_transitions(
        s, a, np.where(k == 0, 0.9, 0.1), to, pays * 1.0, num_states=CHAIN, num_actions=2, gamma=0.9
    )


def test_lspi_finds_the_policy_of_value_iteration() -> None:
    """Left in the left half, right in the right one."""
    model = chain().dense()
    P, R = np.asarray(model.P), np.asarray(model.R)
    q = np.zeros((CHAIN, 2))
    for _ in range(2000):
        q = R + 0.9 * P @ q.max(1)
    best = q.argmax(1)
    assert (best == (np.arange(CHAIN) >= CHAIN // 2)).all()
    rng = np.random.default_rng(2)
    s, a = rng.integers(0, CHAIN, 5000), rng.integers(0, 2, 5000)
    to = np.array([rng.choice(CHAIN, p=P[i, j]) for i, j in zip(s, a, strict=True)])
    space = spaces.Discrete(CHAIN)
    reward = ((to == 0) | (to == CHAIN - 1)) * 1.0

    basis = features.Fourier(4)
    found = least_squares.lspi(
        basis(space, jnp.asarray(s)), jnp.asarray(a), jnp.asarray(reward, jnp.float32),
        basis(space, jnp.asarray(to)), jnp.full(5000, 0.9), 2,
    )  # fmt: skip
    got = np.asarray(features.dot(found.w, basis(space, jnp.arange(CHAIN))))
    assert (got.argmax(1) == best).all()
    assert int(found.iterations) < 12 and float(found.change) < 1e-4


def test_lspi_in_an_environment() -> None:
    """Four rollouts of a random policy, each kept; six states, all seen."""
    env = jaxrl.envs.RiverSwim(forward=0.9, first=0.9, last=0.9)
    agent = jaxrl.LSPI(
        features=OneHot(), gamma=0.9, num_steps=500, capacity=2_000, exploration=EpsilonGreedy(1.0)
    )
    run = jaxrl.train(agent, env, KEY, steps=2_000)
    model = MDP.from_env(env, 0.9).dense()
    P, R = np.asarray(model.P), np.asarray(model.R)
    q = np.zeros(R.shape)
    for _ in range(1000):
        q = R + 0.9 * P @ q.max(1)
    data = run.state.weights.extra
    assert int(data.blocks.value) == 4 and float(data.weight.sum()) == 2000
    got = np.asarray(run.state.weights.w).T
    assert (got.argmax(1) == q.argmax(1)).all()
    np.testing.assert_allclose(got, q, atol=0.6)


def test_refusals_say_what_to_type() -> None:
    big = Spec(spaces.Discrete(5000), spaces.Discrete(2), None, 10)
    with pytest.raises(ValueError, match="jaxrl.LinearTDLambda"):
        jaxrl.LSTD(features=OneHot()).init(KEY, big)
    with pytest.raises(ValueError, match="jaxrl.LinearSARSALambda"):
        jaxrl.LSPI(features=OneHot()).init(KEY, big)
    with pytest.raises(ValueError, match="does not sum to 1"):
        jaxrl.TDC(features=OneHot(), target=((0.5, 0.6),) * 2).init(KEY, SPEC)
    with pytest.raises(ValueError, match="capacity=256 or more"):
        jaxrl.LSPI(features=OneHot(), capacity=10).init(KEY, SPEC)


# ------------------------------------------------------------------------------- the long walk


def test_the_long_walk_by_hand() -> None:
    """Place 951: 100 places to the left, 49 to the right; the other 51 jumps end at the right."""
    model = MDP.from_env(jaxrl.envs.make("LongWalk-v0"), 1.0)
    assert isinstance(model.P, Sparse)
    p, to = np.asarray(model.P.probability)[951, 0], np.asarray(model.P.next_state)[951, 0]
    row = np.bincount(to, p, minlength=1002)
    want = np.where((np.arange(1002) >= 851) & (np.arange(1002) <= 1000), 1 / 200, 0.0)
    want[951] = 0
    np.testing.assert_allclose(row, want, atol=1e-7)
    assert float(model.R[951, 0]) == pytest.approx(51 / 200)
    assert float(model.R[1, 0]) == pytest.approx(-0.5)
    assert model.start is not None and int(model.start.argmax()) == 500


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_groups_of_places_go_where_theory_says(lam: float) -> None:
    """Figures 9.1 and 9.2: the Bellman equation of ten groups, and the best fit to the values."""
    far, spread = book_linear.fixed_point(lam, 4, 100_000)
    assert far < 0.15 + 4 * spread
    apart = book_linear.td_fixed_point(book_linear.TEN) - book_linear.best_fit(book_linear.TEN)
    assert np.abs(apart).max() > 0.1  # the two are not the same
