"""Each wrapper on an environment simple enough to work out by hand."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs
from jaxrl.envs.wrappers import (
    ClipReward,
    EpisodeStatistics,
    Flatten,
    FrameStack,
    LastActionReward,
    Randomize,
    RescaleAction,
    StickyAction,
    TimeLimit,
)
from jaxrl.spaces import Box, Dict, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Step

KEY = jax.random.key(0)


@struct
class Count:
    """Observes (steps made, last action); reward = scale x action; ends after `length` steps."""

    scale: Float = param(default=1.0)
    length: int = static(default=100)
    limit: int | None = static(default=None)

    obs_space = Box(-100.0, 100.0, (2,))
    action_space = Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))

    @property
    def time_limit(self) -> int | None:
        return self.limit

    def reset(self, key: Any) -> Any:
        del key
        return jnp.zeros((), jnp.int32), jnp.zeros(2)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        del key
        state = state + 1
        obs = jnp.stack([state.astype(jnp.float32), action[0]])
        no = jnp.zeros((), bool)
        return state, Step(obs, self.scale * action[1], state >= self.length, no)


@struct
class Coins:
    """A discrete environment with a mask; observation parts of every kind."""

    obs_space = Dict(
        {
            "image": Box(0, 255, (2, 2), np.uint8),
            "kind": Discrete(3),
            "action_mask": Box(0, 1, (2,), bool),
        }
    )
    action_space = Discrete(2)
    time_limit = None

    def _obs(self, t: Any) -> Any:
        return {
            "image": jnp.full((2, 2), 7, jnp.uint8),
            "kind": t,
            "action_mask": jnp.asarray([True, False]),
        }

    def reset(self, key: Any) -> Any:
        del key
        t = jnp.zeros((), jnp.int32)
        return t, self._obs(t)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        del action, key
        no = jnp.zeros((), bool)
        return state + 1, Step(self._obs(state + 1), jnp.ones(()), no, no)


def play(env: Any, actions: Any, key: Any = KEY) -> tuple[Any, list[Any], Any]:
    """-> first observation, the steps, the last state"""
    state, first = env.reset(key)
    steps = []
    for i, action in enumerate(actions):
        state, step = env.step(state, jnp.asarray(action), jax.random.fold_in(key, i))
        steps.append(step)
    return first, steps, state


def test_time_limit_truncates_at_its_step_and_not_before() -> None:
    _, steps, _ = play(TimeLimit(Count(), 3), [[0.0, 0.0]] * 3)
    assert [bool(s.truncated) for s in steps] == [False, False, True]
    assert not any(s.terminated for s in steps)
    # A termination stays one, also on the last step.
    _, steps, _ = play(TimeLimit(Count(length=3), 3), [[0.0, 0.0]] * 3)
    assert bool(steps[-1].terminated)


def test_time_limit_promises_the_sooner_of_two() -> None:
    assert TimeLimit(Count(), 7).time_limit == 7
    assert TimeLimit(Count(limit=5), 7).time_limit == 5
    assert TimeLimit(Count(limit=9), 7).time_limit == 7
    assert FrameStack(TimeLimit(Count(), 7), 2).time_limit == 7
    assert Randomize(Count(limit=5), lambda key, env: env).time_limit == 5


def test_episode_statistics_sum_since_the_start() -> None:
    _, _, state = play(EpisodeStatistics(Count()), [[0.0, 1.0], [0.0, 2.5], [0.0, 0.5]])
    assert (float(state.episode_return), int(state.episode_length)) == (4.0, 3)


def test_clip_reward_clips_both_ways() -> None:
    env = ClipReward(Count(), low=-0.5, high=2.0)
    _, steps, _ = play(env, [[0.0, 5.0], [0.0, -5.0], [0.0, 1.0]])
    assert [float(s.reward) for s in steps] == [2.0, -0.5, 1.0]


def test_rescale_action_maps_linearly_and_clips() -> None:
    env = RescaleAction(Count())
    assert env.action_space == Box(-1.0, 1.0, (2,))
    _, steps, _ = play(env, [[-1.0, -1.0], [1.0, 1.0], [0.5, 0.0], [9.0, -9.0]])
    assert [float(s.obs[1]) for s in steps] == [-2.0, 2.0, 1.0, 2.0]
    assert [float(s.reward) for s in steps] == [0.0, 10.0, 5.0, 0.0]


def test_sticky_action_repeats_what_was_executed() -> None:
    count = 5000
    env = StickyAction(Count(), prob=0.25)
    states, _ = jax.vmap(env.reset)(jax.random.split(KEY, count))
    seen = []
    for t in range(3):
        keys = jax.random.split(jax.random.key(t + 1), count)
        actions = jnp.full((count, 2), float(t))
        states, step = jax.vmap(env.step)(states, actions, keys)
        seen.append(np.asarray(step.obs[:, 1]))
    assert (seen[0] == 0).all()  # the first is always the chosen one
    assert np.mean(seen[1] == 0) == pytest.approx(0.25, abs=0.02)
    # Repeated: what was *executed* last, so action 0 may survive two steps.
    assert np.mean(seen[2] == 0) == pytest.approx(0.25**2, abs=0.015)
    assert np.mean(seen[2] == 1) == pytest.approx(0.25 * 0.75, abs=0.02)


def test_sticky_action_first_is_not_the_zero_action() -> None:
    env = StickyAction(Count(), prob=1.0)
    _, steps, _ = play(env, [[1.5, 0.0], [0.5, 0.0]])
    assert [float(s.obs[1]) for s in steps] == [1.5, 1.5]


def test_frame_stack_is_oldest_first_and_padded_with_the_first_observation() -> None:
    env = FrameStack(Count(), 3)
    assert env.obs_space == Box(-100.0, 100.0, (6,))
    first, steps, _ = play(env, [[1.0, 0.0], [2.0, 0.0]])
    np.testing.assert_array_equal(first, [0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(steps[0].obs, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(steps[1].obs, [0, 0, 1, 1, 2, 2])


def test_frame_stack_joins_channels_of_images() -> None:
    env = FrameStack(jaxrl.envs.make("Catch-bsuite"), 2)
    assert env.obs_space.shape == (10, 10)
    assert env.obs_space.dtype == np.bool_


def test_frame_stack_pads_with_an_observation_that_is_not_zero() -> None:
    env = FrameStack(jaxrl.envs.make("Pendulum-v1"), 2)
    first, _, _ = play(env, [])
    np.testing.assert_array_equal(first[:3], first[3:])
    assert np.abs(first).max() > 0


def test_flatten_joins_the_parts_and_leaves_the_mask() -> None:
    env = Flatten(Coins())
    first, steps, _ = play(env, [0])
    assert set(env.obs_space) == {"observation", "action_mask"}
    low, high = env.obs_space["observation"].low, env.obs_space["observation"].high
    assert (low, high) == (0.0, (255.0, 255.0, 255.0, 255.0, 1.0, 1.0, 1.0))
    np.testing.assert_array_equal(first["observation"], [7, 7, 7, 7, 1, 0, 0])
    np.testing.assert_array_equal(steps[0].obs["observation"], [7, 7, 7, 7, 0, 1, 0])
    np.testing.assert_array_equal(steps[0].obs["action_mask"], [True, False])


def test_last_action_and_reward_are_appended() -> None:
    env = LastActionReward(Count(scale=3.0))
    first, steps, _ = play(env, [[1.0, 2.0]])
    np.testing.assert_array_equal(first, [0, 0, 0, 0, 0])
    np.testing.assert_array_equal(steps[0].obs, [1, 1, 1, 2, 6])
    assert env.obs_space.low == (-100.0, -100.0, -2.0, 0.0, -np.inf)
    discrete = LastActionReward(jaxrl.envs.make("CartPole-v1"))
    first, steps, _ = play(discrete, [1])
    np.testing.assert_array_equal(first[4:], [0, 0, 0])
    np.testing.assert_array_equal(steps[0].obs[4:], [0, 1, 1])


def draw(key: Any, env: Any) -> Any:
    return dataclasses.replace(env, scale=jax.random.uniform(key, minval=1.0, maxval=9.0))


def test_randomize_draws_one_world_per_episode() -> None:
    env = Randomize(Count(), draw)
    rewards = []
    for i in range(20):
        _, steps, _ = play(env, [[0.0, 1.0]] * 3, jax.random.key(i))
        assert len({float(s.reward) for s in steps}) == 1  # the same world throughout
        rewards.append(float(steps[0].reward))
    assert len(set(rewards)) == 20 and min(rewards) >= 1 and max(rewards) <= 9
    assert max(rewards) - min(rewards) > 4


@pytest.mark.parametrize(
    ("use", "remedy"),
    [
        (lambda: RescaleAction(jaxrl.envs.make("CartPole-v1")).action_space, "leave the wrapper"),
        (lambda: FrameStack(Coins(), 4).obs_space, "Flatten"),
        (lambda: LastActionReward(jaxrl.envs.make("Catch-bsuite")).obs_space, "Flatten"),
        (
            lambda: Randomize(Count(), lambda k, e: Count(length=5)).reset(KEY),
            "dataclasses.replace",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_refused(use: Any, remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        use()
