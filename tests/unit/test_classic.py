"""The classic tasks against Gymnasium: same state, same action, same step."""

import functools
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs

TRANSITIONS = 10_000

# Where states are drawn from, uniformly: a little wider than where episodes go, so that every
# clip, wall, wrap and termination is met many times.
LOW_HIGH: dict[str, tuple[list[float], list[float]]] = {
    "CartPole-v1": ([-2.5, -4, -0.23, -4], [2.5, 4, 0.23, 4]),
    "Acrobot-v1": ([-math.pi, -math.pi, -13, -29], [math.pi, math.pi, 13, 29]),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "Pendulum-v1": ([-10, -8], [10, 8]),
}

# How far one step in float32 may end from Gymnasium's in float64. Acrobot is stiff: at the speeds
# drawn here, up to 29 rad/s, the stages of its integrator reach thousands, and float32 resolves a
# thousand to 6e-5. The comparison in float64 is the strict one.
TOLERANCE = {
    "CartPole-v1": 1e-6,
    "Acrobot-v1": 2e-3,
    "MountainCar-v0": 2e-7,
    "MountainCarContinuous-v0": 2e-7,
    "Pendulum-v1": 2e-6,
}


def to_goal(name: str, gym_env: Any) -> float:
    """How far (in float64) the state is from the line at which episodes end."""
    s = gym_env.state
    match name:
        case "CartPole-v1":
            return min(abs(abs(s[0]) - 2.4), abs(abs(s[2]) - 12 * 2 * math.pi / 360))
        case "Acrobot-v1":
            return abs(-math.cos(s[0]) - math.cos(s[0] + s[1]) - 1.0)
        case "MountainCar-v0" | "MountainCarContinuous-v0":
            behind = (0.5 if name == "MountainCar-v0" else 0.45) - s[0]
            slow = -s[1]  # ends where both are at most zero
            return abs(max(behind, slow))
    return math.inf


def gym_step(env: Any, state: np.ndarray, action: np.ndarray) -> tuple[Any, ...]:
    """One step of Gymnasium from a state of our choice; -> obs, reward, terminated, truncated."""
    inner = env.unwrapped
    inner.state = np.asarray(state, np.float64)
    if hasattr(inner, "steps_beyond_terminated"):
        inner.steps_beyond_terminated = None  # CartPole pays no reward after its end
    obs, reward, terminated, truncated, _ = env.step(action)
    return obs, reward, terminated, truncated


def gym_action(action: np.ndarray) -> Any:
    return action if action.ndim else int(action)


@functools.cache
def transitions(name: str) -> tuple[np.ndarray, ...]:
    """-> states (float32), actions, and what Gymnasium makes of them: obs, reward, terminated,
    distance of the next state from the line at which episodes end."""
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    low, high = LOW_HIGH[name]
    states = rng.uniform(low, high, (TRANSITIONS, len(low))).astype(np.float32)
    env.action_space.seed(0)
    actions = np.array([env.action_space.sample() for _ in range(TRANSITIONS)])
    if actions.dtype == np.float32:
        actions = actions.astype(np.float64)  # else Gymnasium squares some of them in float32
    steps = [
        gym_step(env, s, gym_action(a))[:3] + (to_goal(name, env),) for s, a in zip(states, actions)
    ]
    return states, actions, *(np.array(x) for x in zip(*steps))


def step_all(name: str, states: Any, actions: Any) -> Any:
    env = jaxrl.envs.make(name).env
    keys = jax.random.split(jax.random.key(0), TRANSITIONS)
    step = jax.jit(jax.vmap(env.step))(jnp.asarray(states), jnp.asarray(actions), keys)[1]
    assert not np.asarray(step.truncated).any()
    return jax.tree.map(np.asarray, step)


@pytest.mark.parametrize("name", LOW_HIGH)
def test_in_float64_ten_thousand_transitions_are_those_of_gymnasium(name: str) -> None:
    """The equations, the rewards and every single termination, without a rounding in the way."""
    states, actions, obs, reward, terminated, _ = transitions(name)
    with jax.enable_x64(True):
        step = step_all(name, states.astype(np.float64), actions)
    assert step.obs.dtype == np.float64
    # Gymnasium hands out observations in float32.
    np.testing.assert_allclose(step.obs, obs, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(step.reward, reward, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(step.terminated, terminated)
    # Episodes do end, but for the pendulum's.
    assert terminated.sum() > 100 or name == "Pendulum-v1"


@pytest.mark.parametrize("name", LOW_HIGH)
def test_in_float32_they_are_but_for_rounding(name: str) -> None:
    """Only where the next state is nearer than the tolerance to the line at which episodes end may
    float32 see it on the other side: in at most three of ten thousand steps."""
    states, actions, obs, reward, terminated, distance = transitions(name)
    step = step_all(name, states, actions.astype(np.float32) if actions.ndim == 2 else actions)
    assert step.obs.dtype == step.reward.dtype == np.float32
    error = np.abs(step.obs - obs).max(1)
    assert error.max() < TOLERANCE[name]
    assert np.median(error) < 3e-6
    other_side = step.terminated != terminated
    assert other_side.sum() <= 3
    assert (distance[other_side] < TOLERANCE[name]).all()
    same = ~other_side
    np.testing.assert_allclose(step.reward[same], reward[same], rtol=2e-6, atol=1e-6)


# A policy for each task under which no episode ends by itself.
ENDLESS: dict[str, Callable[[np.ndarray], Any]] = {
    "CartPole-v1": lambda s: int(s @ np.array([0.1, 0.5, 5.0, 1.0]) > 0),
    "Acrobot-v1": lambda s: 1,
    "MountainCar-v0": lambda s: 1,
    "MountainCarContinuous-v0": lambda s: np.float32([0.1]),
    "Pendulum-v1": lambda s: np.float32([1.0]),
}


@pytest.mark.parametrize("name", LOW_HIGH)
def test_a_whole_episode_with_its_time_limit_is_that_of_gymnasium(name: str) -> None:
    """Ours is played on its own; Gymnasium is put into its state before every step."""
    ours, theirs = jaxrl.envs.make(name), gymnasium.make(name)
    theirs.reset(seed=0)
    state, _ = ours.reset(jax.random.key(1))
    step_once = jax.jit(ours.step)
    for t in range(1, ours.time_limit + 1):
        before = np.asarray(state.inner)
        action = ENDLESS[name](before)
        state, step = step_once(state, jnp.asarray(action), jax.random.key(t))
        obs, reward, terminated, truncated = gym_step(theirs, before, action)
        np.testing.assert_allclose(step.obs, obs, rtol=0, atol=TOLERANCE[name])
        np.testing.assert_allclose(step.reward, reward, rtol=1e-5, atol=1e-6)
        assert not step.terminated and not terminated
        assert bool(step.truncated) == truncated == (t == ours.time_limit)


@pytest.mark.parametrize("name", LOW_HIGH)
def test_spaces_limits_and_starts_are_those_of_gymnasium(name: str) -> None:
    ours, theirs = jaxrl.envs.make(name), gymnasium.make(name)
    assert ours.time_limit == theirs.spec.max_episode_steps
    space = theirs.observation_space
    assert ours.obs_space.shape == space.shape
    np.testing.assert_allclose(np.broadcast_to(ours.obs_space.low, space.shape), space.low)
    np.testing.assert_allclose(np.broadcast_to(ours.obs_space.high, space.shape), space.high)
    if isinstance(theirs.action_space, gymnasium.spaces.Discrete):
        assert ours.action_space.n == theirs.action_space.n
    else:
        assert ours.action_space.shape == theirs.action_space.shape
        np.testing.assert_allclose(ours.action_space.low, theirs.action_space.low)
        np.testing.assert_allclose(ours.action_space.high, theirs.action_space.high)

    starts, _ = jax.vmap(ours.env.reset)(jax.random.split(jax.random.key(0), 4000))
    theirs = theirs.unwrapped
    gym_starts = np.array([(theirs.reset(seed=i), theirs.state)[1] for i in range(4000)])
    # Uniform in both: the extremes of 4000 draws lie within half a percent of the range.
    spread = np.ptp(gym_starts, axis=0)
    np.testing.assert_allclose(starts.min(0), gym_starts.min(0), rtol=0, atol=0.005 * spread.max())
    np.testing.assert_allclose(starts.max(0), gym_starts.max(0), rtol=0, atol=0.005 * spread.max())
    np.testing.assert_allclose(starts.mean(0), gym_starts.mean(0), atol=0.04 * spread.max())


def test_cartpole_by_hand() -> None:
    """From rest, upright: push = 10/1.1, theta_acc = -push/(0.5 (4/3 - 0.1/1.1))."""
    env = jaxrl.envs.make("CartPole-v1").env
    state, step = env.step(jnp.zeros(4), jnp.asarray(1), jax.random.key(0))
    push = 10 / 1.1
    theta_acc = -push / (0.5 * (4 / 3 - 0.1 / 1.1))
    x_acc = push - 0.05 * theta_acc / 1.1
    np.testing.assert_allclose(state, [0, 0.02 * x_acc, 0, 0.02 * theta_acc], rtol=1e-6)
    np.testing.assert_allclose(state, [0, 0.1951220, 0, -0.2926829], atol=1e-6)
    assert step.reward == 1


def test_pendulum_reward_is_largest_upright_and_wraps() -> None:
    env = jaxrl.envs.make("Pendulum-v1").env

    def reward(angle: float, torque: float) -> float:
        state = jnp.asarray([angle, 0.0])
        return float(env.step(state, jnp.asarray([torque]), jax.random.key(0))[1].reward)

    assert reward(0.0, 0.0) == 0
    assert reward(0.0, 2.0) == pytest.approx(-0.004)
    assert reward(0.0, 50.0) == pytest.approx(-0.004)  # clipped before it is paid for
    assert reward(math.pi - 1e-3, 0.0) == pytest.approx(-((math.pi - 1e-3) ** 2), rel=1e-5)
    assert reward(2 * math.pi + 0.5, 0.0) == pytest.approx(-0.25, rel=1e-4)


def test_weaker_motors_scale_the_action() -> None:
    """Action 2 means full torque whatever the torque is; the same for the engine of the car."""
    state, key = jnp.asarray([0.0, 0.0]), jax.random.key(0)
    for torque in (1.0, 4.0):
        env = jaxrl.envs.make("Pendulum-v1", max_torque=torque).env
        moved, step = env.step(state, jnp.asarray([2.0]), key)
        assert moved[1] == pytest.approx(3 * torque * 0.05)
        assert step.reward == pytest.approx(-0.001 * torque**2)


def test_acrobot_wraps_angles_and_ends_above_the_bar() -> None:
    env = jaxrl.envs.make("Acrobot-v1").env
    state, _ = env.step(jnp.asarray([3.1, -3.1, 4.0, -9.0]), jnp.asarray(1), jax.random.key(0))
    assert np.all(np.abs(state[:2]) <= math.pi + 1e-6)
    up = jnp.asarray([math.pi, 0.0, 0.0, 0.0])
    _, step = env.step(up, jnp.asarray(1), jax.random.key(0))
    assert step.terminated and step.reward == 0


def test_constants_reach_the_dynamics() -> None:
    """Every constant of every task changes something within one step or one reset."""
    for name, (low, high) in LOW_HIGH.items():
        env = jaxrl.envs.make(name).env
        keys = jax.random.split(jax.random.key(0), 2000)
        states = np.random.default_rng(1).uniform(low, high, (2000, len(low)))
        states = jnp.asarray(states, jnp.float32)
        actions = jax.vmap(env.action_space.sample)(keys)

        @jax.jit
        def results(env: Any, states: Any = states, actions: Any = actions, keys: Any = keys):
            return jax.vmap(env.reset)(keys), jax.vmap(env.step)(states, actions, keys)

        leaves, tree = jax.tree.flatten(env)
        plain = results(jax.tree.unflatten(tree, leaves))
        for i, leaf in enumerate(leaves):
            other = [x + 0.01 if j == i else x for j, x in enumerate(leaves)]
            changed = results(jax.tree.unflatten(tree, other))
            same = jax.tree.map(np.array_equal, plain, changed)
            assert not all(jax.tree.leaves(same)), f"{name}: constant {i} ({leaf}) changes nothing"
