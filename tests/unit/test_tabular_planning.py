"""Dyna, prioritised sweeping, their models; probes and figures that only right code reaches."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from benchmarks import book
from jaxrl import outcomes, planning, spaces, stepsizes
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.mdp import MDP
from jaxrl.spaces import Discrete, Space
from jaxrl.struct import struct
from jaxrl.tables import Move
from jaxrl.types import Key, PyTree, Rollout, Spec, Step

SPEC = Spec(spaces.Discrete(4), spaces.Discrete(2), None, steps=1000)


def move(s: int, a: int, r: float, to: int, terminated: bool = False) -> Move:
    """One transition, without the axes of a rollout."""
    return Move(
        obs=jnp.int32(s),
        action=jnp.int32(a),
        reward=jnp.asarray(r, jnp.float32),
        next_obs=jnp.int32(to),
        terminated=jnp.asarray(terminated),
        truncated=jnp.zeros((), bool),
        first=jnp.zeros((), bool),
        extras=(),
        key=jax.random.key(0),
    )


def learned(agent: Any, *moves: Move) -> Any:
    """The table after these transitions, one rollout of one step each."""
    state = agent.init(jax.random.key(0), SPEC)

    @jax.jit
    def update(state: Any, x: Move, key: Key) -> Any:
        at = jax.tree.map(lambda leaf: leaf[None, None], dataclasses.replace(x, key=jnp.zeros(())))
        rollout = Rollout(
            obs=at.obs, action=at.action, reward=at.reward, terminated=at.terminated,
            truncated=at.truncated, first=at.first, last_obs=at.next_obs[0],
            final_obs=jnp.zeros((0, 1), jnp.int32), extras=(), memory=None, last_memory=None,
        )  # fmt: skip
        return agent.update(state, rollout, key)[0]

    for i, x in enumerate(moves):
        state = update(state, x, jax.random.key(i))
    return state.table


# ----------------------------------------------------------------------------------------- models


def test_one_outcome_is_the_newest_one() -> None:
    model = outcomes.init(4, 2, 1)
    for x in (move(2, 1, 5.0, 0), move(2, 1, 1.0, 3, True), move(0, 0, 2.0, 2)):
        model = outcomes.observe(model, x)
    assert model.seen[:2].tolist() == [2, 0] and int(model.known) == 2
    drawn = outcomes.draw(model, jnp.array([0.0, 0.9, 0.5]))
    assert [int(drawn.obs), int(drawn.action)] == [2, 1]
    assert float(drawn.reward) == 1.0 and bool(drawn.terminated)
    assert float(outcomes.since(model, jnp.int32(2), jnp.int32(1))) == 1.0


def test_pairs_never_seen_are_never_drawn() -> None:
    """T17"""
    model = outcomes.observe(outcomes.init(4, 2, 1), move(3, 1, 0.0, 0))
    u = jax.random.uniform(jax.random.key(0), (100, 3))
    drawn = jax.vmap(lambda u: outcomes.draw(model, u))(u)
    assert set(np.asarray(drawn.obs)) == {3} and set(np.asarray(drawn.action)) == {1}
    any_action = jax.vmap(lambda u: outcomes.draw(model, u, untried=True))(u)
    assert set(np.asarray(any_action.action)) == {0, 1}
    untried = np.asarray(any_action.action) == 0
    assert set(np.asarray(any_action.next_obs)[untried]) == {3}  # leads back
    assert set(np.asarray(any_action.reward)[untried]) == {0.0}


def test_several_outcomes_have_their_frequencies() -> None:
    model = outcomes.init(4, 2, 2)
    for r, to in ((1.0, 1), (3.0, 1), (7.0, 2), (2.0, 1)):
        model = outcomes.observe(model, move(0, 0, r, to))
    assert sorted(model.count[0, 0].tolist()) == [1, 3]
    u = jax.random.uniform(jax.random.key(1), (4000, 3))
    drawn = jax.vmap(lambda u: outcomes.draw(model, u))(u)
    there = np.asarray(drawn.next_obs) == 1
    assert there.mean() == pytest.approx(0.75, abs=0.03)  # four standard errors
    assert set(np.asarray(drawn.reward)[there]) == {2.0}  # the mean of 1, 3 and 2
    value = jnp.array([0.0, 10.0, 20.0, 0.0])
    want = 0.75 * (2 + 0.5 * 10) + 0.25 * (7 + 0.5 * 20)
    assert float(outcomes.targets(model, value, 0.5)[0, 0]) == pytest.approx(want)
    q = jnp.stack([value, value - 1], axis=1)
    one = outcomes.target(model, jnp.int32(0), jnp.int32(0), q, 0.5)
    assert float(one) == pytest.approx(want)
    assert np.argwhere(np.asarray(outcomes.predecessors(model, jnp.int32(2)))).tolist() == [[0, 0]]
    model = outcomes.observe(model, move(0, 0, 9.0, 3))  # the rarest makes room
    assert sorted(model.next[0, 0].tolist()) == [1, 3]


def test_an_end_is_one_outcome_wherever_the_next_episode_starts() -> None:
    model = outcomes.init(4, 2, 2)
    for start in (3, 1, 0):
        model = outcomes.observe(model, move(0, 0, 6.0, start, True))
    assert sorted(model.count[0, 0].tolist()) == [0, 3]


# ----------------------------------------------------------------------------------------- agents


def test_dyna_learns_again_from_what_it_saw() -> None:
    """Also that the episode ended there: state 3 is believed to be worth 5."""
    agent = jaxrl.DynaQ(lr=0.5, gamma=0.9, planning_steps=3, initial=5.0)
    table = learned(agent, move(0, 1, 2.0, 3, True))
    want = np.full((4, 2), 5.0)
    want[0, 1] = 2 + 3 * 0.5**4
    np.testing.assert_allclose(table.values, want, rtol=1e-6)


def test_dyna_q_plus_expects_more_of_what_it_has_not_tried() -> None:
    """T18: after two steps elsewhere the untried action of state 0 is worth kappa sqrt(3)."""
    agent = jaxrl.DynaQPlus(lr=1.0, gamma=0.0, planning_steps=40, kappa=0.1)
    moves = (move(0, 1, 0.0, 3, True), move(1, 0, 0.0, 3, True), move(1, 1, 0.0, 3, True))
    values = np.asarray(learned(agent, *moves).values)
    want = [[0.1 * 3**0.5, 0.1 * 2**0.5], [0.1, 0.0]]  # tried now: tau is 0 again
    np.testing.assert_allclose(values[:2], want, atol=1e-6)


def test_sweeping_goes_back_from_the_goal() -> None:
    agent = jaxrl.PrioritizedSweeping(lr=1.0, gamma=0.5, planning_steps=3)
    moves = [move(0, 0, 0.0, 1), move(1, 1, 0.0, 2), move(2, 0, 8.0, 3, True)]
    table = learned(agent, *moves)
    assert [float(table.values[i, a]) for i, a in ((2, 0), (1, 1), (0, 0))] == [8, 4, 2]
    fewer = learned(dataclasses.replace(agent, planning_steps=2), *moves)
    assert [float(fewer.values[i, a]) for i, a in ((2, 0), (1, 1), (0, 0))] == [8, 4, 0]
    assert float(fewer.model.priority[0, 0]) == pytest.approx(2)  # what is left to do
    lazy = learned(dataclasses.replace(agent, theta=5.0), *moves)
    assert [float(lazy.values[i, a]) for i, a in ((2, 0), (1, 1))] == [8, 0]


# ----------------------------------------------------------------------------------------- probes


@struct
class Numbered:
    """Observations -1, 0, 1 of a probe as states 0, 1, 2."""

    env: Any

    @property
    def obs_space(self) -> Space:
        return Discrete(3)

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def time_limit(self) -> int | None:
        return self.env.time_limit

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        state, obs = self.env.reset(key)
        return state, (obs[0] + 1).astype(jnp.int32)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        state, step = self.env.step(state, action, key)
        return state, dataclasses.replace(step, obs=(step.obs[0] + 1).astype(jnp.int32))


FAST = dict(lr=0.5, gamma=0.9, exploration=EpsilonGreedy(0.5))
CONTROL = {
    "QLearning": jaxrl.QLearning(**FAST),
    "ExpectedSARSA": jaxrl.ExpectedSARSA(**FAST),
    "DoubleQLearning": jaxrl.DoubleQLearning(**FAST),
    "SARSA": jaxrl.SARSA(**FAST),
    "SARSA 3": jaxrl.SARSA(**FAST, n_steps=3),
    "TreeBackup": jaxrl.TreeBackup(**FAST, n_steps=2),
    "QSigma": jaxrl.QSigma(**FAST, n_steps=2),
    "SARSALambda": jaxrl.SARSALambda(**FAST),
    "TrueOnlineSARSA": jaxrl.TrueOnlineSARSA(**{**FAST, "lr": 0.2}),
    "QLambda": jaxrl.QLambda(**{**FAST, "lr": 0.2}),
    "PengQLambda": jaxrl.PengQLambda(**{**FAST, "lr": 0.2}),
    "MonteCarloControl": jaxrl.MonteCarloControl(
        **FAST, horizon=4, decay=stepsizes.fixed, num_steps=1
    ),
    "DynaQ": jaxrl.DynaQ(**FAST),
    "PrioritizedSweeping": jaxrl.PrioritizedSweeping(**FAST),
}


# Of each way through a window, a trace or an episode one by default.
QUICK = {"QLearning", "SARSA 3", "SARSALambda", "MonteCarloControl", "DynaQ"}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in CONTROL]
)
def test_truncation(name: str) -> None:
    """V(1) = 10 and V(0) = 9; 1 if a cut is taken for an end, 5.26 if the next start is taken for
    what follows."""
    env = Numbered(jaxrl.envs.make("Probe-Truncation"))
    result = jaxrl.train(CONTROL[name], env, jax.random.key(0), steps=4_000, progress=False)
    q = np.asarray(result.state.table.values).reshape(-1, 3, 2)
    np.testing.assert_allclose(q[:, 1:], [[[9, 9], [10, 10]]] * len(q), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROL)
def test_credit(name: str) -> None:
    env = Numbered(jaxrl.envs.make("Probe-Credit"))
    result = jaxrl.train(CONTROL[name], env, jax.random.key(0), steps=4_000, progress=False)
    q = np.asarray(result.state.table.values).reshape(-1, 3, 2)
    want = [[-1, -1], [-0.9, 0.9], [1, 1]]
    np.testing.assert_allclose(q, [want] * len(q), atol=0.05)


# ---------------------------------------------------------------------------------------- figures


def test_the_dyna_maze() -> None:
    """T17: 17 steps in the third episode with fifty planning steps."""
    mean, spread = book.dyna(50, 100)
    assert abs(mean - 17) < 4 * 2**0.5 * spread + 0.5, (mean, spread)


@pytest.mark.slow
def test_double_q_learning_is_less_biased() -> None:
    """Share of left in episode 300: .119 and .069; 2000 runs instead of 10,000."""
    for agent, known in ((jaxrl.QLearning, 0.119), (jaxrl.DoubleQLearning, 0.069)):
        mean, spread = book.bias(agent, 2000)
        assert abs(mean - known) < 4 * spread + 5e-4, (agent, mean, spread)


def test_values_are_of_the_policy_that_acts() -> None:
    """T21: along the cliff the best policy that is random once in ten times is worth -20.71, what
    Expected SARSA converges to; -13 is what the greedy one is worth."""
    env: Any = jaxrl.envs.make("CliffWalking-v1")
    mdp = MDP.from_env(env, 1.0, dense=True)
    P, R = (0.9 * x + 0.1 * x.mean(1, keepdims=True) for x in (jnp.asarray(mdp.P), mdp.R))
    best = planning.value_iteration(MDP(P, R, 1.0, mdp.terminal), tolerance=1e-5)
    assert float(best.v[36]) == pytest.approx(-20.71, abs=0.005)
    agent = jaxrl.ExpectedSARSA(
        lr=1.0, gamma=1.0, exploration=EpsilonGreedy(0.1), num_envs=8, num_steps=8
    )
    result = jaxrl.train(agent, env, jax.random.key(0), steps=200_000, progress=False)
    q = np.asarray(result.state.table.values)[36]
    assert 0.9 * q.max() + 0.1 * q.mean() == pytest.approx(-20.71, abs=0.02)


@pytest.mark.parametrize(
    "steps", [1_600_000, pytest.param(16_000_000, marks=pytest.mark.slow)], ids=["1e6", "1e7"]
)
def test_blackjack_is_learned(steps: int) -> None:
    """The optimum is -0.043113: the greedy policy, by its linear equations, and what the table says
    of the first hands."""
    env: Any = jaxrl.envs.Blackjack()
    agent = jaxrl.QLearning(
        lr=1.0, gamma=1.0, decay=stepsizes.Polynomial(0.8), exploration=EpsilonGreedy(0.3),
        num_envs=100, num_steps=20,
    )  # fmt: skip
    result = jaxrl.train(agent, env, jax.random.key(0), steps=steps, progress=False)
    hands = float(np.asarray(result.metrics["episode/count"]).sum())
    assert steps / 1.6 < hands < steps / 1.2
    q = np.asarray(result.state.table.values)
    seen = np.asarray(jax.vmap(env.observe)(jnp.arange(env.num_states)))
    mdp = MDP.from_env(env, 1.0)
    assert mdp.start is not None
    found = planning.evaluate_linear(mdp, jnp.asarray(q.argmax(1)[seen]))
    assert float(mdp.start @ found.v) == pytest.approx(-0.043113, abs=0.01)
    assert float(mdp.start @ q.max(1)[seen]) == pytest.approx(-0.043113, abs=0.01)


def test_masks_are_kept() -> None:
    env = jaxrl.envs.make("MaximizationBias-v0")
    result = jaxrl.train(
        jaxrl.QLearning(exploration=EpsilonGreedy(1.0)), env, jax.random.key(0), steps=400,
        progress=False,
    )  # fmt: skip
    values = np.asarray(result.state.table.values)
    assert (values[0, 2:] == 0).all() and (values[1] != 0).all()
    assert np.asarray(result.state.table.allowed)[0].tolist() == [True] * 2 + [False] * 8
    action = result.policy({"observation": 0, "action_mask": np.arange(10) == 1})
    assert int(action) == 1


@pytest.mark.learning
@pytest.mark.parametrize("name", book.FIGURES)
def test_figure(name: str) -> None:
    row = book.measure(name)
    book.write([row])
    assert book.reached(row), row
