"""Adapters: natural ends, time limits and true final observations come through each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rollout, spaces
from jaxrl.envs import adapters
from jaxrl.envs.adapters import mjx
from jaxrl.envs.adapters.playground import Playground
from jaxrl.envs.wrappers import TimeLimit
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
    streams = jax.jit(lambda key: rollout.start(agent, env, key, 1))(jax.random.key(1))
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


@pytest.mark.slow
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
    if jax.default_backend() == "cpu":  # Warp, Playground's own choice, is far slower there
        assert env.env.env.mjx_model.impl.name == "JAX"
    final_observations_are_true(env, 4)
    with pytest.raises(ValueError, match="CartpoleBalance"):
        jaxrl.envs.make("playground/CartpoleBalanc")


def test_playground_is_playground() -> None:
    """The same observations, rewards and ends as the library's own loop; the limit on top."""
    pytest.importorskip("mujoco_playground")
    from mujoco_playground import registry

    env = jaxrl.envs.make("playground/CartpoleBalance", max_steps=12)
    theirs = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    their_step, step = jax.jit(theirs.step), jax.jit(env.step)
    their_state = jax.jit(theirs.reset)(jax.random.key_data(KEY))
    state, obs = jax.jit(env.reset)(KEY)
    np.testing.assert_allclose(obs, their_state.obs, atol=1e-5)
    for t in range(12):
        action = jnp.sin(jnp.full(1, t, jnp.float32))
        their_state = their_step(their_state, action)
        state, out = step(state, action, KEY)
        np.testing.assert_allclose(out.obs, their_state.obs, atol=1e-4)
        assert float(out.reward) == pytest.approx(float(their_state.reward), abs=1e-4)
        assert bool(out.terminated) == bool(their_state.done) and not out.terminated
        assert bool(out.truncated) == (t == 11)
    default = int(registry.get_default_config("CartpoleBalance").episode_length)
    assert jaxrl.envs.make("playground/CartpoleBalance").time_limit == default


@dataclasses.dataclass(frozen=True)
class Falling:
    """Has the shape of a Playground environment: two observations, down after three steps."""

    observation_size = {"state": (2,), "privileged_state": 3}
    action_size = 1

    def reset(self, key: jax.Array) -> Any:
        assert key.dtype == jnp.uint32  # raw keys
        return self._state(jnp.zeros(()), 0.0)

    def step(self, state: Any, action: jax.Array) -> Any:
        return self._state(state["t"] + 1, state["t"] + action[0])

    def _state(self, t: jax.Array, reward: Any) -> Any:
        obs = {"state": jnp.full(2, t), "privileged_state": jnp.full(3, -t)}
        return State(t=t, obs=obs, reward=reward, done=(t >= 3).astype(jnp.float32))


class State(dict[str, Any]):
    """Read by attribute, a pytree by being a dict."""

    __getattr__ = dict.__getitem__


jax.tree_util.register_pytree_node(
    State,
    lambda s: (tuple(s[k] for k in sorted(s)), tuple(sorted(s))),
    lambda names, parts: State(zip(names, parts)),
)


def test_playground_ends_are_terminations() -> None:
    """And its observations may be several; those of the last step are not a new episode's."""
    env = TimeLimit(Playground(Falling()), 10)
    state, obs = env.reset(KEY)
    assert env.obs_space.contains(obs)
    for t in range(3):
        state, step = env.step(state, jnp.full(1, 0.5), KEY)
        assert env.obs_space.contains(step.obs)
        assert step.reward == pytest.approx(t + 0.5)
        assert bool(step.terminated) == (t == 2) and not step.truncated
    np.testing.assert_array_equal(step.obs["state"], 3)
    np.testing.assert_array_equal(step.obs["privileged_state"], -3)


@pytest.mark.parametrize("weak", [1.0, jnp.asarray(1.0), jnp.ones(2)])
def test_what_libraries_return_has_settled_types(weak: Any) -> None:
    """A step may not be compiled twice because a reset wrote `0.0` where a step writes an array."""
    traces: list[Any] = []

    @jax.jit
    def use(x: Any) -> Any:
        traces.append(x)
        return x

    got = adapters.settled({"x": weak, "key": jax.random.key_data(KEY)})
    use(got)
    use({"x": jnp.ones(jnp.shape(weak), jnp.float32), "key": got["key"]})
    assert len(traces) == 1
    np.testing.assert_array_equal(got["x"], weak)


def test_a_missing_library_says_how_to_install_it() -> None:
    try:
        import mujoco_playground  # noqa: F401  # pyright: ignore
    except ImportError:
        with pytest.raises(ImportError, match=r"jaxrl\[envs\]"):
            jaxrl.envs.make("playground/CartpoleBalance")
