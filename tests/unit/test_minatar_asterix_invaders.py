"""Space Invaders and Asterix against the reference MinAtar: same state, same action, same step."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs.minatar import asterix, space_invaders
from jaxrl.envs.minatar.asterix import Asterix
from jaxrl.envs.minatar.space_invaders import SpaceInvaders

minatar_asterix = pytest.importorskip("minatar.environments.asterix")
minatar_invaders = pytest.importorskip("minatar.environments.space_invaders")

TRANSITIONS = 8000


def reference(module: Any, ramping: bool = True) -> Any:
    """A game of MinAtar's that draws the same numbers in every run."""
    game = module.Env(ramping=ramping)
    game.random = np.random.RandomState(0)
    game.reset()
    return game


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


def late_wave(game: Any, rng: np.random.Generator) -> None:
    """A game in which few aliens are left or all are low, so that waves and games end often."""
    game.reset()
    if rng.random() < 0.6:
        game.alien_map *= rng.random((10, 10)) < 0.05
        game.alien_map[3, rng.integers(2, 8)] = 1
    game.alien_map = np.roll(game.alien_map, rng.integers(5), axis=0)


@pytest.mark.parametrize("ramping", [True, False])
@pytest.mark.parametrize("played", [True, False])
def test_space_invaders_steps_as_minatar_does(played: bool, ramping: bool) -> None:
    rng = np.random.default_rng(0)
    game = reference(minatar_invaders, ramping)
    minimal = game.minimal_action_set()
    before: list[Any] = []
    after: list[Any] = []
    actions, obs, rewards, ends = [], [], [], []
    for t in range(TRANSITIONS):
        if not played:
            random_invasion(game, rng)
        elif game.terminal or t % 200 == 0:
            late_wave(game, rng)
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
    assert waves >= (10 if played else 500)
    assert faster >= (10 if played else 500) if ramping else faster == 0

    env = SpaceInvaders(sticky=0.0, ramping=ramping)
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    states, step = jax.jit(jax.vmap(env.step))(
        stacked(before), jnp.asarray(np.stack(actions)), keys
    )
    assert_same(states, stacked(after))
    assert_same_step(step, obs, rewards, ends)


def test_space_invaders_begins_as_minatar_does() -> None:
    game = reference(minatar_invaders)
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
    state = invasion(reference(minatar_invaders), 2)
    for sticky in (0.1, 0.5):
        states = sticky_moves(SpaceInvaders(sticky=sticky), state, action=1)
        went_right = np.asarray(states.cannon) == 6
        np.testing.assert_array_equal(went_right, states.last_action == 2)
        np.testing.assert_array_equal(~went_right, states.cannon == 4)
        assert_share(went_right, sticky)
    assert SpaceInvaders().sticky == 0.1 and SpaceInvaders().ramping


class Draws:
    """In place of MinAtar's random numbers: what arrives next, chosen by the test."""

    def __init__(self, right: bool, gold: bool, choice: int):
        self.uniform = iter([0.0 if right else 0.9, 0.0 if gold else 0.9])
        self.choice = choice

    def rand(self) -> float:
        return next(self.uniform)

    def randint(self, n: int) -> int:
        return self.choice % n


def arrival(game: Any, right: bool, gold: bool, choice: int) -> asterix.Arrival:
    """What those draws mean in this state, and MinAtar told to draw them."""
    game.random = Draws(right, gold, choice)
    lane = np.zeros(8, bool)
    empty = [i for i, thing in enumerate(game.entities) if thing is None]
    if empty:
        lane[empty[choice % len(empty)]] = True
    return asterix.Arrival(lane=lane, right=np.bool_(right), gold=np.bool_(gold))  # pyright: ignore


def field(game: Any, last_action: int) -> asterix.Field:
    lanes = np.zeros((4, 8), np.int32)
    for lane, thing in enumerate(game.entities):
        if thing is not None:
            column, row, right, gold = thing
            assert row == lane + 1
            lanes[:, lane] = 1, column, right, gold
    return asterix.Field(
        player=np.array([game.player_y, game.player_x], np.int32),
        lanes=asterix.Lanes(
            full=lanes[0] == 1, column=lanes[1], right=lanes[2] == 1, gold=lanes[3] == 1
        ),
        spawn_wait=np.int32(game.spawn_timer),
        move_wait=np.int32(game.move_timer),
        pace=asterix.Pace(
            spawn=np.int32(game.spawn_speed),
            move=np.int32(game.move_speed),
            level=np.int32(game.ramp_index),
            wait=np.int32(game.ramp_timer),
        ),
        last_action=np.int32(last_action),
    )  # pyright: ignore


def random_field(game: Any, rng: np.random.Generator) -> None:
    """Few or many things, often where the player is; clocks often at zero, at any pace."""
    game.terminal = False
    game.player_x, game.player_y = int(rng.integers(10)), int(rng.integers(1, 9))
    crowd = rng.choice([0.3, 0.8, 1.0])
    for lane in range(8):
        near = int(np.clip(game.player_x + rng.integers(-2, 3), 0, 9))
        column = near if rng.random() < 0.6 else int(rng.integers(10))
        thing = [column, lane + 1, bool(rng.integers(2)), bool(rng.integers(2))]
        game.entities[lane] = thing if rng.random() < crowd else None
    game.spawn_speed, game.move_speed = int(rng.integers(1, 11)), int(rng.integers(1, 6))
    if rng.random() < 0.2:
        game.spawn_speed = 1
    if rng.random() < 0.2:
        game.move_speed = 1
    game.spawn_timer = int(rng.integers(10)) * int(rng.integers(2))
    game.move_timer = int(rng.integers(5)) * int(rng.integers(2))
    game.ramp_timer, game.ramp_index = int(rng.integers(-1, 3)), int(rng.integers(9))


def gather(game: Any, rng: np.random.Generator) -> int:
    """After the gold that is nearest; sometimes anything."""
    gold = [thing for thing in game.entities if thing is not None and thing[3]]
    if not gold or rng.random() < 0.2:
        return int(rng.integers(5))
    column, row, *_ = min(gold, key=lambda g: abs(g[0] - game.player_x) + abs(g[1] - game.player_y))
    if row != game.player_y:
        return 4 if row > game.player_y else 2
    return 3 if column > game.player_x else 1


def follow(state: Any, action: Any, new: Any, ramping: bool) -> Any:
    state, reward, over = asterix.advance(state, action, new, ramping)
    return state, asterix.observe(state), reward, over


@pytest.mark.parametrize("ramping", [True, False])
@pytest.mark.parametrize("played", [True, False])
def test_asterix_steps_as_minatar_does(played: bool, ramping: bool) -> None:
    rng = np.random.default_rng(0)
    game = reference(minatar_asterix, ramping)
    minimal = game.minimal_action_set()
    before: list[Any] = []
    after: list[Any] = []
    drawn, actions, obs, rewards, ends = [], [], [], [], []
    for _ in range(TRANSITIONS):
        if not played:
            random_field(game, rng)
        elif game.terminal and rng.random() < 0.02:
            game.reset()
        game.terminal = False  # mostly play on after the end: late stages are hard to reach
        action = gather(game, rng) if played else int(rng.integers(5))
        before.append(field(game, 0))
        new = arrival(game, rng.random() < 0.5, rng.random() < 0.4, int(rng.integers(840)))
        reward, end = game.act(minimal[action])
        after.append(field(game, action))
        drawn.append(new)
        actions.append(np.int32(action))
        obs.append(game.state())
        rewards.append(np.float32(reward))
        ends.append(np.bool_(end))
    # the cases that matter are among them
    assert sum(ends) > 100
    assert sum(rewards) > 50
    levels = [int(state.pace.level) for state in before]
    assert max(levels) == 0 if played and not ramping else max(levels) > 5
    due = [state.spawn_wait == 0 for state in before]
    assert sum(due) > 500
    if not played:
        assert sum(d and state.lanes.full.all() for d, state in zip(due, before, strict=True)) > 50

    states, planes, gains, overs = jax.jit(jax.vmap(follow, (0, 0, 0, None)), static_argnums=3)(
        stacked(before), jnp.asarray(np.stack(actions)), stacked(drawn), ramping
    )
    assert_same(states, stacked(after))
    np.testing.assert_array_equal(planes, np.stack(obs))
    np.testing.assert_array_equal(gains, rewards)
    np.testing.assert_array_equal(overs, ends)

    # the environment is that function with its own arrivals, and nothing else is left to chance
    env = Asterix(sticky=0.0, ramping=ramping)
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    states, step = jax.jit(jax.vmap(env.step))(
        stacked(before), jnp.asarray(np.stack(actions)), keys
    )
    same = ~np.array(due)
    assert same.sum() > 500

    def pick(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x)[same], tree)

    assert_same(pick(states), pick(stacked(after)))
    assert_same_step(pick(step), *(list(np.stack(x)[same]) for x in (obs, rewards, ends)))


def test_every_arrival_in_asterix_does_what_it_does_in_minatar() -> None:
    rng = np.random.default_rng(1)
    game = reference(minatar_asterix)
    minimal = game.minimal_action_set()
    before: list[Any] = []
    after: list[Any] = []
    drawn, actions, obs, rewards, ends = [], [], [], [], []
    for _ in range(150):
        random_field(game, rng)
        game.spawn_timer = 0
        if rng.random() < 0.5:
            game.player_x = int(rng.choice([0, 9]))  # things that arrive on the player
        action = int(rng.integers(5))
        for outcome in range(4 * max(1, game.entities.count(None))):
            trial = copy.deepcopy(game)
            drawn.append(arrival(trial, outcome % 2 == 1, outcome // 2 % 2 == 1, outcome // 4))
            before.append(field(trial, 0))
            reward, end = trial.act(minimal[action])
            after.append(field(trial, action))
            actions.append(np.int32(action))
            obs.append(trial.state())
            rewards.append(np.float32(reward))
            ends.append(np.bool_(end))
    assert len(before) > 1000
    states, planes, gains, overs = jax.jit(jax.vmap(follow, (0, 0, 0, None)), static_argnums=3)(
        stacked(before), jnp.asarray(np.stack(actions)), stacked(drawn), True
    )
    assert_same(states, stacked(after))
    np.testing.assert_array_equal(planes, np.stack(obs))
    np.testing.assert_array_equal(gains, rewards)
    np.testing.assert_array_equal(overs, ends)


def test_asterix_has_the_chances_of_minatar() -> None:
    """Each empty lane and side alike, gold once in three, whatever the lane and side."""
    rng = np.random.default_rng(0)
    choose = jax.jit(jax.vmap(asterix.choose, (0, None)))
    points = 6 * 840  # 840 is divisible by every number of empty lanes
    chance = (np.arange(points) + 0.5) / points
    chance[[0, -1]] = 0, np.nextafter(np.float32(1), np.float32(0))
    for n in range(9):
        full = rng.permutation(8) >= n
        new = choose(jnp.asarray(chance, jnp.float32), full)
        np.testing.assert_array_equal(new.lane.sum(axis=1), min(n, 1))
        count = np.zeros((8, 2, 2), int)  # lane, right, gold
        lane = np.argmax(new.lane, axis=1)
        np.add.at(count, (lane, new.right.astype(int), new.gold.astype(int)), 1)
        if n:
            share = np.broadcast_to(points // (6 * n) * np.array([2, 1]), (n, 2, 2))
            np.testing.assert_array_equal(count[~full], share)
            assert not count[full].any()


def test_asterix_draws_arrivals_and_sticky_actions_apart() -> None:
    game = reference(minatar_asterix)
    game.spawn_timer = 0
    game.entities[:4] = [[0, lane, True, True] for lane in (1, 2, 3, 4)]
    state = field(game, 3)
    for sticky in (0.1, 0.5):
        states = sticky_moves(Asterix(sticky=sticky), state, action=1)
        went_right = np.asarray(states.player[:, 1]) == 6
        np.testing.assert_array_equal(went_right, states.last_action == 3)
        np.testing.assert_array_equal(~went_right, states.player[:, 1] == 4)
        assert_share(went_right, sticky)
        assert states.lanes.full[:, :4].all()
        new = np.asarray(states.lanes.full[:, 4:])
        np.testing.assert_array_equal(new.sum(axis=1), 1)
        right = np.any(states.lanes.right[:, 4:], axis=1)
        gold = np.any(states.lanes.gold[:, 4:], axis=1)
        for chosen in (went_right, ~went_right):
            for lane in range(4):
                assert_share(new[chosen, lane], 1 / 4)
            assert_share(right[chosen], 1 / 2)
            assert_share(gold[chosen], 1 / 3)
    assert Asterix().sticky == 0.1 and Asterix().ramping


def test_asterix_begins_as_minatar_does() -> None:
    game = reference(minatar_asterix)
    state, obs = Asterix().reset(jax.random.key(0))
    assert_same(state, field(game, 0))
    np.testing.assert_array_equal(obs, game.state())


@pytest.mark.parametrize("name", ["SpaceInvaders", "Asterix"])
def test_spaces_are_those_of_minatar(name: str) -> None:
    game = reference({"SpaceInvaders": minatar_invaders, "Asterix": minatar_asterix}[name])
    env = {"SpaceInvaders": SpaceInvaders, "Asterix": Asterix}[name]()
    assert env.obs_space.shape == tuple(game.state_shape())
    assert env.obs_space.dtype == bool
    assert env.action_space.n == len(game.minimal_action_set())
    assert env.time_limit is None
