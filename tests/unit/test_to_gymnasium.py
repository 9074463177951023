"""Our environments behind Gymnasium's interface."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as theirs
from gymnasium.utils.env_checker import check_env

import jaxrl.envs
from jaxrl import spaces
from jaxrl.envs import from_gymnasium, to_gymnasium
from jaxrl.envs.adapters import gymnasium_spaces as convert
from jaxrl.struct import static, struct
from jaxrl.types import Step

NAMES = [
    "CartPole-v1",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "Catch-bsuite",
    "Breakout-MinAtar",
    "TMaze-v0",
]


@pytest.mark.parametrize("name", NAMES)
def test_passes_gymnasiums_own_checker(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Advice, not faults: unbounded observations, and no registration with Gymnasium.
        for advice in ("maximum value is infinity", "minimum value is -infinity", "having a spec",
                       "symmetric and normalized"):  # fmt: skip
            warnings.filterwarnings("ignore", message=f".*{advice}.*")
        check_env(to_gymnasium(jaxrl.envs.make(name)))


def test_one_episode_is_that_of_the_environment() -> None:
    """Step by step the numbers of reset and step, cut by the time limit, and not beyond."""
    env = jaxrl.envs.make("CartPole-v1", max_steps=6)
    one = to_gymnasium(env)
    obs, info = one.reset(seed=3)
    assert info == {} and obs.dtype == np.float32
    rng = gymnasium.utils.seeding.np_random(3)[0]

    def key() -> jax.Array:
        return jax.random.key(int(rng.integers(2**31)))

    state, expected = env.reset(key())
    np.testing.assert_array_equal(obs, expected)
    for t in range(6):
        state, step = env.step(state, jnp.int32(t % 2), key())
        obs, reward, terminated, truncated, _ = one.step(t % 2)
        np.testing.assert_allclose(obs, step.obs, atol=1e-6)
        assert reward == 1.0 and isinstance(reward, float)
        assert terminated is False and truncated is (t == 5)
    with pytest.raises(gymnasium.error.ResetNeeded):
        one.step(0)
    other = one.reset(seed=4)[0]
    again = one.reset()[0]  # without a seed: another episode
    assert (other != again).any()
    np.testing.assert_array_equal(one.reset(seed=4)[0], other)
    with pytest.raises(ValueError, match="is not in"):
        one.step(7)


def test_termination_wins_over_truncation() -> None:
    @struct
    class Both:
        obs_space: Any = static(default=spaces.Discrete(3))
        action_space: Any = static(default=spaces.Discrete(2))
        time_limit: Any = static(default=1)

        def reset(self, key: Any) -> Any:
            return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)

        def step(self, state: Any, action: Any, key: Any) -> Any:
            yes = jnp.array(True)
            return state, Step(state + 2, jnp.float32(1), yes, yes)

    one = to_gymnasium(Both())
    assert one.observation_space == theirs.Discrete(3)
    one.reset(seed=0)
    obs, _, terminated, truncated, _ = one.step(0)
    assert obs == 2 and one.observation_space.contains(obs)
    assert (terminated, truncated) == (True, False)


def test_many_are_a_vector_environment_with_final_observations() -> None:
    env = jaxrl.envs.make("CartPole-v1", max_steps=5)
    many = to_gymnasium(env, num_envs=3)
    obs, _ = many.reset(seed=0)
    assert many.observation_space.contains(obs) and len(np.unique(obs[:, 0])) == 3
    for t in range(1, 11):
        before = obs
        obs, reward, terminated, truncated, infos = many.step(np.array([0, 1, 0]))
        assert reward.tolist() == [1.0] * 3 and not terminated.any()
        assert truncated.all() == (t % 5 == 0) == ("final_obs" in infos)
        if truncated.all():
            final = np.stack(list(infos["final_obs"]))
            assert infos["_final_obs"].all()
            assert (np.abs(obs) <= 0.05).all()  # starts
            np.testing.assert_allclose(final[:, 0], before[:, 0] + 0.02 * before[:, 1], atol=1e-6)
    same = many.reset(seed=[5, 6, 5])[0]
    np.testing.assert_array_equal(same[0], same[2])
    assert (same[0] != same[1]).any()


def test_out_and_in_again() -> None:
    """Ours, through Gymnasium, trained as a host environment."""
    env = jaxrl.envs.Flatten(jaxrl.envs.make("Catch-bsuite"))
    agent = jaxrl.PPO(num_envs=2, num_steps=9, minibatches=2, epochs=1)
    for host in (
        from_gymnasium(lambda: to_gymnasium(env), 2),
        from_gymnasium(to_gymnasium(env, num_envs=2)),
    ):
        assert host.obs_space == env.obs_space and host.action_space == env.action_space
        result = jaxrl.train(agent, host, jax.random.key(0), steps=90)
        assert result.metrics["episode/length"][-1] == 9.0


def test_an_environment_with_a_picture_is_rendered() -> None:
    plain = jaxrl.envs.CartPole()

    @struct
    class Pictured:
        inner: Any
        fps = 12
        obs_space = plain.obs_space
        action_space = plain.action_space
        time_limit = None

        def reset(self, key: Any) -> Any:
            return self.inner.reset(key)

        def step(self, state: Any, action: Any, key: Any) -> Any:
            return self.inner.step(state, action, key)

        def render(self, state: Any) -> Any:
            return np.full((4, 6, 3), 7, np.uint8)

    one = to_gymnasium(Pictured(plain), render_mode="rgb_array")
    assert one.metadata["render_fps"] == 12
    one.reset(seed=0)
    assert one.render().shape == (4, 6, 3)
    with pytest.raises(ValueError, match="rgb_array"):
        to_gymnasium(Pictured(plain)).render()
    with pytest.raises(ValueError, match="render_mode='human'"):
        to_gymnasium(Pictured(plain), render_mode="human")


# ---------------------------------------------------------------------------------------- spaces

PAIRS = [
    (theirs.Discrete(4), spaces.Discrete(4)),
    (theirs.Discrete(4, start=-2), spaces.Discrete(4)),
    (theirs.MultiDiscrete([2, 5]), spaces.MultiDiscrete((2, 5))),
    (theirs.MultiDiscrete([[2, 5], [3, 4]]), spaces.MultiDiscrete((2, 5, 3, 4))),
    (theirs.MultiBinary(3), spaces.Box(0, 1, (3,), np.bool_)),
    (theirs.Box(-1.0, 2.0, (2,), np.float64), spaces.Box(-1.0, 2.0, (2,))),
    (theirs.Box(0, 255, (4, 4, 3), np.uint8), spaces.Box(0, 255, (4, 4, 3), np.uint8)),
    (theirs.Box(0, 10, (2,), np.int64), spaces.Box(0, 10, (2,), np.int32)),
    (
        theirs.Dict({"a": theirs.Discrete(2), "b": theirs.Box(0.0, 1.0, (1,))}),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0.0, 1.0, (1,))}),
    ),
    (
        theirs.Tuple((theirs.Discrete(3, start=1), theirs.Box(0.0, 1.0, (2,)))),
        spaces.Dict({"0": spaces.Discrete(3), "1": spaces.Box(0.0, 1.0, (2,))}),
    ),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair[0])[:30])
def test_observations_arrive_as_ours(pair: Any) -> None:
    """One by one and in a batch, alike."""
    space, ours = pair
    space.seed(0)
    assert convert.convert(space) == ours
    samples = [space.sample() for _ in range(5)]
    rows = convert.blank(space, 5)
    for i, x in enumerate(samples):
        convert.write(space, rows, i, x)
    empty = gymnasium.vector.utils.create_empty_array(space, 5)
    given = gymnasium.vector.utils.concatenate(space, samples, empty)
    batch = convert.received(space, given)
    jax.tree.map(np.testing.assert_array_equal, rows, batch)
    assert jax.tree.map(lambda x: x.dtype, rows) == jax.tree.map(lambda x: x.dtype, batch)
    for i in range(5):
        assert ours.contains(jax.tree.map(lambda x, i=i: x[i], rows))
    # A copy: what the environment writes to later is not what was given.
    for x, y in zip(jax.tree.leaves(batch), jax.tree.leaves(given), strict=True):
        assert not np.shares_memory(x, y)


@pytest.mark.parametrize("space", [p[0] for p in PAIRS[:6]], ids=str)
def test_actions_leave_as_theirs(space: Any) -> None:
    ours = convert.convert_action(space)
    keys = jax.random.split(jax.random.key(0), 20)
    drawn = np.asarray(jax.vmap(ours.sample)(keys))
    batch = convert.actions(space, drawn)
    for one, row in zip(convert.one_by_one(space, drawn), batch, strict=True):
        assert space.contains(one)
        np.testing.assert_array_equal(one, row)
    # All of them are reached, also where counting starts elsewhere.
    if isinstance(space, theirs.Discrete):
        assert set(batch.tolist()) == set(range(space.start, space.start + space.n))


def test_spaces_go_back() -> None:
    for name in NAMES:
        env = jaxrl.envs.make(name)
        for space in (env.obs_space, env.action_space):
            there = convert.convert(convert.back(space))
            assert type(there) is type(space) and there.shape == space.shape
            assert there.dtype == space.dtype
            if isinstance(space, spaces.Box):  # in float32
                np.testing.assert_allclose(there.low, space.low, rtol=1e-6)
                np.testing.assert_allclose(there.high, space.high, rtol=1e-6)
            else:
                assert there == space


@pytest.mark.parametrize(
    "space",
    [
        theirs.Text(3),
        theirs.Sequence(theirs.Discrete(2)),
        theirs.Box(-(2**40), 2**40, (1,), np.int64),
    ],
    ids=str,
)
def test_what_has_no_counterpart_is_refused(space: Any) -> None:
    with pytest.raises(TypeError, match="wrap the environment first"):
        convert.convert(space)


@pytest.mark.parametrize(
    "space", [theirs.Box(0, 3, (2,), np.int32), theirs.Dict({"a": theirs.Discrete(2)})], ids=str
)
def test_actions_no_agent_chooses_are_refused(space: Any) -> None:
    with pytest.raises(TypeError, match="no "):
        convert.convert_action(space)


def test_an_environment_of_mixed_observations_is_trained() -> None:
    class Mixed(gymnasium.Env[Any, Any]):
        observation_space = theirs.Tuple(
            (theirs.Discrete(3, start=1), theirs.Box(-1.0, 1.0, (2,), np.float64))
        )
        action_space = theirs.Discrete(2, start=5)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.t = 0
            return (1, np.zeros(2)), {}

        def step(self, action: Any) -> Any:
            assert action in (5, 6)
            self.t += 1
            return (1 + self.t, np.ones(2)), 1.0, self.t == 2, False, {}

    agent = jaxrl.PPO(num_envs=2, num_steps=8, minibatches=2, epochs=1)
    for env in (
        from_gymnasium(Mixed, 2),
        from_gymnasium(gymnasium.vector.SyncVectorEnv([Mixed, Mixed])),
        from_gymnasium([Mixed, Mixed], vector=gymnasium.vector.SyncVectorEnv),
    ):
        result = jaxrl.train(agent, env, jax.random.key(0), steps=64)
        np.testing.assert_array_equal(result.metrics["episode/length"], 2.0)


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"jaxrl\.envs\.make"):
        to_gymnasium("CartPole-v1")  # pyright: ignore
    with pytest.raises(ValueError, match="leave num_envs out"):
        to_gymnasium(jaxrl.envs.make("CartPole-v1"), 2, render_mode="rgb_array")
    many = to_gymnasium(jaxrl.envs.make("CartPole-v1"), 2)
    with pytest.raises(ValueError, match="takes none"):
        many.reset(options={"reset_mask": np.array([True, False])})


def test_the_constants_of_the_environment_count() -> None:
    """Two environments that differ in a traced constant share a program, not a result."""
    ends = []
    for gravity in (9.8, 98.0):
        env = dataclasses.replace(jaxrl.envs.CartPole(), gravity=gravity)
        one = to_gymnasium(env)
        one.reset(seed=0)
        for _ in range(4):
            obs = one.step(1)[0]
        ends.append(obs)
    assert (ends[0] != ends[1]).any()
