"""What every environment promises, checked for all of them. A new one is checked by being
registered; one behind an adapter by a line in `ADAPTED`."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs
from jaxrl.envs import wrappers
from jaxrl.envs.adapters import mjx
from jaxrl.spaces import Box, Dict, Discrete, MultiDiscrete
from jaxrl.types import Env

# The smallest model there is: a box on a rail, pushed by a motor.
CART = """
<mujoco>
  <option timestep="0.02"/>
  <worldbody>
    <body>
      <joint name="slide" type="slide" axis="1 0 0"/>
      <geom type="box" size=".2 .1 .1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="slide" gear="10" ctrlrange="-2 2" ctrllimited="true"/></actuator>
</mujoco>
"""


def observe(data: Any) -> jax.Array:
    return jnp.concatenate([data.qpos, data.qvel])


def reward(data: Any, action: jax.Array) -> jax.Array:
    return -(data.qpos[0] ** 2) - 0.01 * action[0] ** 2


def off_the_rail(data: Any) -> jax.Array:
    return jnp.abs(data.qpos[0]) > 1.0


def cart() -> Env:
    return mjx.task(CART, observe=observe, reward=reward, terminate=off_the_rail, max_steps=40)


# Environments of other libraries: the package each needs (its tests are skipped without it).
ADAPTED: dict[str, tuple[str, Callable[[], Env]]] = {
    "gymnax/CartPole-v1": ("gymnax", lambda: jaxrl.envs.make("gymnax/CartPole-v1")),
    "gymnax/Catch-bsuite": ("gymnax", lambda: jaxrl.envs.make("gymnax/Catch-bsuite")),
    "gymnax/Pendulum-v1": (
        "gymnax",
        lambda: jaxrl.envs.make("gymnax/Pendulum-v1", max_steps_in_episode=30),
    ),
    "brax/inverted_pendulum": (
        "brax",
        lambda: jaxrl.envs.make("brax/inverted_pendulum", backend="spring", max_steps=50),
    ),
    "mjx": ("mujoco", cart),
    "playground/CartpoleBalance": (
        "mujoco_playground",
        lambda: jaxrl.envs.make("playground/CartpoleBalance", impl="jax", max_steps=50),
    ),
    "pgx/tic_tac_toe": ("pgx", lambda: jaxrl.envs.make("pgx/tic_tac_toe")),
    "pgx/connect_four": ("pgx", lambda: jaxrl.envs.make("pgx/connect_four", max_steps=3)),
    "pgx/2048": ("pgx", lambda: jaxrl.envs.make("pgx/2048")),
    "pgx/backgammon": ("pgx", lambda: jaxrl.envs.make("pgx/backgammon")),
    "jumanji/Snake-v1": ("jumanji", lambda: jaxrl.envs.make("jumanji/Snake-v1", max_steps=9)),
    "jumanji/Minesweeper-v0": ("jumanji", lambda: jaxrl.envs.make("jumanji/Minesweeper-v0")),
    "jumanji/Connector-v3": (
        "jumanji",
        lambda: jaxrl.envs.make("jumanji/Connector-v3", observe=("grid", "step_count")),
    ),
    "navix/Navix-Empty-5x5-v0": (
        "navix",
        lambda: jaxrl.envs.make("navix/Navix-Empty-5x5-v0", max_steps=20),
    ),
    "navix/Navix-DoorKey-5x5-v0": (
        "navix",
        lambda: jaxrl.envs.make(
            "navix/Navix-DoorKey-5x5-v0", observation_fn="symbolic_first_person"
        ),
    ),
    "xminigrid/MiniGrid-Empty-5x5": (
        "xminigrid",
        lambda: jaxrl.envs.make("xminigrid/MiniGrid-Empty-5x5", max_steps=20),
    ),
    "xminigrid/XLand-MiniGrid-R1-9x9": (
        "xminigrid",
        lambda: jaxrl.envs.make("xminigrid/XLand-MiniGrid-R1-9x9"),
    ),
    "jaxmarl/MPE_simple_spread_v3": (
        "jaxmarl",
        lambda: jaxrl.envs.make("jaxmarl/MPE_simple_spread_v3"),
    ),
    "jaxmarl/MPE_simple_tag_v3": (
        "jaxmarl",
        lambda: jaxrl.envs.make("jaxmarl/MPE_simple_tag_v3", agents=("agent_0",)),
    ),
    "jaxmarl/switch_riddle": ("jaxmarl", lambda: jaxrl.envs.make("jaxmarl/switch_riddle")),
    "jaxmarl/SMAX": (
        "jaxmarl",
        lambda: jaxrl.envs.make(
            "jaxmarl/SMAX", agents=("ally_0", "ally_1", "ally_2", "ally_3", "ally_4"), max_steps=15
        ),
    ),
    "craftax/Craftax-Classic-Symbolic-v1": (
        "craftax",
        lambda: jaxrl.envs.make("craftax/Craftax-Classic-Symbolic-v1", max_steps=50),
    ),
    "craftax/Craftax-Symbolic-v1": (
        "craftax",
        lambda: jaxrl.envs.make("craftax/Craftax-Symbolic-v1", max_steps=50),
    ),
}

# They compile for long.
SLOW = {"craftax/Craftax-Classic-Symbolic-v1", "craftax/Craftax-Symbolic-v1", "jaxmarl/SMAX"}

# Environments with wrappers of every kind round them.
WRAPPED = {
    "RescaleAction": lambda: wrappers.RescaleAction(jaxrl.envs.make("Pendulum-v1")),
    "StickyAction": lambda: wrappers.StickyAction(jaxrl.envs.make("CartPole-v1")),
    "FrameStack": lambda: wrappers.FrameStack(jaxrl.envs.make("Catch-bsuite"), 3),
    "Flatten": lambda: wrappers.Flatten(jaxrl.envs.make("DeepSea-bsuite")),
    "LastActionReward": lambda: wrappers.LastActionReward(jaxrl.envs.make("MemoryChain-bsuite")),
    "SelectObs": lambda: wrappers.SelectObs(jaxrl.envs.make("CartPole-v1", max_steps=20), (2, 0)),
    "ClipReward": lambda: wrappers.ClipReward(jaxrl.envs.make("Pendulum-v1"), -2.0),
    "EpisodeStatistics": lambda: wrappers.EpisodeStatistics(jaxrl.envs.make("Catch-bsuite")),
    "Randomize": lambda: wrappers.TimeLimit(
        wrappers.Randomize(jaxrl.envs.CartPole(), draw_gravity), 20
    ),
    "all": lambda: wrappers.LastActionReward(
        wrappers.FrameStack(
            wrappers.StickyAction(
                wrappers.RescaleAction(
                    wrappers.EpisodeStatistics(
                        wrappers.ClipReward(jaxrl.envs.make("Pendulum-v1", max_steps=7))
                    )
                )
            ),
            4,
        )
    ),
}

# Every start is the same one.
ONE_START = {
    "Asterix-MinAtar",
    "Bandit-v0",
    "BernoulliBandit-v0",
    "BlockingMaze-v0",
    "CliffWalking-v1",
    "CliffWalkingSlippery-v1",
    "DeepSea-bsuite",
    "DiscountingChain-bsuite",
    "DriftingBandit-v0",
    "DynaMaze-v0",
    "Flatten",
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "Gridworld-v0",
    "JacksCarRental-v0",
    "MaximizationBias-v0",
    "NoisyTV-v0",
    "jumanji/Minesweeper-v0",
    "navix/Navix-Empty-5x5-v0",
    "Probe-Action",
    "Probe-Continuous",
    "Probe-Credit",
    "Probe-Discount",
    "Probe-Truncation",
    "Probe-Value",
    "LongWalk-v0",
    "RandomWalk19-v0",
    "RandomWalk5-v0",
    "RiverSwim-v0",
    "Seaquest-MinAtar",
    "ShortcutMaze-v0",
    "SpaceInvaders-MinAtar",
    "WindyGridworld-v0",
    "xminigrid/MiniGrid-Empty-5x5",
}

# Of a class that is here with other constants.
REPEATED = {
    "CliffWalkingSlippery-v1",
    "DriftingBandit-v0",
    "DynaMaze-v0",
    "FrozenLake8x8-v1",
    "RandomWalk19-v0",
    "ShortcutMaze-v0",
    "SmallGridworld-v0",
    "Taxi-v3",
    "WindyGridworld-v0",
}

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in REPEATED | SLOW else ())
    for name in (*jaxrl.envs.names(), *WRAPPED, *ADAPTED)
]
ENVS, STEPS = 6, 120


def draw_gravity(key: jax.Array, env: Any) -> Any:
    return dataclasses.replace(env, gravity=jax.random.uniform(key, minval=5.0, maxval=15.0))


@functools.cache
def build(name: str) -> Env:
    if name in WRAPPED:
        return WRAPPED[name]()
    if name not in ADAPTED:
        return jaxrl.envs.make(name)
    package, make = ADAPTED[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return make()


@dataclasses.dataclass
class Played:
    """Random play of ENVS environments: STEPS steps, a new episode after each end."""

    state: Any  # [T, N, ...], before the step
    obs: Any  # [T, N, ...], before the step
    action: Any  # [T, N, ...]
    key: Any  # [T, N], of the step
    step: Any  # [T, N, ...]
    t: np.ndarray  # [T, N]: steps made in the episode, this one included
    starts: Any  # [T, N, ...], one reset per step and environment


def select(ended: jax.Array, new: Any, old: Any) -> Any:
    def one(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(ended.shape + (1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(one, new, old)


def play(env: Env, key: jax.Array) -> Any:
    def body(carry: Any, key: jax.Array) -> Any:
        state, obs, t = carry
        action_key, step_key, reset_key = jax.random.split(key, 3)
        actions = jax.vmap(env.action_space.sample)(jax.random.split(action_key, ENVS))
        step_keys = jax.random.split(step_key, ENVS)
        after, step = jax.vmap(env.step)(state, actions, step_keys)
        fresh = jax.vmap(env.reset)(jax.random.split(reset_key, ENVS))
        ended = step.terminated | step.truncated
        next_state, next_obs = select(ended, fresh, (after, step.obs))
        carry = (next_state, next_obs, jnp.where(ended, 0, t + 1))
        return carry, (state, obs, actions, step_keys, step, t + 1, fresh[1])

    state, obs = jax.vmap(env.reset)(jax.random.split(key, ENVS))
    carry = (state, obs, jnp.zeros(ENVS, jnp.int32))
    return jax.lax.scan(body, carry, jax.random.split(key, STEPS))[1]


# One program each per kind of environment, shared by the tests.
reset = jax.jit(lambda env, key: env.reset(key))
step = jax.jit(lambda env, state, action, key: env.step(state, action, key))


@functools.cache
def played(name: str) -> Played:
    return Played(*jax.device_get(jax.jit(play)(build(name), jax.random.key(0))))


def keyless(tree: Any) -> Any:
    """Random keys as plain numbers, so that they can be compared."""

    def plain(x: Any) -> Any:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(plain, tree)


def equal(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, keyless(a), keyless(b))))


def leaves(space: Any, x: Any) -> list[tuple[Any, Any]]:
    """The parts of an observation with their spaces; fails where the structures differ."""
    if isinstance(space, Dict):
        assert isinstance(x, dict) and set(x) == set(space)
        return [pair for name, part in space.items for pair in leaves(part, x[name])]
    return [(space, x)]


@pytest.mark.parametrize("name", NAMES)
def test_is_an_environment_whose_program_part_is_hashable(name: str) -> None:
    env = build(name)
    assert isinstance(env, Env)
    assert isinstance(env.obs_space, Box | Dict | Discrete | MultiDiscrete)
    assert isinstance(env.action_space, Box | Discrete | MultiDiscrete)
    limit = env.time_limit
    assert limit is None or (isinstance(limit, int) and limit >= 1)
    for part in (env.obs_space, env.action_space, jax.tree.structure(env)):
        hash(part)
    # An equal environment, built anew, is the same program.
    assert jax.tree.structure(env) == jax.tree.structure(jax.tree.map(jnp.asarray, env))
    again = build.__wrapped__(name)
    assert jax.tree.structure(again) == jax.tree.structure(env)
    assert again.obs_space == env.obs_space and again.action_space == env.action_space
    for leaf in jax.tree.leaves(env):
        dtype = np.asarray(leaf).dtype
        assert np.issubdtype(dtype, np.number) or dtype == np.bool_, leaf


@pytest.mark.parametrize("name", NAMES)
def test_observations_are_in_their_space(name: str) -> None:
    env, run = build(name), played(name)
    for what in (run.obs, run.step.obs, run.starts):
        for space, x in leaves(env.obs_space, what):
            assert x.shape == (STEPS, ENVS, *space.shape)
            assert x.dtype == space.dtype
            assert space.contains(x)
            assert not np.issubdtype(x.dtype, np.floating) or np.isfinite(x).all()


@pytest.mark.parametrize("name", NAMES)
def test_rewards_and_flags_are_scalars_of_the_right_kind(name: str) -> None:
    step = played(name).step
    assert step.reward.shape == step.terminated.shape == step.truncated.shape == (STEPS, ENVS)
    assert step.reward.dtype == np.float32
    assert step.terminated.dtype == step.truncated.dtype == np.bool_
    assert np.isfinite(step.reward).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_episode_is_truncated_before_the_time_limit(name: str) -> None:
    """And one that is cut by the registered limit is cut exactly there."""
    env, run = build(name), played(name)
    truncated = run.step.truncated
    if env.time_limit is None:
        assert not truncated.any()
    else:
        assert (run.t[truncated] >= env.time_limit).all()
    if isinstance(env, wrappers.TimeLimit):
        assert run.t.max() <= env.max_steps
        assert truncated[run.t == env.max_steps].all()


@pytest.mark.parametrize("name", NAMES)
def test_state_keeps_structure_and_types(name: str) -> None:
    """What `step` returns can be given to `step`: not even a weak type differs."""
    env = build(name)
    action = env.action_space.sample(jax.random.key(1))
    state, obs = jax.eval_shape(env.reset, jax.random.key(0))
    after, step = jax.eval_shape(env.step, state, action, jax.random.key(0))

    def kinds(tree: Any) -> list[Any]:
        return [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]

    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert kinds(after) == kinds(state)
    assert kinds(step.obs) == kinds(obs)
    assert not any(x.weak_type for x in jax.tree.leaves((state, obs, step)))


@pytest.mark.parametrize("name", NAMES)
def test_same_key_same_start_other_key_other_start(name: str) -> None:
    env, run = build(name), played(name)
    first, second = (reset(env, jax.random.key(3)) for _ in range(2))
    assert equal(first, second)
    starts = jax.tree.map(lambda x: x.reshape(STEPS * ENVS, -1), run.starts)
    different = any(len(np.unique(x, axis=0)) > 1 for x in jax.tree.leaves(starts))
    assert different == (name not in ONE_START)


@pytest.mark.parametrize("name", NAMES)
def test_one_lane_of_a_vmap_is_the_environment_alone(name: str) -> None:
    """The same key gives the same step, and the neighbours have no part in it."""
    env, run = build(name), played(name)
    for t, lane in ((0, 0), (STEPS // 2, ENVS - 1)):
        state, action, key, together = jax.tree.map(
            lambda x, t=t, lane=lane: jnp.asarray(x[t, lane]),
            (run.state, run.action, run.key, run.step),
        )
        alone = step(env, state, action, key)
        assert equal(alone, step(env, state, action, key))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            alone[1],
            together,
        )


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_every_constant(name: str) -> None:
    """A stack of environments, each with constants of its own, in one program."""
    env, run = build(name), played(name)

    def floating(x: Any) -> bool:
        return np.issubdtype(np.asarray(x).dtype, np.floating)

    if not any(map(floating, jax.tree.leaves(env))):
        pytest.skip("has no float constants")

    def spread(x: Any) -> Any:
        if np.ndim(x) and not floating(x):  # indices of a model, which no one varies
            return x
        factors = jnp.linspace(1, 1.1, 3) if floating(x) else jnp.ones(3, int)
        return jnp.multiply.outer(factors, x)

    stack = jax.tree.map(spread, env)
    axes = jax.tree.map(lambda x: None if np.ndim(x) and not floating(x) else 0, env)
    state = jax.tree.map(lambda x: jnp.asarray(x[0, 0]), run.state)
    action = env.action_space.sample(jax.random.key(0))

    def both(env: Env, key: jax.Array) -> Any:
        return env.reset(key)[1], env.step(state, action, key)[1]

    key = jax.random.key(0)
    many = jax.jit(jax.vmap(both, (axes, None)))(stack, key)
    assert many[1].reward.shape == (3,)
    # Lane 0 has the environment's own constants.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5),
        many,
        (reset(env, key)[1], step(env, state, action, key)[1]),
    )
