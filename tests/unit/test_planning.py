"""Planning with a known model, against answers computed here in plain NumPy and float64, against
the book, and against numbers known from elsewhere. All tests run in float64 but where they say so.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs
from jaxrl import planning
from jaxrl.envs import wrappers
from jaxrl.mdp import MDP, Sparse

SOLVERS = {
    "value_iteration": functools.partial(planning.value_iteration, tolerance=1e-10),
    "in place": functools.partial(planning.in_place_value_iteration, tolerance=1e-10),
    "in place, blocks": functools.partial(
        planning.in_place_value_iteration, block=5, tolerance=1e-10
    ),
    "in place, shuffled": functools.partial(
        planning.in_place_value_iteration, key=jax.random.key(0), tolerance=1e-10
    ),
    "q_iteration": functools.partial(planning.q_iteration, tolerance=1e-10),
    "policy_iteration": planning.policy_iteration,
    "modified": functools.partial(planning.modified_policy_iteration, tolerance=1e-10),
    "prioritized": functools.partial(planning.prioritized_sweeping, tolerance=1e-11),
    "prioritized, batches": functools.partial(
        planning.prioritized_sweeping, tolerance=1e-11, batch=4
    ),
}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def made(name: str, gamma: float, **constants: Any) -> MDP:
    return MDP.from_env(jaxrl.envs.make(name, **constants), gamma)


def arrays(mdp: MDP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dense P [S, A, S], R and terminal, by a loop of its own."""
    if isinstance(mdp.P, Sparse):
        p, to = np.asarray(mdp.P.probability), np.asarray(mdp.P.next_state)
        P = np.zeros((*mdp.R.shape, mdp.num_states))
        for s, a, k in np.ndindex(p.shape):
            P[s, a, to[s, a, k]] += p[s, a, k]
    else:
        P = np.asarray(mdp.P)
    dead = np.zeros(len(P), bool) if mdp.terminal is None else np.asarray(mdp.terminal)
    return P, np.asarray(mdp.R, np.float64), dead


def solve(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """The linear equations in NumPy, over the states that are not terminal."""
    P, R, dead = arrays(mdp)
    weights = np.eye(R.shape[1])[policy] if policy.ndim == 1 else policy
    P, R = np.einsum("sa,sat->st", weights, P), (weights * R).sum(1)
    v = np.zeros(len(R))
    live = ~dead
    matrix = np.eye(live.sum()) - float(mdp.gamma) * P[np.ix_(live, live)]
    v[live] = np.linalg.solve(matrix, R[live])
    return v


def optimum(mdp: MDP) -> np.ndarray:
    """Sweeps in NumPy to machine precision."""
    P, R, dead = arrays(mdp)
    v = np.zeros(len(R))
    for _ in range(100_000):
        new = np.where(dead, 0, (R + float(mdp.gamma) * P @ v).max(1))
        if np.abs(new - v).max() < 1e-13:
            return new
        v = new
    raise AssertionError("does not converge")


def random_mdp(seed: int, states: int = 12, actions: int = 3, gamma: float = 0.9) -> MDP:
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, 0.3), (states, actions))
    P *= rng.uniform(0.7, 1.0, (states, actions, 1))  # episodes may end anywhere
    terminal = jnp.asarray(rng.random(states) < 0.15)
    R = rng.normal(size=(states, actions))
    return MDP(jnp.asarray(P), jnp.asarray(R), gamma, terminal)


PROBLEMS = {
    "dense": lambda: random_mdp(0),
    "FrozenLake": lambda: made("FrozenLake-v1", 0.99),
}


@functools.cache
def problem(name: str) -> tuple[MDP, np.ndarray]:
    mdp = PROBLEMS[name]()
    return mdp, optimum(mdp)


# Sparse models by all solvers, dense ones by two; the rest repeats.
DENSE = {"value_iteration", "policy_iteration"}


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        *((solver, "FrozenLake") for solver in SOLVERS),
        *(
            pytest.param(solver, "dense", marks=() if solver in DENSE else pytest.mark.slow)
            for solver in SOLVERS
        ),
    ],
)
def test_every_solver_finds_the_optimum(solver: str, name: str) -> None:
    mdp, v = problem(name)
    found = SOLVERS[solver](mdp)
    assert found.converged
    np.testing.assert_allclose(found.v, v, atol=1e-6)
    P, R, dead = arrays(mdp)
    q = np.where(dead[:, None], 0, R + float(mdp.gamma) * P @ v)
    np.testing.assert_allclose(found.q, q, atol=1e-6)
    np.testing.assert_allclose(solve(mdp, np.asarray(found.policy)), v, atol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        "value_iteration",
        "modified",
        pytest.param("in place", marks=pytest.mark.slow),
        pytest.param("q_iteration", marks=pytest.mark.slow),
    ],
)
def test_the_bound_holds_and_is_no_wild_guess(solver: str) -> None:
    mdp, v = problem("dense")
    for tolerance in (1e-1, 1e-3):
        found = SOLVERS[solver](mdp, tolerance=tolerance)
        error = float(np.abs(np.asarray(found.v) - v).max())
        assert error <= float(found.bound)
        assert float(found.bound) == pytest.approx(9 * float(found.residual))
        assert float(found.residual) <= tolerance


def test_sweeps_that_are_cut_say_so() -> None:
    found = planning.value_iteration(problem("dense")[0], max_sweeps=3)
    assert int(found.sweeps) == 3 and not found.converged


POLICIES = {
    "actions": lambda mdp: np.arange(mdp.num_states) % mdp.num_actions,
    "probabilities": lambda mdp: np.random.default_rng(1).dirichlet(
        np.ones(mdp.num_actions), mdp.num_states
    ),
}


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("dense", "probabilities"),
        ("FrozenLake", "actions"),
        pytest.param("dense", "actions", marks=pytest.mark.slow),
        pytest.param("FrozenLake", "probabilities", marks=pytest.mark.slow),
    ],
)
def test_every_evaluation_is_the_linear_solution(name: str, policy: str) -> None:
    mdp, _ = problem(name)
    given = POLICIES[policy](mdp)
    v = solve(mdp, given)
    for found in (
        planning.evaluate_linear(mdp, given),
        planning.evaluate_policy(mdp, given, tolerance=1e-10),
        planning.evaluate_in_place(mdp, given, tolerance=1e-10),
        planning.evaluate_in_place(mdp, given, tolerance=1e-10, block=4),
        planning.evaluate_q(mdp, given, tolerance=1e-10),
    ):
        np.testing.assert_allclose(found.v, v, atol=1e-6)
        assert found.converged


# Figure 4.1, one digit after the point as printed there but for k = 2 and 3, which are exact.
FIGURE_4_1 = {
    1: [0, -1, -1, -1, -1, -1, -1, -1],
    2: [0, -1.75, -2, -2, -1.75, -2, -2, -2],
    3: [0, -2.4375, -2.9375, -3, -2.4375, -2.875, -3, -2.9375],
    10: [0, -6.1, -8.4, -9.0, -6.1, -7.7, -8.4, -8.4],
}


@pytest.mark.parametrize("k", FIGURE_4_1)
def test_figure_4_1_sweep_by_sweep(k: int) -> None:
    """Synchronous sweeps of the random policy; the lower half is the upper one turned round."""
    mdp = made("SmallGridworld-v0", 1.0)
    uniform = np.full((16, 4), 0.25)
    found = planning.evaluate_policy(mdp, uniform, max_sweeps=k)
    assert int(found.sweeps) == k
    v = np.asarray(found.v)
    np.testing.assert_allclose(v, v[::-1], atol=1e-12)
    np.testing.assert_allclose(v[:8], FIGURE_4_1[k], atol=0.051 if k == 10 else 1e-12)


def test_figure_4_1_in_the_end() -> None:
    mdp = made("SmallGridworld-v0", 1.0)
    uniform = np.full((16, 4), 0.25)
    expected = [0, -14, -20, -22, -14, -18, -20, -20, -20, -20, -18, -14, -22, -20, -14, 0]
    found = planning.evaluate_linear(mdp, uniform)
    np.testing.assert_allclose(found.v, expected, atol=1e-9)
    assert np.isinf(found.bound)
    # In place it is another sequence: what is changed first is seen by what comes later.
    one = planning.evaluate_in_place(mdp, uniform, max_sweeps=1)
    np.testing.assert_allclose(one.v[:4], [0, -1, -1.25, -1.3125], atol=1e-12)
    two = planning.evaluate_in_place(mdp, uniform, max_sweeps=2)
    assert float(two.v[1]) < -1.75
    back = planning.evaluate_in_place(mdp, uniform, max_sweeps=1, order=jnp.arange(16)[::-1])
    np.testing.assert_allclose(back.v[::-1], one.v, atol=1e-12)


def test_policy_iteration_stops_on_ties() -> None:
    """Example 4.1 has them nearly everywhere; FrozenLake's rounds from the policy "left" are
    known."""
    mdp = made("SmallGridworld-v0", 1.0)
    found = planning.policy_iteration(mdp, np.full((16, 4), 0.25))
    assert found.converged and int(found.sweeps) < 10
    assert float(found.v.min()) == pytest.approx(-3)
    for name, rounds in (("FrozenLake-v1", 7), ("FrozenLake8x8-v1", 11)):
        found = planning.policy_iteration(made(name, 0.99))
        assert found.converged and int(found.sweeps) == rounds


def test_frozen_lake() -> None:
    mdp = made("FrozenLake-v1", 0.99)
    found = planning.value_iteration(mdp, tolerance=1e-12)
    assert float(found.v[0]) == pytest.approx(0.542026, abs=1e-6)
    plain = made("FrozenLake-v1", 1.0)
    success = planning.evaluate_horizon(plain, found.policy, 100)
    assert float(success[100, 0]) == pytest.approx(0.740165, abs=1e-6)
    plan = planning.optimize_horizon(plain, 100)
    assert float(plan.v[100, 0]) == pytest.approx(0.744190, abs=1e-6)
    # The plan does what it says: follow it, with ever fewer steps left.
    P, R, _ = arrays(plain)
    at, total = np.eye(16)[0], 0.0
    for left in range(100, 0, -1):
        action = np.asarray(plan.policy[left - 1])
        total += at @ R[np.arange(16), action]
        at = at @ P[np.arange(16), action]
    assert total == pytest.approx(0.744190, abs=1e-6)


def test_float32_reaches_what_the_docs_say() -> None:
    with jax.enable_x64(False):
        mdp = made("FrozenLake-v1", 0.99)
        assert mdp.R.dtype == jnp.float32
        found = planning.value_iteration(mdp, tolerance=1e-7)
        assert found.converged
        assert float(found.v[0]) == pytest.approx(0.542026, abs=2e-5)


def test_cliff_walking() -> None:
    mdp = made("CliffWalking-v1", 1.0)
    found = planning.value_iteration(mdp)
    assert float(found.v[36]) == -13
    assert float(found.v[47]) == 0 and bool(mdp.terminal[47])
    at, states = 36, []
    for _ in range(13):
        states.append(at)
        at = {0: at - 12, 1: at + 1, 2: at + 12, 3: at - 1}[int(found.policy[at])]
    assert at == 47 and states[1:] == list(range(24, 36))


@pytest.mark.parametrize(("sab", "value"), [(True, -0.043113), (False, -0.046556)])
def test_blackjack(sab: bool, value: float) -> None:
    mdp = made("Blackjack-v1", 1.0, sab=sab)
    found = planning.value_iteration(mdp)
    assert found.converged
    assert float(mdp.start @ found.v) == pytest.approx(value, abs=1e-6)


def test_blackjack_optimum_of_the_book_by_other_means() -> None:
    """The same number by a recursion over hands of cards, without the environment."""

    @functools.cache
    def dealer(hard: int, ace: bool) -> tuple[float, ...]:
        total = hard + 10 * (ace and hard + 10 <= 21)
        if total >= 17:
            return tuple(float(min(total, 22) == t) for t in range(17, 23))
        chance = np.zeros(6)
        for card in range(1, 11):
            weight = (4 if card == 10 else 1) / 13
            chance += weight * np.array(dealer(hard + card, ace or card == 1))
        return tuple(chance)

    def best(hard: int, ace: bool, shown: int, cards: int) -> float:
        return -1.0 if hard > 21 else max(stick_and_hit(hard, ace, shown, cards))

    @functools.cache
    def stick_and_hit(hard: int, ace: bool, shown: int, cards: int) -> tuple[float, float]:
        total = hard + 10 * (ace and hard + 10 <= 21)
        if cards == 2 and total == 21:
            return 1 - {1: 4 / 13, 10: 1 / 13}.get(shown, 0.0), -1.0
        final = np.array(dealer(shown, shown == 1))
        targets = np.arange(17, 23)
        stick = final[(targets < total) | (targets == 22)].sum()
        stick -= final[(targets > total) & (targets != 22)].sum()
        hit = sum(
            (4 if c == 10 else 1) / 13 * best(hard + c, ace or c == 1, shown, 3)
            for c in range(1, 11)
        )
        return stick, hit

    weight = np.array([1] * 9 + [4]) / 13
    value = sum(
        weight[a - 1] * weight[b - 1] * weight[d - 1] * best(a + b, 1 in (a, b), d, 2)
        for a in range(1, 11)
        for b in range(1, 11)
        for d in range(1, 11)
    )
    mdp = made("Blackjack-v1", 1.0)
    found = planning.value_iteration(mdp)
    assert float(mdp.start @ found.v) == pytest.approx(value, abs=1e-9)
    assert value == pytest.approx(-0.043113, abs=1e-6)
    # Every action value of every hand of three cards and more that sums to 12 or more.
    for shown in range(1, 11):
        for total in range(12, 22):
            for usable in (0, 1):
                state = (total * 11 + shown) * 2 + usable
                q = stick_and_hit(total - 10 * usable, bool(usable), shown, 3)
                np.testing.assert_allclose(found.q[state], q, atol=1e-9)


def test_gambler() -> None:
    """Example 4.3: half the goal is worth the probability of heads, a quarter its square; bold play
    is best, so the values follow a recursion."""
    mdp = made("Gambler-v0", 1.0)
    found = planning.value_iteration(mdp, tolerance=1e-12)
    bold = np.zeros(101)
    bold[100] = 1
    for _ in range(200):
        for s in range(1, 100):
            stake = min(s, 100 - s)
            bold[s] = 0.4 * bold[s + stake] + 0.6 * bold[s - stake]
    np.testing.assert_allclose(found.v[1:100], bold[1:100], atol=1e-9)
    assert float(found.v[50]) == pytest.approx(0.4) and float(found.v[25]) == pytest.approx(0.16)
    assert float(found.v[0]) == float(found.v[100]) == 0


# Figure 4.2, by cars at the first place (rows 0 to 20) and at the second (columns).
FIGURE_4_2 = """
 0  0  0  0  0  0  0  0 -1 -1 -2 -2 -2 -3 -3 -3 -3 -3 -4 -4 -4
"""


def test_jacks_car_rental() -> None:
    """The values agree with a model built here in NumPy with Poisson sums; the policy has the
    shape of figure 4.2."""
    env: Any = jaxrl.envs.make("JacksCarRental-v0", max_steps=None)
    mdp = MDP.from_env(env, 0.9, dense=True)
    P, R = rental()
    np.testing.assert_allclose(mdp.P, P, atol=1e-9)
    np.testing.assert_allclose(mdp.R, R, atol=1e-9)
    found = planning.policy_iteration(mdp)
    assert found.converged
    v = np.zeros(441)
    for _ in range(600):
        v = (R + 0.9 * P @ v).max(1)
    np.testing.assert_allclose(found.v, v, atol=1e-6)
    states = jnp.arange(441)
    moves = np.asarray(jax.vmap(env.moved)(states, found.policy)).reshape(21, 21)
    assert moves.min() == -4 and moves.max() == 5
    assert moves[0].tolist() == [int(x) for x in FIGURE_4_2.split()]
    assert moves[20, 0] == 5 and moves[10, 10] == 0
    # The further down, the more is moved away; the further right, the less.
    assert (np.diff(moves, axis=0) >= 0).all() and (np.diff(moves, axis=1) <= 0).all()
    assert v[20 * 21 + 20] == pytest.approx(v.max())
    assert v.min() == pytest.approx(v[0])


def rental() -> tuple[np.ndarray, np.ndarray]:
    """Jack's model: sums over requests and returns up to 60, a loop each."""
    from math import exp, factorial

    def poisson(mean: float) -> np.ndarray:
        return np.array([exp(-mean) * mean**n / factorial(n) for n in range(60)])

    def place(requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
        day, income = np.zeros((21, 21)), np.zeros(21)
        for cars in range(21):
            for asked, p in enumerate(poisson(requests)):
                rented = min(asked, cars)
                income[cars] += p * 10 * rented
                for back, q in enumerate(poisson(returns)):
                    day[cars, min(cars - rented + back, 20)] += p * q
        return day, income

    (one, income_one), (two, income_two) = place(3, 3), place(4, 2)
    P, R = np.zeros((441, 11, 441)), np.zeros((441, 11))
    for first in range(21):
        for second in range(21):
            for a in range(11):
                moved = min(max(a - 5, -second), first)
                x, y = min(first - moved, 20), min(second + moved, 20)
                P[first * 21 + second, a] = np.outer(one[x], two[y]).ravel()
                R[first * 21 + second, a] = income_one[x] + income_two[y] - 2 * abs(moved)
    return P, R


@pytest.mark.parametrize(
    ("name", "start", "steps"),
    [("DynaMaze-v0", 18, 14), ("WindyGridworld-v0", 30, 15), ("NoisyTV-v0", 0, 10)],
)
def test_shortest_ways(name: str, start: int, steps: int) -> None:
    mdp = made(name, 0.5, goal_reward=1.0) if "Windy" not in name else made(name, 1.0)
    v = float(planning.value_iteration(mdp, tolerance=1e-13).v[start])
    assert v == pytest.approx(-steps if "Windy" in name else 0.5 ** (steps - 1))


@pytest.mark.parametrize(
    ("name", "before", "after"), [("BlockingMaze-v0", 10, 16), ("ShortcutMaze-v0", 16, 10)]
)
def test_mazes_change_on_time(name: str, before: int, after: int) -> None:
    """The clock is a part of the state: with five steps to the change the far future counts."""
    env: Any = jaxrl.envs.make(name, change_at=30)
    assert env.num_states == 54 * 31
    v = planning.value_iteration(MDP.from_env(env, 0.5), tolerance=1e-13).v.reshape(31, 54)
    start = 5 * 9 + 3
    assert float(v[0, start]) == pytest.approx(0.5 ** (before - 1))
    assert float(v[30, start]) == pytest.approx(0.5 ** (after - 1))


def test_random_walks_have_known_values() -> None:
    for name, expected in (
        ("RandomWalk5-v0", np.arange(1, 6) / 6),
        ("RandomWalk19-v0", np.arange(1, 20) / 10 - 1),
    ):
        mdp = made(name, 1.0)
        found = planning.evaluate_linear(mdp, np.zeros(mdp.num_states, int))
        np.testing.assert_allclose(found.v[1:-1], expected, atol=1e-9)
        np.testing.assert_array_equal(np.flatnonzero(mdp.terminal), [0, mdp.num_states - 1])


def test_vmap_over_models_gammas_and_constants() -> None:
    gammas = jnp.asarray([0.5, 0.9, 0.99])
    mdp, _ = problem("FrozenLake")

    def at(gamma: jax.Array) -> jax.Array:
        return planning.value_iteration(dataclasses.replace(mdp, gamma=gamma), tolerance=1e-9).v

    for gamma, v in zip(gammas, jax.vmap(at)(gammas)):
        one = dataclasses.replace(mdp, gamma=float(gamma))
        np.testing.assert_allclose(v, optimum(one), atol=1e-6)

    def world(rate: jax.Array) -> Any:
        env = jaxrl.envs.FrozenLake(success_rate=rate)
        return planning.policy_iteration(MDP.from_env(env, 0.9)).v

    rates = jnp.asarray([0.3, 0.8, 1.0])
    for rate, v in zip(rates, jax.vmap(world)(rates)):
        np.testing.assert_allclose(
            v, optimum(made("FrozenLake-v1", 0.9, success_rate=float(rate))), atol=1e-6
        )

    stack = jax.tree.map(lambda *x: jnp.stack(x), *(random_mdp(seed) for seed in range(3)))
    for seed, v in enumerate(
        jax.vmap(lambda m: planning.value_iteration(m, tolerance=1e-9).v)(stack)
    ):
        np.testing.assert_allclose(v, optimum(random_mdp(seed)), atol=1e-6)


def test_river_swim() -> None:
    """The best policy swims from every place; its values by the linear equations, worked here."""
    mdp = made("RiverSwim-v0", 0.95)
    P = 0.6 * np.eye(6) + 0.35 * np.eye(6, k=1) + 0.05 * np.eye(6, k=-1)
    P[0, :2], P[5, 4:] = (0.4, 0.6), (0.4, 0.6)
    v = np.linalg.solve(np.eye(6) - 0.95 * P, np.eye(6)[5])
    found = planning.policy_iteration(mdp)
    np.testing.assert_allclose(found.v, v, atol=1e-9)
    assert np.asarray(found.policy).tolist() == [1] * 6
    drift = planning.evaluate_linear(mdp, np.zeros(6, int))
    assert float(drift.v[0]) == pytest.approx(0.005 / 0.05)


def test_lists_of_transitions_in_any_order() -> None:
    mdp, v = problem("FrozenLake")
    table = jaxrl.envs.FrozenLake()
    rows = []
    for s in range(16):
        for a in range(4):
            t = table.transitions(s, a)
            for k in range(3):
                rows.append(
                    [
                        s,
                        a,
                        *(
                            float(x[k])
                            for x in (t.probability, t.next_state, t.reward, t.terminated)
                        ),
                    ]
                )
    rows = np.random.default_rng(0).permutation(np.array(rows))
    s, a, p, to, r, over = rows.T
    built = MDP.from_transitions(
        s.astype(int), a.astype(int), p, to.astype(int), r,
        num_states=16, num_actions=4, terminated=over.astype(bool), gamma=0.99,
    ).check()  # fmt: skip
    np.testing.assert_allclose(built.dense().P, mdp.dense().P, atol=1e-12)
    np.testing.assert_allclose(built.R, mdp.R, atol=1e-12)
    np.testing.assert_allclose(planning.value_iteration(built, tolerance=1e-9).v, v, atol=1e-6)


def test_prioritized_sweeping_touches_fewer_states() -> None:
    """In the Dyna maze only the states next to what has changed are worth a look."""
    mdp = made("DynaMaze-v0", 0.95)
    found = planning.prioritized_sweeping(mdp)
    plain = planning.value_iteration(mdp)
    np.testing.assert_allclose(found.v, plain.v, atol=1e-6)
    assert int(found.sweeps) < int(plain.sweeps) * mdp.num_states / 10
    before = np.asarray(planning.predecessors(mdp))
    for s in range(54):
        P, _, _ = arrays(mdp)
        assert set(before[s]) - {54} == set(np.flatnonzero(P[:, :, s].any(1)))


def test_mistakes_are_explained() -> None:
    with pytest.raises(TypeError, match="finite environment"):
        MDP.from_env(jaxrl.envs.make("CartPole-v1"))
    clipped = wrappers.ClipReward(jaxrl.envs.make("FrozenLake-v1"))
    with pytest.raises(TypeError, match="ClipReward"):
        MDP.from_env(clipped)
    seen = wrappers.Flatten(wrappers.EpisodeStatistics(jaxrl.envs.make("FrozenLake-v1")))
    assert MDP.from_env(seen).num_states == 16
    good = random_mdp(0)
    with pytest.raises(ValueError, match="sum to"):
        MDP(good.P * 1.5, good.R).check()
    with pytest.raises(ValueError, match="R has"):
        MDP(good.P, good.R[:-1]).check()
    with pytest.raises(ValueError, match="terminal"):
        MDP(good.P, good.R, terminal=jnp.zeros(3, bool)).check()
    with pytest.raises(ValueError, match="gamma"):
        MDP(good.P, good.R, gamma=1.5).check()
    with pytest.raises(ValueError, match="next"):
        MDP.from_transitions([0], [0], [1.0], [7], [0.0], num_states=2, num_actions=1)


def test_the_code_in_the_docs_runs_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "tabular.md").read_text()
    blocks = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "planning" in b]
    names: dict[str, Any] = {}
    with jax.enable_x64(False):
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:6]:
            exec(compile(block, "docs/tabular.md", "exec"), names)
    assert len(blocks) >= 3
    assert {path.name for path in tmp_path.iterdir()} == {"lake.png", "flood.gif"}
    np.testing.assert_allclose(names["outcomes"].probability, [0.1, 0.8, 0.1], atol=1e-6)
    assert float(names["best"].v[0]) == pytest.approx(0.5420, abs=1e-4)
    assert float(names["exact"].v[0]) == pytest.approx(0.542026, abs=1e-6)
    assert names["maze"].num_states == 28 * 1001


def test_the_sides_of_the_benchmark_agree() -> None:
    """`measure` compares their values before it takes the time."""
    from benchmarks import sweeps

    with jax.enable_x64(False):
        row = sweeps.measure(200, rounds=1)
    assert all(row[name] > 0 for name in ("jaxrl", "scipy", "numpy"))
