"""Adapters: natural ends, time limits and true final observations come through each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rollout, spaces
from jaxrl.envs.adapters import mjx
from jaxrl.types import Env, Spec

KEY = jax.random.key(0)

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


def cart(max_steps: int = 5) -> Any:
    return mjx.task(
        CART,
        observe=lambda data: jnp.concatenate([data.qpos, data.qvel]),
        reward=lambda data, action: -(data.qpos[0] ** 2),
        terminate=lambda data: jnp.abs(data.qpos[0]) > 0.5,
        max_steps=max_steps,
    )


def final_observations_are_true(env: Env, limit: int) -> None:
    """Play with a driver-like loop by hand, and compare with what `collect` stores."""
    agent = jaxrl.PPO(num_envs=2, num_steps=2 * limit, minibatches=1)
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    assert env.time_limit == limit
    state = agent.init(KEY, spec)
    streams = rollout.start(agent, env, jax.random.key(1), 1)
    _, got, _ = jax.jit(
        lambda t: rollout.collect(agent, env, spec, state, t, jax.random.key(2), 0, 1)
    )(streams)
    assert got.truncated.any()
    inner, obs = streams.env_state, streams.obs
    step = jax.jit(jax.vmap(env.step))
    for t in range(limit):
        np.testing.assert_allclose(got.obs[t], obs, rtol=1e-4, atol=1e-5)
        keys = jax.random.split(jax.random.key(t), 2)
        inner, out = step(inner, got.action[t], keys)
        obs = out.obs
        if got.terminated[t].any():
            return  # the episodes have parted
    np.testing.assert_array_equal(got.truncated[limit - 1], True)
    np.testing.assert_allclose(got.final_obs[0], obs, rtol=1e-4, atol=1e-5)
    assert not np.allclose(got.obs[limit], got.final_obs[0])


def test_gymnax_is_gymnax() -> None:
    import gymnax

    env = jaxrl.envs.make("gymnax/CartPole-v1")
    theirs, params = gymnax.make("CartPole-v1")
    state, obs = env.reset(KEY)
    expected, their_state = theirs.reset_env(KEY, params)
    np.testing.assert_array_equal(obs, expected)
    for i in range(30):
        key, action = jax.random.key(i), jnp.int32(i % 2)
        state, step = env.step(state, action, key)
        expected, their_state, reward, over, _ = theirs.step_env(key, their_state, action, params)
        np.testing.assert_array_equal(step.obs, expected)
        assert step.reward == reward and bool(step.terminated) == bool(over)
        assert not step.truncated


def test_gymnax_time_limit() -> None:
    env = jaxrl.envs.make("gymnax/Pendulum-v1", max_steps_in_episode=3)
    final_observations_are_true(env, 3)


def test_gymnax_termination_wins() -> None:
    env = jaxrl.envs.make("gymnax/DeepSea-bsuite")
    state, _ = env.reset(KEY)
    for _ in range(8):
        state, step = env.step(state, jnp.int32(1), KEY)
    assert step.terminated and not step.truncated


def test_gymnax_constants_are_traced() -> None:
    env = jaxrl.envs.make("gymnax/CartPole-v1", gravity=5.0)
    assert env.constants["gravity"] == 5.0
    heavy = jaxrl.envs.make("gymnax/CartPole-v1")
    assert jax.tree.structure(env) == jax.tree.structure(heavy)
    state, _ = env.reset(KEY)
    for _ in range(3):
        state, light = env.step(state, jnp.int32(1), KEY)
    state, _ = heavy.reset(KEY)
    for _ in range(3):
        state, usual = heavy.step(state, jnp.int32(1), KEY)
    assert (light.obs != usual.obs).any()


def test_gymnax_spaces() -> None:
    env = jaxrl.envs.make("gymnax/Breakout-MinAtar")
    assert isinstance(env.obs_space, spaces.Box) and env.obs_space.shape == (10, 10, 4)
    assert env.action_space == spaces.Discrete(3)
    pole = jaxrl.envs.make("gymnax/CartPole-v1").obs_space
    assert isinstance(pole, spaces.Box) and not pole.bounded
    with pytest.raises(ValueError, match="CartPole-v1"):
        jaxrl.envs.make("gymnax/CartPol-v1")
    with pytest.raises(ValueError, match="gravity"):
        jaxrl.envs.make("gymnax/CartPole-v1", gravty=1.0)


def test_brax() -> None:
    env = jaxrl.envs.make("brax/inverted_pendulum", backend="spring", max_steps=4)
    assert isinstance(env.action_space, spaces.Box)
    assert env.action_space.low == -3.0 and env.action_space.high == 3.0
    final_observations_are_true(env, 4)
    assert jaxrl.envs.make("brax/inverted_pendulum", backend="spring", max_steps=4).env is env.env
    with pytest.raises(ValueError, match="inverted_pendulum"):
        jaxrl.envs.make("brax/inverted_pendulun")


def test_brax_terminates() -> None:
    env = jaxrl.envs.make("brax/inverted_pendulum", backend="spring")
    push = lambda obs: jnp.full((obs.shape[0], 1), 3.0)  # noqa: E731
    got = jaxrl.evaluate(push, env, episodes=2, max_steps=100)
    assert got.unfinished == 0 and got.lengths.max() < 100


def test_mjx() -> None:
    env = cart()
    assert env.action_space == spaces.Box([-2.0], [2.0])
    final_observations_are_true(env, 5)


def test_mjx_is_mujoco() -> None:
    import mujoco

    env = cart(max_steps=100)
    state, obs = env.reset(KEY)
    model = mjx.load(CART)
    data = mujoco.MjData(model)  # pyright: ignore
    data.qpos[:], data.qvel[:] = np.asarray(obs[:1]), np.asarray(obs[1:])
    step = jax.jit(env.step)
    for i in range(20):
        action = np.sin(i) * np.ones(1)
        data.ctrl[:] = action
        mujoco.mj_step(model, data)  # pyright: ignore
        state, out = step(state, jnp.asarray(action, jnp.float32), KEY)
        np.testing.assert_allclose(out.obs, [*data.qpos, *data.qvel], atol=1e-4)
        assert bool(out.terminated) == bool(abs(data.qpos[0]) > 0.5)


def test_mjx_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="no such file"):
        mjx.load("nowhere.xml")
    with pytest.raises(TypeError, match="MJCF"):
        mjx.load(3)
    with pytest.raises(ValueError, match="actuator"):
        mjx.task("<mujoco/>", observe=lambda d: d.qpos, reward=lambda d, a: 0.0)


def test_playground() -> None:
    pytest.importorskip("mujoco_playground")
    env = jaxrl.envs.make("playground/CartpoleBalance", max_steps=4)
    final_observations_are_true(env, 4)
    with pytest.raises(ValueError, match="CartpoleBalance"):
        jaxrl.envs.make("playground/CartpoleBalanc")


def test_a_missing_library_says_how_to_install_it() -> None:
    try:
        import mujoco_playground  # noqa: F401  # pyright: ignore
    except ImportError:
        with pytest.raises(ImportError, match=r"jaxrl\[envs\]"):
            jaxrl.envs.make("playground/CartpoleBalance")
