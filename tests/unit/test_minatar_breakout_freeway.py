"""Breakout and Freeway against the reference MinAtar: same board, same action, same step."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs
from jaxrl.envs.minatar import breakout, freeway

minatar_breakout = pytest.importorskip("minatar.environments.breakout")
minatar_freeway = pytest.importorskip("minatar.environments.freeway")

TRANSITIONS = 6000

DIRECTION = {0: (-1, -1), 1: (-1, 1), 2: (1, 1), 3: (1, -1)}
"""MinAtar's `ball_dir` as row and column velocity."""


def stacked(states: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states)


def assert_same(ours: Any, theirs: Any) -> None:
    """Every leaf equal in every transition, and of one type."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def board(game: Any, last_action: int) -> breakout.Board:
    return breakout.Board(
        ball=np.array([game.ball_y, game.ball_x], np.int32),
        trail=np.array([game.last_y, game.last_x], np.int32),
        velocity=np.array(DIRECTION[game.ball_dir], np.int32),
        paddle=np.int32(game.pos),
        bricks=game.brick_map.astype(bool),
        struck=np.bool_(game.strike),
        last_action=np.int32(last_action),
    )  # pyright: ignore


def random_board(game: Any, rng: np.random.Generator) -> None:
    """Any ball and paddle on a wall with some, one or no bricks: corners no play would reach."""
    game.terminal = False
    game.ball_y, game.ball_x = rng.integers(0, 9), rng.integers(0, 10)
    game.last_y, game.last_x = rng.integers(0, 10, 2)
    game.ball_dir, game.pos = int(rng.integers(4)), int(rng.integers(10))
    game.strike = bool(rng.integers(2))
    game.brick_map[:] = 0
    game.brick_map[1:4] = rng.random((3, 10)) < rng.choice([0.0, 0.02, 0.5, 1.0])


@pytest.mark.parametrize("played", [True, False])
def test_breakout_steps_as_minatar_does(played: bool) -> None:
    rng = np.random.default_rng(0)
    game = minatar_breakout.Env()
    game.random.seed(0)
    minimal = game.minimal_action_set()
    before: list[Any] = []
    after: list[Any] = []
    actions = rng.integers(3, size=TRANSITIONS).astype(np.int32)
    obs, rewards, ends = [], [], []
    for i, action in enumerate(actions):
        if not played:
            random_board(game, rng)
        elif game.terminal:
            game.reset()
        if played and rng.random() < 0.8:  # follow the ball, or the wall is never broken through
            action = actions[i] = 1 + (game.pos < game.ball_x)
        before.append(board(game, 0))
        reward, end = game.act(minimal[action])
        after.append(board(game, action))
        obs.append(game.state())
        rewards.append(np.float32(reward))
        ends.append(np.bool_(end))
    # the cases that matter are among them
    assert sum(ends) > 100
    assert sum(rewards) > 100
    if not played:
        rebuilt = [
            not a.bricks.any() and bool(b.bricks.any()) for a, b in zip(before, after, strict=True)
        ]
        assert sum(rebuilt) > 10

    env = breakout.Breakout(sticky=0.0)
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    states, step = jax.jit(jax.vmap(env.step))(stacked(before), jnp.asarray(actions), keys)
    assert_same(states, stacked(after))
    np.testing.assert_array_equal(step.obs, np.stack(obs))
    np.testing.assert_array_equal(step.reward, rewards)
    np.testing.assert_array_equal(step.terminated, ends)
    assert step.obs.dtype == bool and step.reward.dtype == jnp.float32
    assert not step.truncated.any()


def test_breakout_serves_from_both_sides() -> None:
    env = breakout.Breakout()
    states, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 1000))
    game = minatar_breakout.Env()
    expected = {}
    while len(expected) < 2:
        game.reset()
        expected[game.ball_x] = (copy.deepcopy(board(game, 0)), game.state())
    right = np.asarray(states.ball[:, 1]) == 9
    assert 420 < right.sum() < 580  # 500 +- 5 standard deviations
    for side, chosen in ((9, right), (0, ~right)):
        state, plane = expected[side]
        first = jax.tree.map(lambda x, chosen=chosen: x[chosen], states)
        assert_same(first, jax.tree.map(lambda a, b: np.broadcast_to(b, a.shape), first, state))
        np.testing.assert_array_equal(obs[chosen], np.broadcast_to(plane, obs[chosen].shape))


def sticky_moves(env: Any, state: Any, n: int = 4000) -> Any:
    """States after one step each from `state`, with action 1 asked for."""
    keys = jax.random.split(jax.random.key(1), n)
    return jax.jit(jax.vmap(env.step, in_axes=(None, None, 0)))(state, jnp.int32(1), keys)[0]


def test_breakout_repeats_the_last_action() -> None:
    game = minatar_breakout.Env()
    for sticky in (0.1, 0.5):
        env = breakout.Breakout(sticky=sticky)
        states = sticky_moves(env, board(game, 2))
        went_right = np.asarray(states.paddle) == 5
        np.testing.assert_array_equal(went_right, states.last_action == 2)
        np.testing.assert_array_equal(~went_right, states.paddle == 3)
        # within 4 standard deviations
        assert abs(went_right.mean() - sticky) < 4 * (sticky * (1 - sticky) / 4000) ** 0.5
    assert breakout.Breakout().sticky == 0.1


def road(game: Any, last_action: int) -> freeway.Road:
    cars = np.array(game.cars, np.int32)  # [8, 4]: column, row, frames to wait, signed period
    np.testing.assert_array_equal(cars[:, 1], np.arange(1, 9))
    return freeway.Road(
        chicken=np.int32(game.pos),
        rest=np.int32(game.move_timer),
        cars=cars[:, 0],
        wait=cars[:, 2],
        traffic=freeway.Traffic(period=abs(cars[:, 3]), right=cars[:, 3] > 0),
        left=np.int32(game.terminate_timer),
        last_action=np.int32(last_action),
    )  # pyright: ignore


def random_traffic(rng: np.random.Generator) -> freeway.Traffic:
    return freeway.Traffic(period=rng.integers(1, 6, 8).astype(np.int32), right=rng.random(8) < 0.5)  # pyright: ignore


def random_road(game: Any, rng: np.random.Generator) -> None:
    """Cars crowd the crossing, the chicken is anywhere and the clock near its end."""
    game.terminal = False
    game.pos, game.move_timer = int(rng.integers(1, 10)), int(rng.integers(0, 2))
    game.terminate_timer = int(rng.integers(0, 4))
    for lane, car in enumerate(game.cars):
        speed = int(rng.integers(1, 6))
        car[:] = [
            int(rng.integers(3, 6)) if rng.random() < 0.5 else int(rng.integers(10)),
            lane + 1,
            int(rng.integers(speed + 1)),
            speed * int(rng.choice([-1, 1])),
        ]


@pytest.mark.parametrize("played", [True, False])
def test_freeway_steps_as_minatar_does(played: bool) -> None:
    rng = np.random.default_rng(0)
    game = minatar_freeway.Env()
    game.random.seed(0)
    game.reset()
    minimal = game.minimal_action_set()
    before: list[Any] = []
    after: list[Any] = []
    drawn: list[Any] = []
    actions = rng.choice(3, p=[0.1, 0.8, 0.1], size=TRANSITIONS).astype(np.int32)
    obs, rewards, ends = [], [], []
    hits = 0
    for action in actions:
        if not played:
            random_road(game, rng)
        elif game.terminal:
            game.reset()
        before.append(road(game, 0))
        reward, end = game.act(minimal[action])
        after.append(road(game, action))
        # MinAtar's own draw where it drew; elsewhere one that must not be used
        drawn.append(after[-1].traffic if reward else random_traffic(rng))
        hits += game.pos == 9 and before[-1].chicken < 9 and not reward
        obs.append(game.state())
        rewards.append(np.float32(reward))
        ends.append(np.bool_(end))
    assert hits > 100
    assert sum(rewards) > 20
    assert sum(ends) == 2 if played else sum(ends) > 1000

    def follow(state: Any, action: Any, new: Any) -> Any:
        state, reward, over = freeway.advance(state, action, new)
        return state, freeway.observe(state), reward, over

    states, planes, gains, overs = jax.jit(jax.vmap(follow))(
        stacked(before), jnp.asarray(actions), stacked(drawn)
    )
    assert_same(states, stacked(after))
    np.testing.assert_array_equal(planes, np.stack(obs))
    np.testing.assert_array_equal(gains, rewards)
    np.testing.assert_array_equal(overs, ends)

    # the environment is that function and, where the goal is reached, another draw
    env = jaxrl.envs.make("Freeway-MinAtar", sticky=0.0)
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    states, step = jax.jit(jax.vmap(env.step))(stacked(before), jnp.asarray(actions), keys)
    same = np.array(rewards) == 0
    assert_same(
        jax.tree.map(lambda x: x[same], states), jax.tree.map(lambda x: x[same], stacked(after))
    )
    np.testing.assert_array_equal(step.obs[same], np.stack(obs)[same])
    np.testing.assert_array_equal(step.reward, rewards)
    np.testing.assert_array_equal(step.terminated, ends)
    assert step.obs.dtype == bool and step.reward.dtype == jnp.float32
    assert not step.truncated.any()
    periods = np.asarray(states.traffic.period)
    changed = (periods != stacked(before).traffic.period).any(axis=1)
    assert changed[~same].all() and not changed[same].any()


def test_freeway_opens_as_minatar_does_with_fair_traffic() -> None:
    env = jaxrl.envs.make("Freeway-MinAtar")
    n = 4000
    states, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), n))
    traffic = states.traffic
    signed = np.where(traffic.right, traffic.period, -traffic.period)  # [n, 8]
    game = minatar_freeway.Env()
    for i in range(200):
        for lane, car in enumerate(game.cars):
            car[:] = [0, lane + 1, abs(int(signed[i, lane])), int(signed[i, lane])]
        game.pos, game.move_timer, game.terminate_timer = 9, 3, 2500
        assert_same(jax.tree.map(lambda x, i=i: np.asarray(x[i]), states), road(game, 0))
        np.testing.assert_array_equal(obs[i], game.state())
    # each lane: ten equal shares within 5 standard deviations; lanes are drawn apart
    for lane in range(8):
        share = np.array([(signed[:, lane] == s).mean() for s in (*range(-5, 0), *range(1, 6))])
        np.testing.assert_allclose(share, 0.1, atol=5 * (0.09 / n) ** 0.5)
    correlation = np.corrcoef(signed.T) - np.eye(8)
    assert abs(correlation).max() < 5 / n**0.5

    game.reset()  # MinAtar's own first road differs from ours in its draw alone
    opened = freeway.open_road(road(game, 0).traffic)
    assert_same(jax.tree.map(np.asarray, opened), road(game, 0))


def test_freeway_repeats_the_last_action() -> None:
    game = minatar_freeway.Env()
    game.move_timer, game.pos = 0, 9
    stay = road(game, 0)
    for sticky in (0.1, 0.5):
        env = jaxrl.envs.make("Freeway-MinAtar", sticky=sticky)
        states = sticky_moves(env, stay)
        stayed = np.asarray(states.chicken) == 9
        np.testing.assert_array_equal(stayed, states.last_action == 0)
        assert abs(stayed.mean() - sticky) < 4 * (sticky * (1 - sticky) / 4000) ** 0.5
    assert jaxrl.envs.make("Freeway-MinAtar").sticky == 0.1


@pytest.mark.parametrize("name", ["Breakout-MinAtar", "Freeway-MinAtar"])
def test_spaces_are_those_of_minatar(name: str) -> None:
    game = {"Breakout-MinAtar": minatar_breakout, "Freeway-MinAtar": minatar_freeway}[name].Env()
    env = jaxrl.envs.make(name)
    assert env.obs_space.shape == tuple(game.state_shape())
    assert env.obs_space.dtype == bool
    assert env.action_space.n == len(game.minimal_action_set())
    assert env.time_limit == {"Breakout-MinAtar": 1000, "Freeway-MinAtar": None}[name]
