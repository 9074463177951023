"""Control with tables against plain NumPy loops, and the traps that still learn."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import behaviour, spaces, stepsizes, tables, traces
from jaxrl.agents.tabular import q_lambda
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.types import Rollout, Spec

S, A, GAMMA, LR, EPS = 5, 3, 0.9, 0.25, 0.3
SPEC = Spec(spaces.Discrete(S), spaces.Discrete(A), 1, steps=1000)


@dataclasses.dataclass
class Seen:
    """One transition."""

    s: int
    a: int
    r: float
    to: int
    terminated: bool = False
    truncated: bool = False
    mu: float = 1.0
    first: bool = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


def rollout(seen: list[Seen], extras: bool = True, envs: int = 1) -> Rollout:
    """[T, envs]; `seen` is in order of time, and within a step of environment."""
    steps = len(seen) // envs

    def stack(values: list[Any], dtype: Any) -> jax.Array:
        return jnp.asarray(np.array(values, dtype).reshape(steps, envs))

    return Rollout(
        obs=stack([x.s for x in seen], np.int32),
        action=stack([x.a for x in seen], np.int32),
        reward=stack([x.r for x in seen], np.float32),
        terminated=stack([x.terminated for x in seen], bool),
        truncated=stack([x.truncated for x in seen], bool),
        first=stack([x.first for x in seen], bool),
        last_obs=jnp.asarray([x.to for x in seen[-envs:]], jnp.int32),
        final_obs=stack([x.to for x in seen], np.int32),  # time limit 1: a row for each step
        extras=stack([x.mu for x in seen], np.float32) if extras else (),
        memory=None,
        last_memory=None,
    )


def stream(seed: int, steps: int = 60) -> list[Seen]:
    """Episodes of random lengths with both kinds of end; the next one starts somewhere else."""
    rng = np.random.default_rng(seed)
    seen: list[Seen] = []
    s, first = 0, True
    for _ in range(steps):
        a, to, end = int(rng.integers(A)), int(rng.integers(S)), rng.random()
        r, mu = float(rng.normal()), float(rng.uniform(0.1, 1))
        x = Seen(s, a, r, to, end < 0.12, 0.12 <= end < 0.25, mu, first)
        seen.append(x)
        s, first = (int(rng.integers(S)) if x.ended else to), x.ended
    return seen


def played(agent: Any, seen: list[Seen], chunk: int | None = None, key: int = 0, **kw: Any) -> Any:
    """The table after all of `seen`, given in rollouts of `chunk` steps."""
    envs = agent.num_envs
    chunk = chunk or len(seen) // envs
    agent = dataclasses.replace(agent, num_steps=chunk)
    state = agent.init(jax.random.key(0), kw.get("spec", SPEC))
    extras = type(agent).extras is not tabular_extras()
    update = jax.jit(lambda state, played, key: agent.update(state, played, key)[0])
    for i in range(0, len(seen), chunk * envs):
        part = rollout(seen[i : i + chunk * envs], extras, envs)
        state = update(state, part, jax.random.fold_in(jax.random.key(key), i))
    return state


def tabular_extras() -> Any:
    from jaxrl.tabular import Control

    return Control.extras


def values(agent: Any, seen: list[Seen], chunk: int | None = None) -> np.ndarray:
    return np.asarray(played(agent, seen, chunk).table.values)


def soft(q: np.ndarray, epsilon: float = EPS) -> np.ndarray:
    best = q == q.max()
    return epsilon / len(q) + (1 - epsilon) * best / best.sum()


def episodes_of(seen: list[Seen]) -> list[list[Seen]]:
    found: list[list[Seen]] = [[]]
    for x in seen:
        found[-1].append(x)
        if x.ended:
            found.append([])
    return found[:-1]  # the last one still runs


def whole(seed: int) -> list[Seen]:
    return [x for episode in episodes_of(stream(seed)) for x in episode]


KW: dict[str, Any] = dict(lr=LR, gamma=GAMMA, exploration=EpsilonGreedy(EPS))

# -------------------------------------------------------------------------------- one-step methods


def one_step(seen: list[Seen], value: Callable[[np.ndarray], float]) -> np.ndarray:
    q = np.zeros((S, A))
    for x in seen:
        target = x.r + (0 if x.terminated else GAMMA * value(q[x.to]))
        q[x.s, x.a] += LR * (target - q[x.s, x.a])
    return q


@pytest.mark.parametrize("chunk", [1, 12, 60])
def test_q_learning_is_the_loop(chunk: int) -> None:
    seen = stream(0)
    want = one_step(seen, lambda row: row.max())
    np.testing.assert_allclose(values(jaxrl.QLearning(**KW), seen, chunk), want, atol=1e-5)


def test_expected_sarsa_is_the_loop() -> None:
    """T8: the greedy action has its share of the random ones too."""
    seen = stream(1)
    want = one_step(seen, lambda row: float(soft(row) @ row))
    np.testing.assert_allclose(values(jaxrl.ExpectedSARSA(**KW), seen), want, atol=1e-5)
    q = jnp.array([1.0, 2.0, 0.0])
    assert float(EpsilonGreedy(0.3).probabilities(q, None, jnp.zeros(())) @ q) == pytest.approx(1.7)


def test_double_q_learning_is_the_loop() -> None:
    """T9: one table chooses, the other one evaluates."""
    seen = stream(2)
    q = np.zeros((2, S, A))
    key = jax.random.fold_in(jax.random.key(0), 0)
    coins = [bool(jax.random.bernoulli(k)) for k in jax.random.split(key, (len(seen), 1)).ravel()]
    for x, coin in zip(seen, coins, strict=True):
        i = int(coin)
        value = 0 if x.terminated else q[1 - i, x.to, q[i, x.to].argmax()]
        q[i, x.s, x.a] += LR * (x.r + GAMMA * value - q[i, x.s, x.a])
    assert 10 < sum(coins) < 50
    np.testing.assert_allclose(values(jaxrl.DoubleQLearning(**KW), seen), q, atol=1e-5)


def test_double_q_learning_by_hand_acts_by_both() -> None:
    """T9 and T9b: A = [1, 3], B = [5, 2]: A learns 2, B learns 1; greedy is action 0."""
    agent = jaxrl.DoubleQLearning(lr=1.0, gamma=1.0, exploration=EpsilonGreedy(0.0))
    spec = Spec(spaces.Discrete(2), spaces.Discrete(2), None, 10)
    state = agent.init(jax.random.key(0), spec)
    table = jnp.zeros((2, 2, 2)).at[0, 1].set(jnp.array([1.0, 3.0])).at[1, 1].set(jnp.array([5, 2]))
    state = dataclasses.replace(state, table=dataclasses.replace(state.table, values=table))
    found = set()
    for i in range(8):
        one = rollout([Seen(0, 0, 0.0, 1)], False)
        part = dataclasses.replace(one, final_obs=jnp.zeros((0, 1)))
        new = agent.update(state, part, jax.random.key(i))[0].table.values
        found.add((float(new[0, 0, 0]), float(new[1, 0, 0])))
    assert found == {(2.0, 0.0), (0.0, 1.0)}
    for explore in (True, False):
        action = agent.act(state, jnp.array([1]), jax.random.key(0), explore).action
        assert action.tolist() == [0]


def test_nothing_is_taken_from_the_row_of_a_terminal_state() -> None:
    """T10"""
    agent = jaxrl.QLearning(lr=1.0, gamma=0.99, initial=5.0)
    got = values(agent, [Seen(0, 0, 1.0, 1, terminated=True)])
    assert got[0, 0] == 1.0


def test_a_cut_episode_goes_on_from_its_true_end() -> None:
    """Not from the start of the next one, and not from nothing."""
    agent = jaxrl.QLearning(lr=1.0, gamma=0.5)
    seen = [
        Seen(1, 0, 4.0, 2, terminated=True),
        Seen(0, 0, 1.0, 1, truncated=True),
        Seen(3, 0, 0.0, 3),
    ]
    assert values(agent, seen)[0, 0] == pytest.approx(1 + 0.5 * 4)


# --------------------------------------------------------------------------------- n-step methods


def n_step_loop(
    seen: list[Seen],
    n: int,
    back: Callable[[np.ndarray, Seen, float], float],
    ahead: Callable[[np.ndarray, Seen], float],
) -> np.ndarray:
    """The book's loop, episode by episode: at time t the pair of time t - n + 1 is updated, with
    the table as it then is."""
    q = np.zeros((S, A))
    for episode in episodes_of(seen):
        end = len(episode)
        for t in range(end + n - 1):
            tau = t - n + 1
            if tau < 0:
                continue
            if tau + n < end:
                g = ahead(q, episode[tau + n])
            else:
                last = episode[-1]
                g = 0.0 if last.terminated else float(soft(q[last.to]) @ q[last.to])
            stop = min(tau + n, end)
            for k in reversed(range(tau, stop)):
                if k < stop - 1:
                    g = back(q, episode[k + 1], g)
                g = episode[k].r + GAMMA * g
            x = episode[tau]
            q[x.s, x.a] += LR * (g - q[x.s, x.a])
    return q


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, None])
def test_n_step_sarsa_is_the_books_loop(n: int, chunk: int | None) -> None:
    seen = whole(3)
    want = n_step_loop(seen, n, lambda q, x, g: g, lambda q, x: q[x.s, x.a])
    got = values(jaxrl.SARSA(**KW, n_steps=n), seen, chunk)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [1, 3])
def test_n_step_q_sigma_is_the_books_loop(sigma: float, n: int) -> None:
    """Tree Backup is sigma = 0. Ratios and probabilities begin with the second pair (T14)."""
    seen = whole(4)

    def mean(q: np.ndarray, x: Seen) -> float:
        return float(soft(q[x.s], 0.15) @ q[x.s])

    def back(q: np.ndarray, x: Seen, g: float) -> float:
        pi = soft(q[x.s], 0.15)[x.a]
        c = sigma * pi / x.mu + (1 - sigma) * pi
        return mean(q, x) + c * (g - q[x.s, x.a])

    target = EpsilonGreedy(0.15)
    cut = [dataclasses.replace(x, terminated=x.ended, truncated=False) for x in seen]
    want = n_step_loop(cut, n, back, mean)
    got = values(jaxrl.QSigma(**KW, n_steps=n, sigma=sigma, target=target), cut)
    np.testing.assert_allclose(got, want, atol=1e-5)
    if sigma == 0:
        got = values(jaxrl.TreeBackup(**KW, n_steps=n, target=target), cut)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_without_a_target_ratios_are_one() -> None:
    agent = jaxrl.QSigma(**KW, n_steps=2, sigma=1.0)
    seen = [Seen(0, 0, 1.0, 1, mu=0.2), Seen(1, 1, 2.0, 2, True, mu=0.2)]
    got = values(agent, seen)
    assert got[0, 0] == pytest.approx(LR * (1 + GAMMA * 2))


def test_sarsa_waits_for_its_action() -> None:
    """A transition is learned from when the next action is there, not before."""
    agent = jaxrl.SARSA(lr=1.0, gamma=1.0)
    assert values(agent, [Seen(0, 0, 1.0, 1)])[0, 0] == 0
    assert values(agent, [Seen(0, 0, 1.0, 1), Seen(1, 2, 0.0, 2)])[0, 0] == 1
    assert values(agent, [Seen(0, 0, 1.0, 1, True)])[0, 0] == 1


# ---------------------------------------------------------------------------------------- traces


def sarsa_lambda_loop(seen: list[Seen], lam: float, kind: str) -> np.ndarray:
    q = np.zeros((S, A))
    for episode in episodes_of(seen):
        e = np.zeros((S, A))
        for i, x in enumerate(episode):
            if x.terminated:
                value = 0.0
            elif x.truncated:
                value = float(soft(q[x.to]) @ q[x.to])
            else:
                value = q[episode[i + 1].s, episode[i + 1].a]
            delta = x.r + GAMMA * value - q[x.s, x.a]
            e *= GAMMA * lam
            old = e[x.s, x.a]
            new = {"accumulating": old + 1, "replacing": 1.0, "dutch": (1 - LR) * old + 1}[kind]
            e[x.s, x.a] = new
            q += LR * delta * e
    return q


@pytest.mark.parametrize("kind", ["accumulating", "replacing", "dutch"])
@pytest.mark.parametrize("trace", [traces.Dense(), traces.Recent(64)])
def test_sarsa_lambda_is_the_loop(kind: str, trace: Any) -> None:
    seen = whole(5)
    agent = jaxrl.SARSALambda(**KW, lam=0.8, kind=getattr(traces, kind), trace=trace)
    want = sarsa_lambda_loop(seen, 0.8, kind)
    np.testing.assert_allclose(values(agent, seen, chunk=1), want, atol=1e-5)


def test_true_online_sarsa_is_the_books_loop() -> None:
    seen = [dataclasses.replace(x, terminated=x.ended, truncated=False) for x in whole(6)]
    q, lam = np.zeros((S, A)), 0.7
    for episode in episodes_of(seen):
        z, old = np.zeros((S, A)), 0.0
        for i, x in enumerate(episode):
            here = q[x.s, x.a]
            there = 0.0 if x.ended else q[episode[i + 1].s, episode[i + 1].a]
            delta = x.r + GAMMA * there - here
            one = np.zeros((S, A))
            one[x.s, x.a] = 1
            z = GAMMA * lam * z + (1 - LR * GAMMA * lam * z[x.s, x.a]) * one
            q = q + LR * (delta + here - old) * z - LR * (here - old) * one
            old = there
    got = values(jaxrl.TrueOnlineSARSA(**KW, lam=lam), seen)
    np.testing.assert_allclose(got, q, atol=1e-5)


def test_recent_traces_forget_what_they_say() -> None:
    """After K other visits an entry is gone, and it was worth rate^K by then."""
    kept, size = traces.Recent(3), 10
    trace = kept.init(size)
    for i in range(5):
        trace = kept.decay(trace, jnp.asarray(0.5))
        trace = kept.put(trace, jnp.int32(i), jnp.asarray(1.0))
    moved = np.asarray(kept.move(jnp.zeros(size), trace, jnp.asarray(1.0)))
    np.testing.assert_allclose(moved[:5], [0, 0, 0.25, 0.5, 1])
    assert traces.length(0.5, 0.5**3) == 3
    with pytest.raises(ValueError, match=r"Recent\(44\)"):
        agent = jaxrl.SARSALambda(gamma=0.9, lam=1.0, trace=traces.Recent(8))
        jaxrl.train(agent, jaxrl.envs.make("FrozenLake-v1"), jax.random.key(0), steps=10)


def q_lambda_loop(
    seen: list[Seen], lam: float, cut: Callable[[float, float], float], epsilon: float
) -> np.ndarray:
    q = np.zeros((S, A))
    e = np.zeros((S, A))
    for x in seen:
        pi = soft(q[x.s], epsilon)[x.a]
        value = 0.0 if x.terminated else float(soft(q[x.to], epsilon) @ q[x.to])
        e *= GAMMA * lam * cut(pi, x.mu)
        e[x.s, x.a] += 1
        q = q + LR * (x.r + GAMMA * value - q[x.s, x.a]) * e
        if x.ended:
            e[:] = 0
    return q


@pytest.mark.parametrize(
    "cut, loop",
    [
        (q_lambda.watkins, lambda pi, mu: float(pi > 0)),
        (q_lambda.retrace, lambda pi, mu: min(1, pi / mu)),
        (q_lambda.tree_backup, lambda pi, mu: pi),
        (q_lambda.importance, lambda pi, mu: pi / mu),
    ],
)
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_q_lambda_is_the_loop(cut: Any, loop: Any, epsilon: float) -> None:
    seen = stream(7)
    agent = jaxrl.QLambda(**KW, lam=0.8, cut=cut, target=EpsilonGreedy(epsilon))
    want = q_lambda_loop(seen, 0.8, loop, epsilon)
    np.testing.assert_allclose(values(agent, seen, chunk=1), want, atol=1e-4)


def chain(reward: float = 1.0, third: int = 0) -> list[Seen]:
    return [Seen(0, 0, 0.0, 1), Seen(1, 0, 0.0, 2), Seen(2, third, reward, 3, True)]


def test_watkins_cuts_after_exploration_and_peng_does_not() -> None:
    """T13: gamma .9, lambda .8, alpha .1; the third action is not the best one. T20: Peng."""
    better = [Seen(2, 1, 1.0, 3, True)]  # makes action 1 the best one in state 2
    agent = dict(lr=0.1, gamma=0.9, lam=0.8)
    got = values(jaxrl.QLambda(**agent), [*better, *chain(third=0)], chunk=1)
    # The second transition sees max Q(2, .) = .1; the third one stays to itself.
    np.testing.assert_allclose(got[:3, 0], [0.1 * 0.09 * 0.72, 0.1 * 0.09, 0.1], atol=1e-6)
    greedy = values(jaxrl.QLambda(**agent), chain(), chunk=1)
    np.testing.assert_allclose(greedy[:3, 0], [0.1 * 0.72**2, 0.072, 0.1], atol=1e-6)
    peng = values(jaxrl.PengQLambda(**agent), [*better, *chain(third=0)], chunk=1)
    late = 0.1 * (1 - 0.1)  # lr * (r - max Q(2, .)), credited to what came before
    np.testing.assert_allclose(
        peng[:3, 0], [0.1 * 0.09 * 0.72 + late * 0.72**2, 0.009 + late * 0.72, 0.1], atol=1e-6
    )


def test_watkins_by_hand() -> None:
    """T13: rewards 0, 0, 1, the third action exploratory: only its own pair learns."""
    agent = jaxrl.QLambda(lr=0.1, gamma=0.9, lam=0.8, num_steps=3)
    for best, want in ((1, [0, 0, 0.1]), (0, [0.05184, 0.072, 0.1])):
        state = agent.init(jax.random.key(0), SPEC)
        table = state.table.values.at[2, best].set(1e-9)
        state = dataclasses.replace(state, table=dataclasses.replace(state.table, values=table))
        got = agent.update(state, rollout(chain()), jax.random.key(0))[0].table.values
        np.testing.assert_allclose(got[:3, 0], want, atol=1e-6)


def test_products_begin_with_the_second_choice() -> None:
    """T14: rewards 1, 2, 4, gamma .9, pi 1/3 everywhere and mu 2/3, 2/3, 1/6, all values 0. The
    ratios .5, .5, 2 weigh what their own choice led to, not what went before it."""
    seen = [
        Seen(0, 0, 1.0, 1, mu=2 / 3),
        Seen(1, 0, 2.0, 2, mu=2 / 3),
        Seen(2, 0, 4.0, 3, True, mu=1 / 6),
    ]
    how: dict[str, Any] = dict(lr=1.0, gamma=0.9, target=EpsilonGreedy(1.0))
    retrace = 1 + 0.9 * 0.5 * 2 + 0.81 * 0.5 * 1 * 4
    importance = 1 + 0.9 * 0.5 * 2 + 0.81 * 0.5 * 2 * 4
    backup = 1 + 0.9 / 3 * 2 + 0.81 / 9 * 4
    for agent, want in (
        (jaxrl.QLambda(**how, lam=1.0, cut=q_lambda.retrace), retrace),
        (jaxrl.QLambda(**how, lam=1.0, cut=q_lambda.importance), importance),
        (jaxrl.QLambda(**how, lam=1.0, cut=q_lambda.tree_backup), backup),
        (jaxrl.QSigma(**how, n_steps=3, sigma=1.0), importance),
        (jaxrl.TreeBackup(**how, n_steps=3), backup),
    ):
        assert values(agent, seen)[0, 0] == pytest.approx(want)


def test_peng_is_the_loop() -> None:
    seen = stream(8)
    q, e = np.zeros((S, A)), np.zeros((S, A))
    for x in seen:
        best = 0.0 if x.terminated else q[x.to].max()
        own = x.r + GAMMA * best - q[x.s, x.a]
        other = x.r + GAMMA * best - q[x.s].max()
        e *= GAMMA * 0.8
        q = q + LR * other * e
        q[x.s, x.a] += LR * own
        e[x.s, x.a] += 1
        if x.ended:
            e[:] = 0
    got = values(jaxrl.PengQLambda(**KW, lam=0.8), seen)
    np.testing.assert_allclose(got, q, atol=1e-5)


def test_retrace_on_policy_is_expected_sarsa_with_all_lengths() -> None:
    """T15: with mu = pi and lambda = 1 no trace is cut, whatever pi says of the action."""
    pi = EpsilonGreedy(0.4)
    seen = chain()
    first = dict(lr=0.1, gamma=0.9, lam=1.0, target=pi, cut=q_lambda.retrace)
    # mu = pi at all-equal values, 1/3 each
    seen = [dataclasses.replace(x, mu=1 / 3) for x in seen]
    got = values(jaxrl.QLambda(**first), seen, chunk=1)
    np.testing.assert_allclose(got[:3, 0], [0.081, 0.09, 0.1], atol=1e-6)


# --------------------------------------------------------------------- Monte Carlo, off-policy too


@pytest.mark.parametrize("chunk", [1, None])
def test_monte_carlo_control_averages_first_returns(chunk: int | None) -> None:
    seen = [dataclasses.replace(x, terminated=x.ended, truncated=False) for x in whole(9)]
    returns: dict[tuple[int, int], list[float]] = {}
    for episode in episodes_of(seen):
        g, found = 0.0, {}
        for x in reversed(episode):
            g = x.r + GAMMA * g
            found[x.s, x.a] = g  # the earliest stays
        for pair, value in found.items():
            returns.setdefault(pair, []).append(value)
    want = np.zeros((S, A))
    for pair, samples in returns.items():
        want[pair] = np.mean(samples)
    agent = jaxrl.MonteCarloControl(gamma=GAMMA, horizon=64)
    np.testing.assert_allclose(values(agent, seen, chunk), want, atol=1e-5)


@pytest.mark.parametrize("name", ["ordinary", "weighted"])
def test_off_policy_monte_carlo_is_the_books_loop(name: str) -> None:
    from jaxrl.agents.tabular import importance_sampling

    seen = [dataclasses.replace(x, terminated=x.ended, truncated=False) for x in whole(10)]
    q, c = np.zeros((S, A)), np.zeros((S, A))
    for episode in episodes_of(seen):
        g, w = 0.0, 1.0
        for x in reversed(episode):
            g = x.r + GAMMA * g
            mass, sample = (w, g) if name == "weighted" else (1.0, w * g)
            if mass:
                c[x.s, x.a] += mass
                q[x.s, x.a] += mass / c[x.s, x.a] * (sample - q[x.s, x.a])
            w *= soft(q[x.s], 0.2)[x.a] / x.mu
    weighing = getattr(importance_sampling, name)
    agent = jaxrl.OffPolicyMonteCarlo(
        gamma=GAMMA, weighing=weighing, horizon=64, target=EpsilonGreedy(0.2)
    )
    np.testing.assert_allclose(values(agent, seen), q, rtol=2e-4, atol=1e-4)


# ------------------------------------------------------------------------------ exploration, steps


def test_behaviours_by_hand() -> None:
    q, n, zero = jnp.array([1.0, 2.0, 2.0, 0.0]), jnp.array([1, 4, 1, 2]), jnp.zeros(())

    def p(how: Any, share: float = 0.0, q: jax.Array = q, n: jax.Array = n) -> list[float]:
        return np.asarray(how.probabilities(q, n, jnp.asarray(share))).tolist()

    assert p(EpsilonGreedy(0.4)) == pytest.approx([0.1, 0.4, 0.4, 0.1])
    falling = EpsilonGreedy(1.0, end=0.2, over=0.5)
    assert p(falling, 0.25)[0] == pytest.approx(0.6 / 4)
    assert p(falling, 0.9)[0] == pytest.approx(0.2 / 4)
    assert p(behaviour.GLIE(2.0)) == pytest.approx([0.25 / 4, 0.4375, 0.4375, 0.25 / 4])  # eps 2/8
    e = np.exp(np.asarray(q) / 0.5)
    assert p(behaviour.Boltzmann(0.5)) == pytest.approx((e / e.sum()).tolist())
    # UCB: 1 + 1.442, 2 + .721, 2 + 1.442, 0 + 1.02 with c = 1 and log 8 = 2.079
    assert p(behaviour.UCB(1.0)) == [0, 0, 1, 0]
    assert p(behaviour.UCB(1.0), n=jnp.array([1, 4, 1, 0])) == [0, 0, 0, 1]
    assert p(behaviour.CountBonus(2.0)) == [0, 0, 1, 0]
    assert p(behaviour.CountBonus(2.0), n=jnp.array([0, 8, 8, 8])) == [1, 0, 0, 0]
    masked = jnp.array([-jnp.inf, 2.0, -jnp.inf, 0.0])
    assert p(EpsilonGreedy(0.4), q=masked) == pytest.approx([0, 0.8, 0, 0.2])
    assert p(behaviour.UCB(1.0), q=masked, n=jnp.zeros(4, int)) == [0, 0.5, 0, 0.5]
    del zero


@pytest.mark.parametrize("actions", [4, 40])
def test_samples_have_their_probabilities(actions: int) -> None:
    p = np.zeros(actions)
    p[:4] = [0.0, 0.5, 0.2, 0.3]
    key = jax.random.key(0)
    drawn = np.asarray(behaviour.sample(key, jnp.broadcast_to(jnp.asarray(p), (20_000, actions))))
    share = np.bincount(drawn, minlength=actions) / 20_000
    assert share[p == 0].sum() == 0
    np.testing.assert_allclose(share, p, atol=0.012)  # 3.4 standard errors


def test_step_sizes() -> None:
    n = jnp.array([1, 2, 4])
    np.testing.assert_allclose(stepsizes.fixed(n), [1, 1, 1])
    np.testing.assert_allclose(stepsizes.harmonic(n), [1, 0.5, 0.25])
    np.testing.assert_allclose(stepsizes.Polynomial(0.5)(n), [1, 2**-0.5, 0.5])
    seen = [Seen(0, 0, r, 1, True) for r in (1.0, 2.0, 6.0)]
    agent = jaxrl.QLearning(lr=1.0, decay=stepsizes.harmonic, initial=100.0)
    assert values(agent, seen)[0, 0] == pytest.approx(3.0)  # the mean, and the start forgotten


def test_counts_are_of_real_visits() -> None:
    state = played(jaxrl.DynaQ(**{**KW, "exploration": behaviour.UCB()}), stream(1))
    want = np.zeros((S, A))
    for x in stream(1):
        want[x.s, x.a] += 1
    np.testing.assert_array_equal(state.table.visits, want)


# -------------------------------------------------------------------------- several environments


def test_environments_are_streams_of_one_learner() -> None:
    """Two environments, interleaved, each with its own traces."""
    one, two = whole(11), whole(12)
    size = min(len(one), len(two))
    both = [x for pair in zip(one[:size], two[:size], strict=True) for x in pair]
    agent = jaxrl.QLambda(**KW, lam=0.8, num_envs=2)
    q, es = np.zeros((S, A)), np.zeros((2, S, A))
    for i, x in enumerate(both):
        e = es[i % 2]
        e *= GAMMA * 0.8 * float(soft(q[x.s], 0.0)[x.a] > 0)
        e[x.s, x.a] += 1
        value = 0.0 if x.terminated else q[x.to].max()
        q = q + LR * (x.r + GAMMA * value - q[x.s, x.a]) * e
        if x.ended:
            e[:] = 0
    np.testing.assert_allclose(values(agent, both), q, atol=1e-4)


def test_how_many_runs_are_advanced_together() -> None:
    """As many as suits a CPU's cache; Monte Carlo methods one by one."""
    driver: Any = importlib.import_module("jaxrl.train")
    small, large = (Spec(spaces.Discrete(n), spaces.Discrete(4), None) for n in (16, 2**20))
    for agent in (jaxrl.QLearning(), jaxrl.TD()):
        assert driver._suits(agent, None, small) == driver.TOGETHER
        assert driver._suits(agent, None, large) == 1
    for agent in (jaxrl.MonteCarloControl(), jaxrl.MonteCarlo()):
        assert driver._suits(agent, None, small) == 1


@pytest.mark.slow
def test_runs_advanced_together_are_the_runs_alone() -> None:
    env = jaxrl.envs.make("FrozenLake-v1")
    agent = jaxrl.SARSALambda(num_envs=2)
    keys = jax.random.split(jax.random.key(0), 6)
    many, one = (
        jaxrl.train(agent, env, keys, steps=400, progress=False, lanes=lanes).state.table.values
        for lanes in (None, 1)
    )
    assert float(jnp.abs(one).sum()) > 0
    np.testing.assert_allclose(many, one, atol=1e-6)


def test_large_tables_are_scattered_and_small_ones_rewritten() -> None:
    for size in (8, tables.DENSE + 8):
        table = jnp.zeros((size // 4, 4))
        got = tables.add(table, (jnp.int32(1), jnp.int32(2)), jnp.asarray(3.0))
        assert got[1, 2] == 3 and float(got.sum()) == 3


# -------------------------------------------------------------------------------------- refusals


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="QLearning keeps a table .* jaxrl.DQN"):
        jaxrl.QLearning().init(
            jax.random.key(0), Spec(spaces.Box(0, 1, (2,)), spaces.Discrete(2), None)
        )
    with pytest.raises(TypeError, match="SARSA needs a Discrete action space"):
        jaxrl.SARSA().init(jax.random.key(0), Spec(spaces.Discrete(2), spaces.Box(0, 1), None))


def test_several_numbers_make_one_row() -> None:
    space = spaces.MultiDiscrete((3, 4))
    assert tables.sizes("x", Spec(space, spaces.Discrete(2), None)) == (12, 2)
    rows = [int(tables.row(space, jnp.array([i, j]))) for i in range(3) for j in range(4)]
    assert rows == list(range(12))
