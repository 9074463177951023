"""Gridworlds drawn in text, bandits, and the small tasks of the textbooks, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
import jaxrl.envs
from jaxrl import rollout
from jaxrl.envs import wrappers
from jaxrl.envs.gridworld import grid
from jaxrl.envs.tabular import baird
from jaxrl.spaces import Discrete
from jaxrl.struct import static, struct
from jaxrl.types import ActOut, Spec

KEY = jax.random.key(0)
UP, RIGHT, DOWN, LEFT = range(4)


def walk(env: Any, state: int, actions: list[int]) -> list[tuple[int, float, bool]]:
    seen: list[tuple[int, float, bool]] = []
    at = jnp.asarray(state, jnp.int32)
    for action in actions:
        at, step = env.step(at, jnp.asarray(action), KEY)
        seen.append((int(step.obs), float(step.reward), bool(step.terminated)))
    return seen


def test_every_letter_of_a_map() -> None:
    """S . # over C G H: walls stop, the edge stops, the cliff sends back, goal and hole end."""
    env = jaxrl.envs.Gridworld(("S.#", "CHG"), goal_reward=5.0)
    assert walk(env, 0, [RIGHT, RIGHT, UP, LEFT, LEFT]) == [
        (1, -1.0, False),
        (1, -1.0, False),
        (1, -1.0, False),
        (0, -1.0, False),
        (0, -1.0, False),
    ]
    assert walk(env, 0, [DOWN]) == [(0, -100.0, False)]
    assert walk(env, 1, [DOWN]) == [(4, -100.0, True)]
    assert walk(env, 4, [RIGHT]) == [(5, 5.0, True)]


def test_slipping_goes_to_the_neighbouring_moves() -> None:
    env = jaxrl.envs.Gridworld(("...", ".S.", "..G"), slip=0.3)
    t = env.transitions(4, UP)
    found = dict(zip(t.next_state.tolist(), t.probability.tolist(), strict=True))
    assert found == {1: pytest.approx(0.7), 3: pytest.approx(0.15), 5: pytest.approx(0.15)}


def test_wind_lifts_the_one_who_leaves_a_column() -> None:
    env: Any = jaxrl.envs.make("WindyGridworld-v0")
    # The best way of example 6.5.
    way = [RIGHT] * 9 + [DOWN] * 4 + [LEFT] * 2
    seen = walk(env, 30, way)
    assert [x[0] for x in seen[:4]] == [31, 32, 33, 24]
    assert seen[-1] == (37, -1.0, True) and not any(x[2] for x in seen[:-1])
    # Gusts change only columns that have wind.
    gusty: Any = jaxrl.envs.make("WindyGridworld-v0", gust=2 / 3)
    t = gusty.transitions(34, RIGHT)  # fourth row, fifth column, wind 1
    np.testing.assert_array_equal(t.next_state, [35, 25, 15])
    np.testing.assert_allclose(t.probability, [1 / 3] * 3, atol=1e-6)
    calm = gusty.transitions(31, RIGHT)
    np.testing.assert_allclose(calm.probability, [0, 1, 0], atol=1e-6)
    king: Any = jaxrl.envs.make("WindyGridworld-v0", moves=grid.KING)
    assert king.action_space == Discrete(8)


def test_walls_move_when_it_is_time() -> None:
    env = jaxrl.envs.Gridworld(("S#G",), changes=((2, ("S.G",)),))
    assert env.obs_space == Discrete(3) and env.num_states == 9
    assert [x[0] for x in walk(env, 0, [RIGHT] * 4)] == [0, 0, 1, 2]
    # The clock goes on in the next episode, if the driver asks for it.
    assert int(env.inherit(jnp.asarray(2 * 3 + 1), jnp.asarray(0))) == 6


def wrapped(env: Any) -> Any:
    """In all wrappers with a state of their own, and one without."""
    env = wrappers.StickyAction(wrappers.Randomize(env, lambda _, env: env))
    env = wrappers.EpisodeStatistics(wrappers.TimeLimit(env, 1000))
    return wrappers.FrameStack(wrappers.Flatten(env), 2)


@pytest.mark.parametrize("wrap", [lambda env: env, wrapped])
def test_the_clock_of_a_maze_goes_on_in_training(wrap: Any) -> None:
    """Always right, 60 steps: an episode has two before the wall closes at step 20. Wrappers pass
    the clock on."""

    @struct
    class Right:
        num_envs: int = static(default=1)
        num_steps: int = static(default=60)

        def act(self, state: Any, obs: Any, key: Any, explore: bool = True) -> ActOut:
            return ActOut(jnp.full(1, RIGHT))

    env = wrap(jaxrl.envs.Gridworld(("S.G",), changes=((20, ("S#G",)),)))
    agent: Any = Right()
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    streams = rollout.start(agent, env, KEY)
    _, got, episodes = jax.jit(lambda s: rollout.collect(agent, env, spec, None, s, KEY))(streams)
    # Two steps to an episode, ten episodes until the wall stands.
    assert int(episodes.count) == 10
    np.testing.assert_array_equal(np.flatnonzero(got.terminated[:, 0]), np.arange(1, 20, 2))


def test_cells_of_the_cheese_maze_look_alike() -> None:
    env: Any = jaxrl.envs.CheeseMaze()
    seen = np.asarray(jax.vmap(env.observe)(jnp.arange(15)))
    up, right, down, left = 1, 2, 4, 8
    top = [up + left, up + down, up, up + down, up + right]
    assert seen[:5].tolist() == top
    assert seen[5] == seen[7] == seen[9] == left + right  # the three corridors
    assert seen[10] == seen[14] == left + right + down
    assert walk(env, 7, [DOWN])[0][2]


def test_the_television_is_noise() -> None:
    env: Any = jaxrl.envs.make("NoisyTV-v0", max_steps=None, channels=4)
    t = env.transitions(21, DOWN)  # from above the television onto it
    assert sorted(t.next_state.tolist()) == [28 + 35 * c for c in range(4)]
    np.testing.assert_allclose(t.probability, 0.25)
    away = env.transitions(28 + 35 * 3, UP)
    assert set(away.next_state.tolist()) == {21}


def test_the_bias_chain_masks_actions() -> None:
    env: Any = jaxrl.envs.make("MaximizationBias-v0")
    state, obs = env.reset(KEY)
    assert obs["action_mask"].tolist() == [True] * 2 + [False] * 8
    after, step = env.step(state, jnp.asarray(0), KEY)
    assert (int(after), float(step.reward), bool(step.terminated)) == (1, 0.0, False)
    assert step.obs["action_mask"].all()
    after, step = env.step(state, jnp.asarray(1), KEY)
    assert float(step.reward) == 0 and step.terminated
    keys = jax.random.split(KEY, 20_000)
    _, step = jax.vmap(lambda k: env.step(jnp.asarray(1), jnp.asarray(4), k))(keys)
    assert step.terminated.all()
    assert float(step.reward.mean()) == pytest.approx(-0.1, abs=0.035)
    assert float(step.reward.std()) == pytest.approx(1, abs=0.03)


def test_baird_diverges_under_semi_gradient_dynamic_programming() -> None:
    """Figure 11.2, right: expected updates, too, blow up; the values themselves are all 0."""
    env = jaxrl.envs.Baird()
    features, w = baird.FEATURES.astype(float), baird.START_WEIGHTS.astype(float)
    assert features.shape == (7, 8) and np.linalg.matrix_rank(features) == 7
    solid = env.transitions(0, 1)
    assert set(solid.next_state.tolist()) == {6}
    for _ in range(1000):
        v = features @ w
        w = w + 0.01 / 7 * features.T @ (0.99 * v[6] - v)
    assert 100 < np.abs(w).max() < 1000


def test_k_armed_bandits() -> None:
    env = jaxrl.envs.Bandit()
    keys = jax.random.split(KEY, 4000)
    states, _ = jax.vmap(env.reset)(keys)
    assert float(states.std()) == pytest.approx(1, abs=0.02)
    assert float(states.max(1).mean()) == pytest.approx(1.5388, abs=0.04)  # best of ten normals
    best = jax.vmap(env.optimal)(states)
    _, step = jax.vmap(env.step)(states, best, jax.random.split(jax.random.key(1), 4000))
    assert float((step.reward - states.max(1)).std()) == pytest.approx(1, abs=0.04)
    given = jaxrl.envs.Bandit(arms=2, means=jnp.asarray([3.0, -1.0]), noise=0.0)
    state, _ = given.reset(KEY)
    assert float(given.step(state, jnp.asarray(0), KEY)[1].reward) == 3.0


def test_a_drifting_bandit_wanders() -> None:
    env: Any = jaxrl.envs.make("DriftingBandit-v0", max_steps=None, drift=0.1)
    state, _ = env.reset(KEY)
    assert not state.any()

    def pull(state: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return env.step(state, jnp.asarray(0), key)[0], None

    def end(key: jax.Array) -> jax.Array:
        return jax.lax.scan(pull, state, jax.random.split(key, 100))[0]

    ends = jax.jit(jax.vmap(end))(jax.random.split(KEY, 500))
    assert float(ends.std()) == pytest.approx(1, abs=0.04)  # sqrt(100) * 0.1


def test_a_contextual_bandit_pays_by_context() -> None:
    weights = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
    env = jaxrl.envs.ContextualBandit(arms=2, features=2, weights=weights, noise=0.0)
    state, x = env.reset(KEY)
    after, step = env.step(state, jnp.asarray(1), jax.random.key(1))
    assert float(step.reward) == pytest.approx(2 * float(x[1]))
    assert not np.array_equal(step.obs, x)
    assert int(env.optimal(state)) == int(2 * x[1] > x[0])
    assert (after.weights == weights).all()


def test_bernoulli_arms_pay_zero_or_one() -> None:
    env = jaxrl.envs.BernoulliBandit(arms=2, means=jnp.asarray([0.2, 0.9]))
    state, _ = env.reset(KEY)
    keys = jax.random.split(KEY, 5000)
    _, step = jax.vmap(lambda k: env.step(state, jnp.asarray(1), k))(keys)
    assert set(np.unique(step.reward)) == {0.0, 1.0}
    assert float(step.reward.mean()) == pytest.approx(0.9, abs=0.02)
    assert int(env.optimal(state)) == 1


def test_deep_agents_see_observations_one_hot() -> None:
    """Without a wrapper: the first layer has a row for each cell."""
    env = jaxrl.envs.make("FrozenLake-v1")
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    state = jaxrl.PPO().init(KEY, spec)
    assert {16} <= {leaf.shape[0] for leaf in jax.tree.leaves(state.params) if leaf.ndim == 2}
    assert jaxrl.PPO().act(state, jnp.arange(3), KEY).action.shape == (3,)


@pytest.mark.slow
def test_deep_agents_learn_from_discrete_observations() -> None:
    env = jaxrl.envs.make("FrozenLake-v1", is_slippery=False)
    agent = jaxrl.PPO(num_envs=4, num_steps=16)
    run = jaxrl.train(agent, env, KEY, steps=256)
    assert np.isfinite(jaxrl.evaluate(run, env, episodes=2).mean)
    assert jaxrl.envs.Flatten(env).obs_space.shape == (16,)
