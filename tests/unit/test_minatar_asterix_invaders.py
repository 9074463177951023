"""Space Invaders and Asterix against the reference MinAtar: same state, same action, same step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs.minatar import space_invaders
from jaxrl.envs.minatar.space_invaders import SpaceInvaders

minatar_invaders = pytest.importorskip("minatar.environments.space_invaders")

TRANSITIONS = 6000


def stacked(states: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states)


def assert_same(ours: Any, theirs: Any) -> None:
    """Every leaf equal in every transition, and of one type."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def assert_same_step(step: Any, obs: list[Any], rewards: list[Any], ends: list[Any]) -> None:
    np.testing.assert_array_equal(step.obs, np.stack(obs))
    np.testing.assert_array_equal(step.reward, rewards)
    np.testing.assert_array_equal(step.terminated, ends)
    assert step.obs.dtype == bool and step.reward.dtype == jnp.float32
    assert step.terminated.dtype == bool and not step.truncated.any()


def invasion(game: Any, last_action: int) -> space_invaders.Invasion:
    return space_invaders.Invasion(
        cannon=np.int32(game.pos),
        shots=game.f_bullet_map.astype(bool),
        bombs=game.e_bullet_map.astype(bool),
        aliens=game.alien_map.astype(bool),
        right=np.bool_(game.alien_dir > 0),
        reload=np.int32(game.shot_timer),
        move_wait=np.int32(game.alien_move_timer),
        shot_wait=np.int32(game.alien_shot_timer),
        interval=np.int32(game.enemy_move_interval),
        last_action=np.int32(last_action),
    )  # pyright: ignore


def random_invasion(game: Any, rng: np.random.Generator) -> None:
    """Any planes of one, few or many aliens and shots: edges, ties and landings no play reaches.
    The lower rows are as likely as the upper ones, and every clock often stands at zero."""
    game.terminal = False
    game.pos = int(rng.integers(10))
    game.f_bullet_map[:] = rng.random((10, 10)) < rng.choice([0.0, 0.1, 0.9])
    game.e_bullet_map[:] = rng.random((10, 10)) < rng.choice([0.0, 0.1])
    game.alien_map[:] = rng.random((10, 10)) < rng.choice([0.0, 0.02, 0.3])
    game.alien_map[9] *= rng.random() < 0.3
    game.alien_map[rng.integers(9), rng.integers(10)] = 1  # MinAtar never has none
    game.alien_dir = int(rng.choice([-1, 1]))
    game.shot_timer = int(rng.integers(6)) * int(rng.integers(2))
    game.alien_move_timer = int(rng.integers(12)) * int(rng.integers(2))
    game.alien_shot_timer = int(rng.integers(10)) * int(rng.integers(2))
    game.enemy_move_interval = int(rng.integers(6, 13))


def hunt(game: Any, rng: np.random.Generator) -> int:
    """Out of the way of what falls, else to the nearest aliens and shoot, so that waves are
    cleared; sometimes anything."""
    if rng.random() < 0.1:
        return int(rng.integers(4))
    columns = np.flatnonzero(game.alien_map.any(axis=0))
    nearest = columns[np.argmin(abs(columns - game.pos))]
    wanted = int(nearest < game.pos) + 2 * int(nearest > game.pos)
    if wanted == 0 and game.shot_timer == 0:
        wanted = 3
    for action in (wanted, 1, 2):
        column = int(np.clip(game.pos + {1: -1, 2: 1}.get(action, 0), 0, 9))
        if not game.e_bullet_map[8, column]:
            return action
    return 0


@pytest.mark.parametrize("ramping", [True, False])
@pytest.mark.parametrize("played", [True, False])
def test_space_invaders_steps_as_minatar_does(played: bool, ramping: bool) -> None:
    rng = np.random.default_rng(0)
    game = minatar_invaders.Env(ramping=ramping)
    minimal = game.minimal_action_set()
    before: list[Any] = []
    after: list[Any] = []
    actions, obs, rewards, ends = [], [], [], []
    for _ in range(TRANSITIONS):
        if not played:
            random_invasion(game, rng)
        elif game.terminal:
            game.reset()
        action = hunt(game, rng) if played else int(rng.integers(4))
        before.append(invasion(game, 0))
        reward, end = game.act(minimal[action])
        after.append(invasion(game, action))
        actions.append(np.int32(action))
        obs.append(game.state())
        rewards.append(np.float32(reward))
        ends.append(np.bool_(end))
    # the cases that matter are among them
    pairs = list(zip(before, after, strict=True))
    assert sum(ends) > (20 if played else 500)
    assert sum(rewards) > 500
    assert sum(bool(a.right != b.right) for a, b in pairs) > 100
    waves = sum(int(b.aliens.sum()) > int(a.aliens.sum()) for a, b in pairs)
    faster = sum(int(b.interval) == int(a.interval) - 1 for a, b in pairs)
    assert waves >= (1 if played else 500)
    assert faster >= (1 if played else 500) if ramping else faster == 0

    env = SpaceInvaders(sticky=0.0, ramping=ramping)
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    states, step = jax.jit(jax.vmap(env.step))(
        stacked(before), jnp.asarray(np.stack(actions)), keys
    )
    assert_same(states, stacked(after))
    assert_same_step(step, obs, rewards, ends)


def test_space_invaders_begins_as_minatar_does() -> None:
    game = minatar_invaders.Env()
    state, obs = SpaceInvaders().reset(jax.random.key(0))
    assert_same(state, invasion(game, 0))
    np.testing.assert_array_equal(obs, game.state())


def sticky_moves(env: Any, state: Any, action: int, n: int = 4000) -> Any:
    """States after one step each from `state`, with one action asked for."""
    keys = jax.random.split(jax.random.key(1), n)
    return jax.jit(jax.vmap(env.step, in_axes=(None, None, 0)))(state, jnp.int32(action), keys)[0]


def assert_share(chosen: np.ndarray, share: float) -> None:
    """Within 4 standard deviations."""
    assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / chosen.size) ** 0.5


def test_space_invaders_repeats_the_last_action() -> None:
    state = invasion(minatar_invaders.Env(), 2)
    for sticky in (0.1, 0.5):
        states = sticky_moves(SpaceInvaders(sticky=sticky), state, action=1)
        went_right = np.asarray(states.cannon) == 6
        np.testing.assert_array_equal(went_right, states.last_action == 2)
        np.testing.assert_array_equal(~went_right, states.cannon == 4)
        assert_share(went_right, sticky)
    assert SpaceInvaders().sticky == 0.1 and SpaceInvaders().ramping


def test_space_invaders_spaces_are_those_of_minatar() -> None:
    game, env = minatar_invaders.Env(), SpaceInvaders()
    assert env.obs_space.shape == tuple(game.state_shape())
    assert env.obs_space.dtype == bool
    assert env.action_space.n == len(game.minimal_action_set())
    assert env.time_limit is None
