"""Seaquest against the reference MinAtar: same state, same action, same arrivals, same step."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs.minatar import seaquest
from jaxrl.envs.minatar.seaquest import Seaquest

minatar_seaquest = pytest.importorskip("minatar.environments.seaquest")

TRANSITIONS = 6000


def reference(ramping: bool = True, seed: int = 0) -> Any:
    game = minatar_seaquest.Env(ramping=ramping)
    game.random = np.random.RandomState(seed)
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


class Draws:
    """In place of MinAtar's random numbers: what arrives next, chosen by the test."""

    def __init__(self, game: Any, new: seaquest.Arrivals):
        self.uniform: list[float] = []
        self.rows: list[int] = []
        if game.e_spawn_timer == 0:
            self.uniform += [0.0 if new.right else 0.9, 0.9 if new.fish else 0.0]
            self.rows.append(int(new.row))
        if game.d_spawn_timer == 0:
            self.uniform.append(0.0 if new.diver_right else 0.9)
            self.rows.append(int(new.diver_row))

    def rand(self) -> float:
        return self.uniform.pop(0)

    def randint(self, low: int, high: int) -> int:
        assert (low, high) == (1, 9)
        return self.rows.pop(0)


def draw(rng: np.random.Generator) -> seaquest.Arrivals:
    return seaquest.Arrivals(
        row=np.int32(rng.integers(1, 9)),
        right=np.bool_(rng.integers(2)),
        fish=np.bool_(rng.random() < 0.6),
        diver_row=np.int32(rng.integers(1, 9)),
        diver_right=np.bool_(rng.integers(2)),
    )  # pyright: ignore


def missiles(bullets: list[Any]) -> seaquest.Missiles:
    planes = np.zeros((2, 10, 10), bool)
    for column, row, right in bullets:
        planes[int(right), row, column] = True
    return seaquest.Missiles(left=planes[0], right=planes[1])  # pyright: ignore


def sea(game: Any, last_action: int) -> seaquest.Sea:
    enemies, heading = np.zeros((10, 10), np.int32), np.zeros(10, bool)
    kinds = [[*fish, 14] for fish in game.e_fish] + game.e_subs
    for column, row, right, wait, shot_wait in kinds:
        assert (enemies[row, column] >> 4 * wait) & 15 == 0, "two enemies alike"
        assert not enemies[row].any() or heading[row] == right
        enemies[row, column] |= (shot_wait + 1) << 4 * wait
        heading[row] = right
    # which of the two a diver is follows from how long it has been there
    divers = np.zeros((3, 2), np.int32)
    for column, row, right, wait in game.divers:
        age = 6 * (column if right else 9 - column) + 5 - wait
        assert age % 30 == (30 - game.d_spawn_timer) % 30, "not in step with the clock"
        assert not divers[0, int(age <= 30)], "three divers"
        divers[:, int(age <= 30)] = 1, row, right
    # pace and arrivals follow from the level
    assert game.e_spawn_speed == 20 - game.ramp_index
    assert game.move_speed == max(5 - game.ramp_index // 2, 2)
    assert len({(x, y) for x, y, _ in game.f_bullets}) == len(game.f_bullets)
    return seaquest.Sea(
        row=np.int32(game.sub_y),
        column=np.int32(game.sub_x),
        right=np.bool_(game.sub_or),
        shots=missiles(game.f_bullets),
        torpedoes=missiles(game.e_bullets),
        enemies=enemies,
        heading=heading,
        divers=seaquest.Divers(there=divers[0] == 1, row=divers[1], right=divers[2] == 1),
        aboard=np.int32(game.diver_count),
        air=np.int32(game.oxygen),
        surfaced=np.bool_(game.surface),
        reload=np.int32(game.shot_timer),
        enemy_wait=np.int32(game.e_spawn_timer),
        diver_wait=np.int32(game.d_spawn_timer),
        level=np.int32(game.ramp_index),
        last_action=np.int32(last_action),
    )  # pyright: ignore


def random_sea(game: Any, rng: np.random.Generator) -> None:
    """Any sea that can be at a constant pace: empty or full, most of it in the boat's row, the
    boat often just below the surface, clocks often at zero, gauges often at their ends."""
    game.terminal = False
    game.sub_y = int(rng.choice([0, 1, *range(1, 9)]))
    game.sub_x = int(rng.integers(10))
    game.sub_or = bool(rng.integers(2)) if 0 < game.sub_x < 9 else game.sub_x == 9
    game.surface = game.sub_y == 0
    game.diver_count = int(rng.choice([-2, -1, 0, 0, 1, 4, 5, 6, 6]))
    game.oxygen = int(rng.choice([0, 1, 19, 20, rng.integers(201), 200]))
    game.shot_timer = int(rng.integers(5)) * int(rng.integers(2))
    level = int(rng.integers(20))
    game.ramp_index, game.e_spawn_speed = level, 20 - level
    pace = game.move_speed = max(5 - level // 2, 2)
    game.e_spawn_timer = int(rng.integers(20 - level)) * int(rng.integers(2))
    game.d_spawn_timer = int(rng.integers(30)) * int(rng.integers(2))

    def row() -> int:
        return max(1, game.sub_y) if rng.random() < 0.5 else int(rng.integers(1, 9))

    heading = rng.integers(2, size=10).astype(bool)
    lives = 10 * (pace + 1)  # frames that an enemy is there
    ages = rng.permutation(lives)[: int(rng.choice([0, 4, 29]))]
    game.e_fish, game.e_subs = [], []
    for age in sorted((int(age) for age in ages if age), reverse=True):  # the oldest comes first
        y = row()
        right = bool(heading[y])
        cells = age // (pace + 1)
        fish = [cells if right else 9 - cells, y, right, pace - age % (pace + 1)]
        if rng.random() < 0.5:
            game.e_fish.append(fish)
        else:
            game.e_subs.append([*fish, 10 - age % 11])
    right, y = bool(rng.integers(2)), row()
    columns = rng.permutation(10)[: int(rng.integers(3))]
    game.f_bullets = [[int(x), y, right] for x in columns]
    game.e_bullets = [
        [int(rng.integers(10)), row(), bool(rng.integers(2))]
        for _ in range(int(rng.choice([0, 0, 0, 6])))
    ]
    game.divers = []
    for age in (60 - game.d_spawn_timer, 30 - game.d_spawn_timer):
        if age < 60 and rng.random() < 0.7:
            right, cells = bool(rng.integers(2)), age // 6
            y, near = row(), rng.random() < 0.4
            game.divers.append([cells if right else 9 - cells, y, right, 5 - age % 6])
            if near:  # the boat is where a diver is, or will be
                game.sub_y, game.sub_x = y, int(np.clip(game.divers[-1][0] + right, 1, 8))
                game.surface = False
    if any(bullet[1] == game.sub_y for bullet in game.f_bullets):
        game.shot_timer = max(game.shot_timer, 1)  # no two shots in one place


def captain(game: Any, rng: np.random.Generator, drills: bool) -> int:
    """Surfaces over and over when told to drill, else fetches divers and shoots what is in its
    row; sometimes does anything."""
    if rng.random() < 0.15:
        return int(rng.integers(6))
    if drills or (game.sub_y > 0 and (game.diver_count == 6 or game.oxygen < 30)):
        return 4 if game.sub_y == 0 else 2
    prey = [e for e in game.e_subs + game.e_fish if e[1] == game.sub_y]
    for column, *_ in prey:
        if (column > game.sub_x) == game.sub_or and column != game.sub_x and game.shot_timer == 0:
            return 5
    if prey and rng.random() < 0.5:
        return 3 if prey[0][0] > game.sub_x else 1
    enemies = game.e_subs + game.e_fish
    goals = game.divers if len(game.divers) == 2 or not enemies else enemies
    if not goals:
        return 4 if game.sub_y < 4 else 0
    column, row = goals[0][:2]
    if row != game.sub_y:
        return 4 if row > game.sub_y else 2
    return 3 if column > game.sub_x else 1


def follow(state: Any, action: Any, new: Any, ramping: bool) -> Any:
    state, reward, over = seaquest.advance(state, action, new, ramping)
    return state, seaquest.observe(state), reward, over


def count_events(events: Counter[str], a: Any, b: Any, new: Any) -> None:
    """What happened from `a` to `b`, as far as it can be told from them."""
    boat = (int(b.row), int(b.column))
    rises = b.row == 0 and not a.surfaced
    arrived = np.zeros(2, bool)
    if a.enemy_wait == 0:
        same = a.heading[new.row] == new.right
        arrived[int(new.right)] = same or not a.enemies[new.row].any()
    ahead = missiles([])  # where shots are after they fly
    ahead.left[:, :-1], ahead.right[:, 1:] = a.shots.left[:, 1:], a.shots.right[:, :-1]
    digits = b.enemies >> 4 * np.arange(6)[:, None, None] & 15  # [6, 10, 10]
    movers = a.enemies & 15 != 0
    moved = np.zeros((10, 10), bool)
    heading = a.heading[:, None]
    moved[:, 1:] |= (movers & heading)[:, :-1]
    moved[:, :-1] |= (movers & ~heading)[:, 1:]
    met = moved & (ahead.left | ahead.right)
    events.update(
        from_left=int(arrived[1]),
        from_right=int(arrived[0]),
        blocked=int(a.enemy_wait == 0 and not arrived.any()),
        crowded=int((np.count_nonzero(digits, axis=0) > 1).any()),
        enemy_meets_shot=int(met.any()),
        torpedo=int((b.torpedoes.left | b.torpedoes.right)[boat]),
        launched=int(((a.enemies >> 4 * np.arange(6)[:, None, None] & 15) == 1).any()),
        rammed=int(b.enemies[boat] != 0),
        no_air=int(a.air <= 0),
        rises_empty=int(rises and a.aboard == 0),
        rises_with_six=int(rises and a.aboard == 6 and b.aboard == -1),
        rises_with_some=int(rises and 0 < a.aboard < 6),
        rises_in_debt=int(rises and a.aboard < 0),
        picked_up=int(b.aboard == a.aboard + 1),
        two_divers=int(b.divers.there.all()),
        harder=int(b.level > a.level),
        hardest=int(b.level == 19),
    )


EVENTS = {
    "from_left": 50,
    "from_right": 50,
    "blocked": 200,
    "crowded": 200,
    "enemy_meets_shot": 5,
    "torpedo": 10,
    "launched": 50,
    "rammed": 100,
    "no_air": 10,
    "rises_empty": 20,
    "rises_with_six": 5,
    "rises_with_some": 20,
    "rises_in_debt": 20,
    "picked_up": 50,
    "two_divers": 50,
}
"""How often each must have happened at least; in fact about three times as often."""


@pytest.mark.parametrize("ramping", [True, False])
@pytest.mark.parametrize("played", [True, False])
def test_steps_as_minatar_does(played: bool, ramping: bool) -> None:
    rng = np.random.default_rng(0)
    game = reference(ramping)
    before: list[Any] = []
    after: list[Any] = []
    drawn, actions, obs, rewards, ends = [], [], [], [], []
    events: Counter[str] = Counter()
    age = 0
    for _ in range(TRANSITIONS):
        if not played:
            random_sea(game, rng)
        elif age > 700:
            game.reset()
            age = 0
        if played and age % 100 == 0:
            game.diver_count = int(rng.choice([-1, 0, 3, 6]))
        if played and (game.oxygen < 0 or age % 100 == 50):
            game.oxygen = int(rng.choice([2, 200]))
        game.terminal = False  # play on after the end: late stages are hard to reach
        drills = age % 100 < 14
        action = captain(game, rng, drills) if played else int(rng.integers(6))
        if not played and rng.random() < 0.2:
            action = 2
        new = draw(rng)
        game.random = Draws(game, new)
        before.append(sea(game, 0))
        reward, end = game.act(action)
        assert not game.random.uniform and not game.random.rows  # all were drawn
        after.append(sea(game, action))
        age += 1
        drawn.append(new)
        actions.append(np.int32(action))
        obs.append(game.state())
        rewards.append(np.float32(reward))
        ends.append(np.bool_(end))
        count_events(events, before[-1], after[-1], new)
    # the cases that matter are among them
    wanted = dict(EVENTS)
    if ramping:
        wanted |= {"harder": 50, "hardest": 100}
    elif played:  # one enemy in 20 frames is no crowd
        wanted |= {"crowded": 0, "blocked": 0}
    for name, least in wanted.items():
        assert events[name] >= least, (name, events)
    assert ramping or events["harder"] == 0
    assert sum(ends) > 100 and sum(rewards) > 100 and max(rewards) > 3

    states, planes, gains, overs = jax.jit(jax.vmap(follow, (0, 0, 0, None)), static_argnums=3)(
        stacked(before), jnp.asarray(np.stack(actions)), stacked(drawn), ramping
    )
    assert_same(states, stacked(after))
    np.testing.assert_array_equal(planes, np.stack(obs))
    np.testing.assert_array_equal(gains, rewards)
    np.testing.assert_array_equal(overs, ends)

    # the environment is that function with its own arrivals, and nothing else is left to chance
    env = Seaquest(sticky=0.0, ramping=ramping)
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    states, step = jax.jit(jax.vmap(env.step))(
        stacked(before), jnp.asarray(np.stack(actions)), keys
    )
    same = np.array([state.enemy_wait > 0 and state.diver_wait > 0 for state in before])
    assert same.sum() > 500

    def pick(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.asarray(x)[same], tree)

    assert_same(pick(states), pick(stacked(after)))
    np.testing.assert_array_equal(step.obs[same], np.stack(obs)[same])
    np.testing.assert_array_equal(step.reward[same], np.array(rewards)[same])
    np.testing.assert_array_equal(step.terminated[same], np.array(ends)[same])
    assert step.obs.dtype == bool and step.reward.dtype == jnp.float32
    assert step.terminated.dtype == bool and not step.truncated.any()


def test_arrivals_have_the_chances_of_minatar() -> None:
    """Each row and side alike, a boat once in three, whatever the row and side."""
    chance = (np.arange(4800) + 0.5) / 4800
    chance[[0, -1]] = 0, np.nextafter(np.float32(1), np.float32(0))
    new = jax.vmap(seaquest.choose)(jnp.asarray(np.stack([chance, chance], axis=1), jnp.float32))
    count = np.zeros((10, 2, 2), int)  # row, right, fish
    np.add.at(count, (new.row, new.right.astype(int), new.fish.astype(int)), 1)
    np.testing.assert_array_equal(count[1:9], np.broadcast_to([100, 200], (8, 2, 2)))
    count = np.zeros((10, 2), int)
    np.add.at(count, (new.diver_row, new.diver_right.astype(int)), 1)
    np.testing.assert_array_equal(count[1:9], 300)


def assert_share(chosen: np.ndarray, share: float) -> None:
    """Within 4 standard deviations."""
    assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / chosen.size) ** 0.5


def test_draws_arrivals_and_sticky_actions_apart() -> None:
    game = reference()
    game.e_spawn_timer = game.d_spawn_timer = 0
    state = sea(game, 3)
    keys = jax.random.split(jax.random.key(1), 4000)
    for sticky in (0.1, 0.5):
        env = Seaquest(sticky=sticky)
        step = jax.jit(jax.vmap(env.step, in_axes=(None, None, 0)))
        states = step(state, jnp.int32(1), keys)[0]
        went_right = np.asarray(states.column) == 6
        np.testing.assert_array_equal(went_right, states.last_action == 3)
        np.testing.assert_array_equal(~went_right, states.column == 4)
        assert_share(went_right, sticky)
        enemies = np.asarray(states.enemies)
        assert ((enemies != 0).sum(axis=(1, 2)) == 1).all()
        row = np.argmax((enemies != 0).any(axis=2), axis=1)
        right = np.asarray(states.heading).any(axis=1)
        fish = np.isin(enemies.max(axis=(1, 2)), [15 << 4 * wait for wait in range(6)])
        diver_row = np.asarray(states.divers.row[:, 1])
        diver_right = np.asarray(states.divers.right[:, 1])
        others = [went_right, right, fish, diver_right, row < 5, diver_row < 5]
        for chosen in [x for other in others for x in (other, ~other)]:
            for what, share in ((fish, 2 / 3), (right, 1 / 2), (diver_right, 1 / 2)):
                if not any(np.array_equal(chosen, x) for x in (what, ~what)):
                    assert_share(what[chosen], share)
        for y in range(1, 9):
            assert_share(row == y, 1 / 8)
            assert_share(diver_row[row == 1] == y, 1 / 8)
    assert Seaquest().sticky == 0.1 and Seaquest().ramping


def test_begins_as_minatar_does() -> None:
    game = reference()
    state, obs = Seaquest().reset(jax.random.key(0))
    assert_same(state, sea(game, 0))
    np.testing.assert_array_equal(obs, game.state())


def test_spaces_are_those_of_minatar() -> None:
    game, env = reference(), Seaquest()
    assert env.obs_space.shape == tuple(game.state_shape())
    assert env.obs_space.dtype == bool
    assert env.action_space.n == len(game.minimal_action_set())
    assert env.time_limit is None
