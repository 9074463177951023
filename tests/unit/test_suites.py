"""Adapters of the extra `suites`: the same game as in the library's own loop, natural ends and time
limits apart, masks, several players seen by one. Each is skipped where its library is missing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import describe, rollout, spaces
from jaxrl.types import Spec

KEY = jax.random.key(0)
SUITES = {
    "craftax": "Craftax-Symbolic-v1",
    "jaxmarl": "MPE_simple_spread_v3",
    "jumanji": "Snake-v1",
    "navix": "Navix-Empty-5x5-v0",
    "pgx": "connect_four",
    "xminigrid": "MiniGrid-Empty-5x5",
}


def pick(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), yes, no)


def alongside(
    env: Any,
    begin: Callable[[jax.Array], Any],
    advance: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array, jax.Array, Any]],
    restart: Callable[[Any, jax.Array], jax.Array],
    steps: int,
    key: jax.Array = KEY,
) -> tuple[Any, Any, np.ndarray]:
    """Our environment and the library's auto-resetting one, through the same actions.

    `begin(key)` is the library's reset, `advance(state, action, key)` its step with its reset, ->
    state, reward, over, observation; `restart(our state, key)` is the key it resets with.
    -> rewards, ends and observations of [ours, theirs], and the step types of ours
    """

    @jax.jit
    def play(key: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> Any:
            ours, obs, theirs = carry
            act_key, step_key = jax.random.split(key)
            action = env.action_space.sample(act_key)
            after, step = env.step(ours, action, step_key)
            over = step.terminated | step.truncated
            fresh = env.reset(restart(after, step_key))
            ours, obs = pick(over, fresh, (after, step.obs))
            theirs, reward, ended, seen = advance(theirs, action, step_key)
            reward = jnp.asarray(reward, jnp.float32)
            return (ours, obs, theirs), (
                (step.reward, over, obs),
                (reward, ended, seen),
                step.terminated,
            )

        state, obs = env.reset(key)
        carry = (state, obs, begin(jax.random.key_data(key)))
        return jax.lax.scan(body, carry, jax.random.split(key, steps))[1]

    ours, theirs, terminated = jax.device_get(play(key))
    return ours, theirs, terminated


def same(ours: Any, theirs: Any, episodes: int = 3, exact: bool = True) -> None:
    """Rewards, ends and what is seen next, over several episodes."""
    assert ours[1].sum() >= episodes
    np.testing.assert_array_equal(ours[1], theirs[1])
    for mine, other in zip((ours[0], ours[2]), (theirs[0], theirs[2])):
        for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
            y = y.astype(x.dtype).reshape(x.shape)
            if exact:
                np.testing.assert_array_equal(x, y)
            else:
                np.testing.assert_allclose(x, y, atol=1e-6)


def final_observations_are_true(name: str, limit: int, **options: Any) -> None:
    """What the driver keeps of a truncated episode is what the environment showed last."""
    env = jaxrl.envs.make(name, **options)
    assert env.time_limit == limit
    agent = jaxrl.PPO(num_envs=2, num_steps=2 * limit, minibatches=1, actor=Flat(), critic=Flat())
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    state = agent.init(KEY, spec)
    streams = jax.jit(lambda key: rollout.start(agent, env, key, 1))(jax.random.key(1))
    _, got, _ = jax.jit(
        lambda t: rollout.collect(agent, env, spec, state, t, jax.random.key(2), 0, 1)
    )(streams)
    np.testing.assert_array_equal(got.truncated[limit - 1], ~got.terminated[:limit].any(0))
    alive = np.asarray(got.truncated[limit - 1])
    assert alive.any()
    inner, out = streams.env_state, None
    step = jax.jit(jax.vmap(env.step))
    for t in range(limit):
        inner, out = step(inner, got.action[t], jax.random.split(jax.random.key(t), 2))
    assert out is not None
    jax.tree.map(
        lambda kept, true: np.testing.assert_allclose(kept[0][alive], true[alive], atol=1e-5),
        got.final_obs,
        out.obs,
    )
    differ = jax.tree.map(
        lambda kept, new: bool((kept[0][alive] != new[limit][alive]).any()), got.final_obs, got.obs
    )
    assert any(jax.tree.leaves(differ))


def Flat() -> Any:
    """A torso for observations of any rank."""
    import flax.linen as nn

    class Torso(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(8)(x.reshape(x.shape[0], -1))

    return Torso()


# ----------------------------------------------------------------------------------- all suites


@pytest.mark.parametrize(("suite", "name"), SUITES.items())
def test_a_missing_library_says_how_to_install_it(
    suite: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in list(sys.modules):
        if module.partition(".")[0] == suite:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, suite, None)
    with pytest.raises(ImportError, match=rf"pip install 'jaxrl\[suites\]', or {suite} alone"):
        jaxrl.envs.make(f"{suite}/{name}")


@pytest.mark.parametrize(("suite", "name"), SUITES.items())
def test_an_unknown_name_is_answered_with_the_nearest(suite: str, name: str) -> None:
    pytest.importorskip(suite)
    with pytest.raises(ValueError, match=f"Did you mean .*'{suite}/{name}'"):
        jaxrl.envs.make(f"{suite}/{name.lower()[:-1]}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pgx/go_9x9", {"komi": 5.5}),
        ("pgx/tic_tac_toe", {"max_steps": 3}),
        ("jumanji/Snake-v1", {"max_steps": 7, "num_rows": 5, "num_cols": 5}),
        ("jumanji/Tetris-v0", {"observe": ("grid",)}),
        ("navix/Navix-Empty-5x5-v0", {"max_steps": 9, "observation_fn": "categorical"}),
        ("xminigrid/MiniGrid-Empty-5x5", {"max_steps": 9, "view_size": 5}),
        ("jaxmarl/MPE_simple_tag_v3", {"agents": ("agent_0",), "max_steps": 9}),
    ],
)
def test_files_can_rebuild_it(name: str, options: dict[str, Any]) -> None:
    """Checkpoints and policies name their environment; the same name is the same program."""
    pytest.importorskip(name.partition("/")[0])
    env = jaxrl.envs.make(name, **options)
    again = describe.build(describe.describe(env))
    assert jax.tree.structure(again) == jax.tree.structure(env)
    assert again.obs_space == env.obs_space and again.time_limit == env.time_limit


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("jumanji/Snake-v1", "num_row"),
        ("xminigrid/MiniGrid-Empty-5x5", "view_siz"),
    ],
)
def test_an_unknown_option_is_answered_with_the_known_ones(name: str, option: str) -> None:
    pytest.importorskip(name.partition("/")[0])
    with pytest.raises(ValueError, match=f"{option}.*{option}[a-z]"):
        jaxrl.envs.make(name, **{option: 5})


# ------------------------------------------------------------------------------------------ Pgx


def first_legal(obs: Any, key: jax.Array) -> jax.Array:
    return jnp.argmax(obs["action_mask"])


def test_pgx_games_of_one_player_are_pgx() -> None:
    pgx: Any = pytest.importorskip("pgx")
    experimental: Any = pytest.importorskip("pgx.experimental")
    theirs = pgx.make("minatar-asterix")
    step = experimental.auto_reset(theirs.step, theirs.init)

    def advance(state: Any, action: jax.Array, key: jax.Array) -> Any:
        # Theirs splits the key for its reset; ours gets both halves below.
        state = step(state, action, jax.random.key_data(key))
        over = state.terminated | state.truncated
        seen = {"observation": state.observation, "action_mask": state.legal_action_mask}
        return state, state.rewards[0], over, seen

    env = HalfKeys(jaxrl.envs.make("pgx/minatar-asterix"))
    restart = lambda state, key: jax.random.split(key)[1]  # noqa: E731
    ours, other, _ = alongside(env, theirs.init, advance, restart, 600)
    same(ours, other)


@dataclasses.dataclass(frozen=True)
class HalfKeys:
    """Steps with the first half of a key, where a library keeps the second for its reset."""

    env: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> Any:
        return self.env.step(state, action, jax.random.split(key)[0])


@pytest.mark.parametrize("name", ["tic_tac_toe", "backgammon"])
def test_pgx_is_the_game_as_one_player_sees_it(name: str) -> None:
    """The same game played by hand, all players' moves in turn."""
    pgx: Any = pytest.importorskip("pgx")
    env = jaxrl.envs.make(f"pgx/{name}", opponent=first_legal)
    theirs = pgx.make(name)
    step, their_step = jax.jit(env.step), jax.jit(theirs.step)
    observe = jax.jit(theirs._observe)
    results, begun, twice = [], set(), 0
    for episode in range(6 if name == "tic_tac_toe" else 2):
        key = jax.random.key(episode)
        start_key, _, reply_key = jax.random.split(key, 3)
        state, obs = env.reset(key)
        me = int(state.learner)
        game = theirs.init(jax.random.key_data(start_key))
        begun.add(me == int(game.current_player))

        def replies(game: Any, key: jax.Array, me: int = me) -> tuple[Any, float, int]:
            total, moves = 0.0, 0
            while int(game.current_player) != me and not game.terminated:
                key, _, step_key = jax.random.split(key, 3)
                move = first_legal({"action_mask": game.legal_action_mask}, key)
                game = their_step(game, move, jax.random.key_data(step_key))
                total, moves = total + float(game.rewards[me]), moves + 1
            return game, total, moves

        game, _, _ = replies(game, reply_key)
        for t in range(400):
            np.testing.assert_array_equal(obs["observation"], observe(game, me))
            np.testing.assert_array_equal(obs["action_mask"], game.legal_action_mask)
            act_key, step_key = jax.random.split(jax.random.fold_in(key, t))
            legal = jnp.where(game.legal_action_mask, 0.0, -jnp.inf)
            action = jax.random.categorical(act_key, legal).astype(jnp.int32)
            state, out = step(state, action, step_key)
            obs = out.obs
            move_key, reply_key = jax.random.split(step_key)
            game = their_step(game, action, jax.random.key_data(move_key))
            reward = float(game.rewards[me])
            game, more, moves = replies(game, reply_key)
            twice += moves != 1 and not bool(game.terminated)
            assert float(out.reward) == reward + more
            assert bool(out.terminated) == bool(game.terminated) and not out.truncated
            if game.terminated:
                np.testing.assert_array_equal(obs["observation"], observe(game, me))
                break
        else:
            pytest.fail("no end")
        results.append(reward + more)
    if name == "tic_tac_toe":
        assert begun == {True, False} and len(set(results)) > 1
    else:
        assert twice  # a player whose dice allow it moves several times


def test_pgx_draws_who_begins_and_the_replies() -> None:
    pytest.importorskip("pgx")
    env = jaxrl.envs.make("pgx/tic_tac_toe")
    state, obs = jax.vmap(env.reset)(jax.random.split(KEY, 900))
    stones = obs["observation"].sum((1, 2, 3))
    assert set(np.unique(stones)) == {0, 1}
    assert 0.44 < np.mean(stones == 0) < 0.56
    # Of a board with one stone all nine squares come up equally often: 50 each, give or take.
    squares = np.asarray(obs["observation"].any(-1).reshape(900, 9).sum(0))
    assert squares.min() > 25 and squares.max() < 80
    # The learner plays the corner; the reply is never there.
    empty = jax.tree.map(lambda x: x[np.asarray(stones) == 0], state)
    count = int((stones == 0).sum())
    _, step = jax.vmap(env.step)(
        empty, jnp.zeros(count, jnp.int32), jax.random.split(jax.random.key(1), count)
    )
    theirs = np.asarray(step.obs["observation"][..., 1].reshape(count, 9))
    assert (theirs.sum(-1) == 1).all() and theirs[:, 0].sum() == 0
    assert theirs[:, 1:].sum(0).min() > 25
    assert not step.terminated.any()


def test_pgx_an_illegal_move_loses() -> None:
    pytest.importorskip("pgx")
    env = jaxrl.envs.make("pgx/tic_tac_toe", opponent=first_legal)
    state, obs = env.reset(KEY)
    while not (taken := ~np.asarray(obs["action_mask"])).any():
        state, step = env.step(state, jnp.int32(8), KEY)
        obs = step.obs
    _, step = env.step(state, jnp.int32(np.argmax(taken)), KEY)
    assert step.reward == -1 and step.terminated


def test_pgx_rewards_are_the_learners() -> None:
    """Whom a random player beats, a good one beats more often: and it is the learner's side."""
    pytest.importorskip("pgx")

    def wins(obs: Any) -> jax.Array:  # along the top row, else the first legal square
        row = obs["action_mask"] & (jnp.arange(9) < 3)
        return jnp.where(row.any(-1), row.argmax(-1), obs["action_mask"].argmax(-1))

    env = jaxrl.envs.make("pgx/tic_tac_toe")
    got = jaxrl.evaluate(wins, env, episodes=256, max_steps=9)
    assert 0.1 < got.mean < 0.9
    last = jaxrl.envs.make("pgx/tic_tac_toe", opponent=first_legal)
    random = jaxrl.evaluate(lambda obs: 8 - obs["action_mask"][:, ::-1].argmax(-1), last,
                            episodes=64, max_steps=9)  # fmt: skip
    assert set(np.unique(random.returns)) <= {-1.0, 0.0, 1.0}


def test_pgx_a_trained_policy_is_an_opponent() -> None:
    pytest.importorskip("pgx")
    env = jaxrl.envs.Flatten(jaxrl.envs.make("pgx/tic_tac_toe"))
    run = jaxrl.train(jaxrl.PPO(num_envs=4, num_steps=8), env, KEY, steps=32)

    def trained(obs: Any, key: jax.Array) -> jax.Array:
        board = obs["observation"].ravel().astype(jnp.float32)
        return run.policy({"observation": board, "action_mask": obs["action_mask"]})

    harder = jaxrl.envs.make("pgx/tic_tac_toe", opponent=trained)
    state, obs = harder.reset(KEY)
    _, step = jax.jit(harder.step)(state, jnp.argmax(obs["action_mask"]).astype(jnp.int32), KEY)
    assert step.obs["observation"].sum() == obs["observation"].sum() + 2


def test_pgx_options() -> None:
    pytest.importorskip("pgx")
    assert jaxrl.envs.make("pgx/go_9x9", komi=5.5).action_space == spaces.Discrete(82)
    assert float(jaxrl.envs.make("pgx/go_9x9", komi=5.5).env._game.komi) == 5.5  # pyright: ignore
    with pytest.raises(TypeError, match="opponent"):
        jaxrl.envs.make("pgx/hex", opponent="me")


# -------------------------------------------------------------------------------------- Jumanji


def test_jumanji_is_jumanji() -> None:
    jumanji: Any = pytest.importorskip("jumanji")
    jumanji_wrappers: Any = pytest.importorskip("jumanji.wrappers")
    small = {"num_rows": 4, "num_cols": 4}
    theirs = jumanji_wrappers.AutoResetWrapper(jumanji.make("Snake-v1", **small, time_limit=9))

    def advance(carry: Any, action: jax.Array, key: jax.Array) -> Any:
        state, timestep = theirs.step(carry[0], action)
        seen = timestep.observation
        seen = {"observation": seen.grid, "action_mask": seen.action_mask}
        return (state, timestep), timestep.reward, timestep.last(), seen

    env = jaxrl.envs.make("jumanji/Snake-v1", max_steps=9, **small)
    restart = lambda state, key: jax.random.wrap_key_data(jax.random.split(state.inner.key)[0])  # noqa: E731
    ours, other, terminated = alongside(env, theirs.reset, advance, restart, 400)
    same(ours, other)
    assert ours[0].any()
    # The library calls every end a termination; cut snakes are alive.
    cut = ours[1] & ~terminated
    assert cut.any() and (np.diff(np.flatnonzero(cut)) >= 9).all() and terminated.any()


def test_jumanji_time_limits_are_truncations() -> None:
    pytest.importorskip("jumanji")
    assert jaxrl.envs.make("jumanji/Snake-v1").time_limit == 4000
    assert jaxrl.envs.make("jumanji/Cleaner-v0").time_limit == 100  # by default the area
    assert jaxrl.envs.make("jumanji/TSP-v1").time_limit is None
    assert jaxrl.envs.make("jumanji/SearchAndRescue-v0").time_limit is None
    final_observations_are_true("jumanji/Snake-v1", 3, max_steps=3)


def test_jumanji_the_end_at_the_limit_is_an_end() -> None:
    pytest.importorskip("jumanji")
    env = jaxrl.envs.make("jumanji/Snake-v1", max_steps=1)
    state, obs = env.reset(KEY)
    head = np.argwhere(np.asarray(obs["observation"][..., 1]) > 0)
    assert len(head) == 1
    blocked = ~np.asarray(obs["action_mask"])
    for action in range(4):
        _, step = env.step(state, jnp.int32(action), KEY)
        assert step.truncated and bool(step.terminated) == blocked[action]


def test_jumanji_combinations_become_one_choice() -> None:
    pytest.importorskip("jumanji")
    env = jaxrl.envs.make("jumanji/Minesweeper-v0")
    assert env.action_space == spaces.Discrete(100)
    state, obs = env.reset(KEY)
    before = np.asarray(obs["observation"]["board"])
    _, step = env.step(state, jnp.int32(37), KEY)
    changed = np.argwhere(np.asarray(step.obs["observation"]["board"]) != before)
    assert step.terminated or changed.tolist() == [[3, 7]]
    mask = np.asarray(step.obs["action_mask"])
    assert mask.shape == (100,) and not mask[37] and mask.sum() == 99


def test_jumanji_agents_become_one_controller() -> None:
    jumanji: Any = pytest.importorskip("jumanji")
    env = jaxrl.envs.make("jumanji/Connector-v3")
    assert env.action_space == spaces.MultiDiscrete((5,) * 10)
    assert isinstance(env.obs_space, spaces.Dict)
    assert env.obs_space["action_mask"].shape == (50,)
    theirs = jumanji.make("Connector-v3")
    state, obs = env.reset(KEY)
    their_state, timestep = theirs.reset(jax.random.key_data(KEY))
    np.testing.assert_array_equal(obs["action_mask"].reshape(10, 5), timestep.observation[1])
    action = jnp.asarray(np.asarray(timestep.observation[1]).argmax(-1), jnp.int32)
    _, step = env.step(state, action, KEY)
    _, timestep = theirs.step(their_state, action)
    assert float(step.reward) == pytest.approx(float(timestep.reward.sum()))
    mean = jaxrl.envs.make("jumanji/Connector-v3", team=jnp.mean)
    _, step = mean.step(mean.reset(KEY)[0], action, KEY)
    assert float(step.reward) == pytest.approx(float(timestep.reward.mean()))


def test_jumanji_parts_of_observations() -> None:
    pytest.importorskip("jumanji")
    both = jaxrl.envs.make("jumanji/Tetris-v0", observe=("grid", "step_count")).obs_space
    assert isinstance(both, spaces.Dict)
    assert set(both["observation"]) == {"grid", "step_count"}  # pyright: ignore
    packing = jaxrl.envs.make("jumanji/BinPack-v2")
    assert packing.action_space == spaces.Discrete(800)
    assert "ems.x1" in packing.obs_space["observation"]  # pyright: ignore
    with pytest.raises(ValueError, match="grid.*'clock'"):
        jaxrl.envs.make("jumanji/Tetris-v0", observe=("clock",))


# ---------------------------------------------------------------------------------------- Navix


def test_navix_is_navix() -> None:
    navix: Any = pytest.importorskip("navix")
    theirs = navix.make("Navix-Empty-Random-5x5-v0", max_steps=30)

    def advance(timestep: Any, action: jax.Array, key: jax.Array) -> Any:
        timestep = theirs.step(timestep, action)
        over, reward = timestep.is_done(), timestep.reward
        timestep = pick(over, theirs.step(timestep, action), timestep)  # the next step restarts
        return timestep, reward, over, timestep.observation

    env = jaxrl.envs.make("navix/Navix-Empty-Random-5x5-v0", max_steps=30)
    restart = lambda state, key: jax.random.wrap_key_data(state.state.key)  # noqa: E731
    ours, other, terminated = alongside(env, theirs.reset, advance, restart, 400)
    same(ours, other)
    assert terminated.any() and (ours[1] & ~terminated).any()
    assert (ours[0] > 0).sum() == terminated.sum()


def test_navix_time_limit_and_views() -> None:
    sprites: Any = pytest.importorskip("navix.rendering.cache")
    final_observations_are_true("navix/Navix-DoorKey-Random-5x5-v0", 4, max_steps=4)
    grid = jaxrl.envs.make("navix/Navix-Empty-5x5-v0", observation_fn="categorical").obs_space
    assert grid.shape == (5, 5)
    picture = jaxrl.envs.make("navix/Navix-Empty-5x5-v0", observation_fn="rgb")
    side = 5 * sprites.TILE_SIZE  # which depends on the version
    assert picture.obs_space == spaces.Box(0, 255, (side, side, 3), np.uint8)
    seen = picture.step(picture.reset(KEY)[0], jnp.int32(2), KEY)[1].obs
    assert len(np.unique(np.asarray(seen))) > 2
    with pytest.raises(ValueError, match="observation_fn.*symbolic"):
        jaxrl.envs.make("navix/Navix-Empty-5x5-v0", observation_fn="simbolic")
    with pytest.raises(ValueError, match="max_steps"):
        jaxrl.envs.make("navix/Navix-Empty-5x5-v0", max_steps=0)


# ------------------------------------------------------------------------------- XLand-MiniGrid


def test_xminigrid_is_xminigrid() -> None:
    xminigrid: Any = pytest.importorskip("xminigrid")
    wrappers: Any = pytest.importorskip("xminigrid.wrappers")
    theirs, params = xminigrid.make("MiniGrid-EmptyRandom-5x5", max_steps=30)
    theirs = wrappers.GymAutoResetWrapper(theirs)

    def advance(timestep: Any, action: jax.Array, key: jax.Array) -> Any:
        timestep = theirs.step(params, timestep, action)
        return timestep, timestep.reward, timestep.last(), timestep.observation

    env = jaxrl.envs.make("xminigrid/MiniGrid-EmptyRandom-5x5", max_steps=30)
    restart = lambda state, key: jax.random.wrap_key_data(jax.random.split(state.state.key)[0])  # noqa: E731
    begin = lambda key: theirs.reset(params, key)  # noqa: E731
    ours, other, terminated = alongside(env, begin, advance, restart, 400)
    same(ours, other)
    assert terminated.any() and (ours[1] & ~terminated).any()
    assert (ours[0] > 0).sum() == terminated.sum()


def test_xminigrid_time_limit_and_wrappers() -> None:
    pytest.importorskip("xminigrid")
    wrappers: Any = pytest.importorskip("xminigrid.wrappers")
    final_observations_are_true("xminigrid/MiniGrid-DoorKey-6x6", 4, max_steps=4)
    name = "xminigrid/MiniGrid-Empty-5x5"
    env = jaxrl.envs.make(name, wrap=(wrappers.DirectionObservationWrapper,))
    assert set(env.obs_space) == {"direction", "img"}  # pyright: ignore
    assert env.obs_space.contains(env.reset(KEY)[1])
    with pytest.raises(ValueError, match="driver resets"):
        jaxrl.envs.make(name, wrap=(wrappers.GymAutoResetWrapper,))


def test_xminigrid_rule_sets_may_differ_between_lanes() -> None:
    pytest.importorskip("xminigrid")
    env: Any = jaxrl.envs.make("xminigrid/XLand-MiniGrid-R1-9x9")
    rules = env.params.ruleset
    tiles = jnp.stack([rules.init_tiles, rules.init_tiles.at[0].set(jnp.array([3, 1], jnp.uint8))])
    stack = dataclasses.replace(
        env,
        params=env.params.replace(
            ruleset=rules.replace(
                init_tiles=tiles,
                goal=jnp.stack([rules.goal] * 2),
                rules=jnp.stack([rules.rules] * 2),
            )
        ),
    )
    state, _ = jax.vmap(lambda env: env.reset(KEY))(stack)
    balls = (np.asarray(state.state.grid) == [3, 1]).all(-1).sum((1, 2))
    assert balls.tolist() == [0, 1]


# ---------------------------------------------------------------------------------------- JaxMARL


def test_jaxmarl_is_jaxmarl() -> None:
    pytest.importorskip("jaxmarl")
    env: Any = jaxrl.envs.make("jaxmarl/MPE_simple_spread_v3", max_steps=6)
    import jaxmarl

    theirs: Any = jaxmarl.make("MPE_simple_spread_v3", max_steps=6)

    def advance(state: Any, action: jax.Array, key: jax.Array) -> Any:
        actions = {agent: action[i] for i, agent in enumerate(theirs.agents)}
        obs, state, rewards, dones, _ = theirs.step(jax.random.key_data(key), state, actions)
        reward = sum(rewards[a] for a in theirs.agents) / len(theirs.agents)
        return state, reward, dones["__all__"], jnp.concatenate([obs[a] for a in theirs.agents])

    restart = lambda state, key: jax.random.split(key)[1]  # noqa: E731
    begin = lambda key: theirs.reset(key)[1]  # noqa: E731
    ours, other, terminated = alongside(HalfKeys(env), begin, advance, restart, 40)
    same(ours, other, exact=False)
    # Its clock is read before it is advanced: seven steps, all of them cut, none an end.
    assert not terminated.any() and env.time_limit == 7
    assert np.flatnonzero(ours[1]).tolist() == [6, 13, 20, 27, 34]


def test_jaxmarl_natural_ends_are_terminations() -> None:
    pytest.importorskip("jaxmarl")
    env: Any = jaxrl.envs.make("jaxmarl/switch_riddle", num_agents=3)
    assert env.time_limit == 6 and env.action_space == spaces.MultiDiscrete((3, 3, 3))
    step = jax.jit(env.step)
    state, _ = env.reset(KEY)
    for t in range(6):
        state, out = step(state, jnp.zeros(3, jnp.int32), KEY)
        assert bool(out.truncated) == (t == 5) and not out.terminated
    state, _ = env.reset(KEY)
    tell = env.env.env.game_actions["TELL"]
    state, out = step(state, jnp.full(3, tell, jnp.int32), KEY)
    assert out.terminated and not out.truncated


def test_jaxmarl_one_agent_among_others() -> None:
    pytest.importorskip("jaxmarl")
    name = "jaxmarl/MPE_simple_tag_v3"
    full: Any = jaxrl.envs.make(name)

    def still(agent: str, obs: Any, key: jax.Array) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    one: Any = jaxrl.envs.make(name, agents=("agent_0",), others=still)
    assert one.action_space == spaces.Discrete(5) and one.rest == full.agents[:-1]
    state, obs = one.reset(KEY)
    joint, everything = full.reset(KEY)
    np.testing.assert_array_equal(everything[-obs.shape[0] :], obs)
    key, *_ = jax.random.split(KEY, 1 + len(one.rest))
    obs_now, _, rewards, _, _ = one.env.step_env(
        jax.random.key_data(key),
        joint.state,
        dict.fromkeys(one.rest, 0) | {"agent_0": jnp.int32(2)},
    )
    _, step = one.step(state, jnp.int32(2), KEY)
    np.testing.assert_allclose(step.obs, obs_now["agent_0"], atol=1e-6)
    assert float(step.reward) == pytest.approx(float(rewards["agent_0"]), abs=1e-5)

    # Without a policy the others draw their actions: other keys, other places.
    drawn: Any = jaxrl.envs.make(name, agents=("agent_0",))
    seen = []
    for i in range(3):
        state, _ = drawn.reset(KEY)
        for t in range(3):
            state, step = drawn.step(state, jnp.int32(0), jax.random.fold_in(jax.random.key(i), t))
        seen.append(step.obs)
    assert len(np.unique(np.asarray(seen), axis=0)) == 3
    with pytest.raises(ValueError, match="agents=.*adversary_0"):
        jaxrl.envs.make(name, agents=("agnt",))


@pytest.mark.filterwarnings("ignore:OvercookedV2 is now released:DeprecationWarning")
def test_jaxmarl_pictures_are_joined_by_channel() -> None:
    pytest.importorskip("jaxmarl")
    env: Any = jaxrl.envs.make("jaxmarl/overcooked", max_steps=5)
    alone: Any = jaxrl.envs.make("jaxmarl/overcooked", max_steps=5, agents=("agent_1",))
    assert env.time_limit == 5
    height, width, channels = alone.obs_space.shape
    assert env.obs_space.shape == (height, width, 2 * channels)
    seen, own = env.reset(KEY)[1], alone.reset(KEY)[1]
    np.testing.assert_array_equal(seen[..., channels:], own)


# ---------------------------------------------------------------------------------------- Craftax


@pytest.mark.slow
def test_craftax_is_craftax() -> None:
    pytest.importorskip("craftax")
    from craftax.craftax_env import make_craftax_env_from_name

    theirs: Any = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=True)
    params = theirs.default_params.replace(max_timesteps=60)

    def advance(state: Any, action: jax.Array, key: jax.Array) -> Any:
        obs, state, reward, over, _ = theirs.step(jax.random.key_data(key), state, action, params)
        return state, reward, over, obs

    env = HalfKeys(jaxrl.envs.make("craftax/Craftax-Classic-Symbolic-v1", max_steps=60))
    restart = lambda state, key: jax.random.split(key)[1]  # noqa: E731
    begin = lambda key: theirs.reset(key, params)[1]  # noqa: E731
    ours, other, terminated = alongside(env, begin, advance, restart, 200)
    same(ours, other, exact=False)
    assert (ours[1] & ~terminated).any() and ours[0].any()


def test_craftax_constants() -> None:
    pytest.importorskip("craftax")
    env: Any = jaxrl.envs.make("craftax/Craftax-Classic-Symbolic-v1", spawn_cow_chance=0.5)
    assert env.time_limit == 10_000 and env.env.constants["spawn_cow_chance"] == 0.5
    usual = jaxrl.envs.make("craftax/Craftax-Classic-Symbolic-v1")
    assert jax.tree.structure(usual) == jax.tree.structure(env)
    small: Any = jaxrl.envs.make("craftax/Craftax-Classic-Symbolic-v1", map_size=(32, 32))
    assert small.env.env.static_env_params.map_size == (32, 32)
    with pytest.raises(ValueError, match="spawn_cow_chance"):
        jaxrl.envs.make("craftax/Craftax-Classic-Symbolic-v1", spawn_cow=0.5)
    again = describe.build(describe.describe(env))
    assert jax.tree.structure(again) == jax.tree.structure(env)


# --------------------------------------------------------------------------------------- learning


@pytest.mark.learning
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "steps", "least", "random"),
    [
        ("pgx/tic_tac_toe", 300_000, 0.85, 0.0),
        ("navix/Navix-Empty-5x5-v0", 200_000, 0.95, 0.5),
        ("jumanji/Snake-v1", 1_000_000, 6.0, 0.5),
    ],
)
def test_ppo_learns(name: str, steps: int, least: float, random: float) -> None:
    """Not tuned: that what an agent needs comes through, its rewards and masks above all."""
    pytest.importorskip(name.partition("/")[0])
    env = jaxrl.envs.Flatten(jaxrl.envs.make(name))
    agent = jaxrl.PPO(num_envs=64, num_steps=32, lr=1e-3)
    run = jaxrl.train(agent, env, jax.random.split(KEY, 2), steps=steps)
    got = jaxrl.evaluate(run, env, episodes=256, key=jax.random.key(1))
    assert got.mean > least > random
