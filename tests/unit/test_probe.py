"""The numbers in the docstrings of the probes, from playing them and from NumPy value iteration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs

G = 0.9


def episode(name: str, actions: Any, key: int = 0) -> tuple[list[float], list[Any], Any]:
    """-> observations (the first included), rewards, the last step"""
    env = jaxrl.envs.make(name)
    state, obs = env.reset(jax.random.key(key))
    seen, rewards = [float(obs[0])], []
    for action in actions:
        state, step = env.step(state, jnp.asarray(action), jax.random.key(1))
        seen.append(float(step.obs[0]))
        rewards.append(float(step.reward))
    return seen, rewards, step


def cues(name: str) -> list[tuple[int, float]]:
    """A key for either first observation."""
    env = jaxrl.envs.make(name)
    first = {float(env.reset(jax.random.key(k))[1][0]): k for k in range(20)}
    assert set(first) == {-1.0, 1.0}
    return [(k, cue) for cue, k in first.items()]


def test_value() -> None:
    seen, rewards, last = episode("Probe-Value", [0])
    assert (seen[0], rewards, bool(last.terminated)) == (0.0, [1.0], True)
    assert episode("Probe-Value", [1])[1] == [1.0]


def test_observation() -> None:
    for key, cue in cues("Probe-Observation"):
        _, rewards, last = episode("Probe-Observation", [0], key)
        assert rewards == [cue] and last.terminated


def test_discount() -> None:
    seen, rewards, last = episode("Probe-Discount", [0, 1])
    assert (seen[:2], rewards, bool(last.terminated)) == ([0.0, 1.0], [0.0, 1.0], True)
    assert not episode("Probe-Discount", [0])[2].terminated


def test_action() -> None:
    assert episode("Probe-Action", [0])[1] == [-1.0]
    assert episode("Probe-Action", [1])[1] == [1.0]


def test_policy() -> None:
    for key, cue in cues("Probe-Policy"):
        for action in (0, 1):
            right = (action == 1) == (cue > 0)
            assert episode("Probe-Policy", [action], key)[1] == [1.0 if right else -1.0]


def test_credit() -> None:
    for first in (0, 1):
        for second in (0, 1):
            seen, rewards, last = episode("Probe-Credit", [first, second])
            chosen = 1.0 if first else -1.0
            assert seen[:2] == [0.0, chosen]
            assert rewards == [0.0, chosen] and last.terminated


def test_truncation() -> None:
    """Values of the endless task, and of both mistakes, from the transitions as they are played."""
    seen, rewards, last = episode("Probe-Truncation", [0, 1])
    assert (seen, rewards) == ([0.0, 1.0, 1.0], [0.0, 1.0])
    assert last.truncated and not last.terminated

    def values(at_the_end: Any) -> list[float]:
        v = np.zeros(2)  # V(0), V(1)
        for _ in range(2000):
            v = np.array([rewards[0] + G * v[1], rewards[1] + G * at_the_end(v)])
        return [pytest.approx(x, rel=1e-6) for x in v]

    assert values(lambda v: v[1]) == [9.0, 10.0]
    assert values(lambda v: 0.0) == [0.9, 1.0]
    assert values(lambda v: v[0]) == [G / (1 - G**2), 1 / (1 - G**2)]


def test_memory() -> None:
    for key, cue in cues("Probe-Memory"):
        for answer in (0, 1):
            seen, rewards, last = episode("Probe-Memory", [1 - answer] * 3 + [answer], key)
            assert seen == [cue, 0, 0, 0, 0]
            right = (answer == 1) == (cue > 0)
            assert rewards == [0, 0, 0, 1.0 if right else -1.0]
            assert last.terminated


def test_continuous() -> None:
    for action, reward in ((0.3, 0.0), (0.0, -0.09), (-1.0, -1.69)):
        assert episode("Probe-Continuous", [[action]])[1] == [pytest.approx(reward, abs=1e-6)]


def test_continuous_policy() -> None:
    for key, cue in cues("Probe-ContinuousPolicy"):
        assert episode("Probe-ContinuousPolicy", [[0.5 * cue]], key)[1] == [0.0]
        assert episode("Probe-ContinuousPolicy", [[0.0]], key)[1] == [-0.25]
