"""Rollouts: boundaries of episodes, true final observations, spare starts, sums over episodes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rollout, spaces
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Rollout, Spec, Step


@struct
class Clock:
    """Observes (start, steps so far). Ends after `length` steps, by truncation or termination."""

    length: int = static(default=5)
    truncates: bool = static(default=True)
    both: bool = static(default=False)
    step_size: Float = param(default=1.0)

    @property
    def obs_space(self) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (2,))

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(2)

    @property
    def time_limit(self) -> int | None:
        return self.length if self.truncates or self.both else None

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        obs = jnp.stack([jax.random.uniform(key), 0.0])
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        state = state.at[1].add(self.step_size)
        over = state[1] >= self.length
        return state, Step(
            state, state[1], over & (not self.truncates or self.both), over & self.truncates
        )


@struct
class Idle:
    """Does nothing, and learns nothing."""

    num_envs: int = static(default=3)
    num_steps: int = static(default=12)

    def init(self, key: Key, spec: Spec) -> PyTree:
        return jnp.zeros(())

    def act(self, state: PyTree, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        return ActOut(jnp.zeros(obs.shape[0], jnp.int32), extras=obs[:, 1])

    def update(self, state: PyTree, rollout: Rollout, key: Key) -> tuple[PyTree, Metrics]:
        return state + 1, {"loss/nothing": jnp.zeros(())}


@struct
class Counting(Idle):
    """Remembers how many steps it has seen in this episode."""

    def initial_memory(self, num_envs: int) -> jax.Array:
        return jnp.full(num_envs, 100, jnp.int32)

    def act(  # pyright: ignore
        self, state: PyTree, obs: PyTree, key: Key, explore: bool, memory: jax.Array
    ) -> ActOut:
        return ActOut(jnp.zeros(obs.shape[0], jnp.int32), extras=memory, memory=memory + 1)


def play(env: Clock, agent: Idle | None = None, reset_every: int = 1, rounds: int = 1):
    agent = agent or Idle()
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    streams = rollout.start(agent, env, jax.random.key(0), reset_every)
    out = []
    for i in range(rounds):
        streams, experience, episodes = jax.jit(
            lambda s, i: rollout.collect(
                agent, env, spec, 0, s, jax.random.key(i + 1), i, reset_every
            )
        )(streams, i)
        out.append((experience, episodes))
    return streams, out


def test_an_episode_ends_and_the_next_begins() -> None:
    _, [(got, _)] = play(Clock())
    # Time in each environment: 0 1 2 3 4 | 0 1 2 3 4 | 0 1
    np.testing.assert_array_equal(got.obs[:, 0, 1], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(np.where(got.truncated[:, 1])[0], [4, 9])
    np.testing.assert_array_equal(np.where(got.first[:, 2])[0], [0, 5, 10])
    assert not got.terminated.any()
    np.testing.assert_array_equal(got.reward[:6, 0], [1, 2, 3, 4, 5, 1])


def test_the_final_observation_is_the_true_one() -> None:
    _, [(got, _)] = play(Clock())
    assert got.final_obs.shape == (3, 3, 2)  # ceil(12 / 5) rows
    for t in (4, 9):
        row = got.final_obs[t // 5]
        np.testing.assert_array_equal(row[:, 1], 5)
        np.testing.assert_array_equal(row[:, 0], got.obs[t, :, 0])  # of the same episode
        assert (row[:, 0] != got.obs[t + 1, :, 0]).all()


def test_the_final_observation_across_rollouts() -> None:
    # Rollouts of 4 and episodes of 5: truncations at t = 0 of the second rollout, and so on.
    _, played = play(Clock(), Idle(num_steps=4), rounds=6)
    found = 0
    for got, _ in played:
        for t, n in zip(*np.where(got.truncated), strict=True):
            assert got.final_obs[t // 5, n, 1] == 5
            found += 1
    assert found == 3 * (24 // 5)


def test_no_rows_for_an_environment_that_never_truncates() -> None:
    _, [(got, _)] = play(Clock(truncates=False))
    assert got.final_obs.shape == (0, 3, 2)
    np.testing.assert_array_equal(np.where(got.terminated[:, 0])[0], [4, 9])


def test_termination_wins_over_truncation() -> None:
    _, [(got, _)] = play(Clock(both=True))
    assert got.terminated[4].all()
    assert not got.truncated.any()


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_sums_over_finished_episodes(steps: int) -> None:
    _, played = play(Clock(), Idle(num_steps=steps), rounds=24 // steps)
    count = sum(float(e.count) for _, e in played)
    assert count == 3 * 4
    assert sum(float(e.returns) for _, e in played) == count * (1 + 2 + 3 + 4 + 5)
    assert sum(float(e.lengths) for _, e in played) == count * 5


def test_fresh_starts_are_all_different() -> None:
    _, played = play(Clock(length=1), Idle(num_steps=32), reset_every=1, rounds=2)
    starts = np.concatenate([got.obs[:, :, 0].ravel() for got, _ in played])
    assert len(np.unique(starts)) == len(starts)
    assert abs(starts.mean() - 0.5) < 0.1


def test_spares_repeat_only_within_their_window() -> None:
    # 32 one-step episodes with a spare per 16 steps: two starts in turn in each environment.
    _, played = play(Clock(length=1), Idle(num_steps=32), reset_every=16, rounds=2)
    for got, _ in played:
        for n in range(3):
            assert len(np.unique(got.obs[1:, n, 0])) <= 3
    first, second = (set(got.obs[1:, 0, 0].tolist()) for got, _ in played)
    assert len(first & second) <= 1  # the observation that spans the border


def test_short_rollouts_redraw_spares_once_per_window() -> None:
    _, played = play(Clock(length=1), Idle(num_steps=1), reset_every=4, rounds=12)
    starts = np.array([got.last_obs[0, 0] for got, _ in played])
    assert len(np.unique(starts)) == 3
    np.testing.assert_array_equal(starts[:4], starts[0])


def test_memory_is_reset_where_an_episode_begins() -> None:
    _, played = play(Clock(), Counting(), rounds=2)
    seen = np.concatenate([got.extras[:, 0] for got, _ in played])
    np.testing.assert_array_equal(seen - 100, np.arange(24) % 5)
    first, second = (got for got, _ in played)
    np.testing.assert_array_equal(second.memory, first.last_memory)


def test_streams_go_on_where_they_stopped() -> None:
    streams, played = play(Clock(), rounds=2)
    first, second = (got for got, _ in played)
    np.testing.assert_array_equal(first.last_obs, second.obs[0])
    assert streams.episode_length.tolist() == [24 % 5] * 3


def test_physical_constants_are_traced_per_environment() -> None:
    env = dataclasses.replace(Clock(), step_size=jnp.array([1.0, 2.0]))
    state = jnp.zeros((2, 2))
    in_axes = (Clock(step_size=0), 0, None, None)
    _, step = jax.vmap(Clock.step, in_axes=in_axes)(env, state, 0, jax.random.key(0))
    np.testing.assert_array_equal(step.obs[:, 1], [1, 2])


@struct
class Watched(Clock):
    """Has its time watched, which in its last step it does not know."""

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        state, step = super().step(state, action, key)
        time = jnp.where(step.truncated, jnp.nan, state[1])
        return state, dataclasses.replace(step, measures={"time": time})


@pytest.mark.parametrize("wrap", [lambda env: env, jaxrl.envs.ClipReward])
def test_what_an_environment_measures_is_a_metric(wrap: Any) -> None:
    env = wrap(Watched())
    run = jaxrl.train(Idle(num_steps=10), env, jax.random.key(0), steps=30, progress=False)
    np.testing.assert_allclose(run.metrics["measure/time"], 2.5)  # 1 2 3 4, twice
    assert (
        "measure/time"
        not in jaxrl.train(Idle(), Clock(), jax.random.key(0), steps=36, progress=False).metrics
    )
