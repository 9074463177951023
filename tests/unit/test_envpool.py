"""EnvPool, where it is installed: no step is lost between episodes, and agents train in it."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl import spaces

pytest.importorskip("envpool")
pytestmark = pytest.mark.filterwarnings("ignore:.*Box (low|high):UserWarning")  # Gymnasium's


def test_spaces() -> None:
    env = jaxrl.envs.from_envpool("CartPole-v1", num_envs=2)
    assert isinstance(env.obs_space, spaces.Box) and env.obs_space.shape == (4,)
    assert env.action_space == spaces.Discrete(2)
    assert env.recipe() == ("envpool/CartPole-v1", {"num_envs": 2, "groups": 1})


def test_every_step_counts() -> None:
    """By itself EnvPool would play a step that ignores the action after each end."""
    pool = jaxrl.envs.from_envpool("CartPole-v1", max_episode_steps=5).open(3)
    obs = pool.reset(np.arange(3))
    for t in range(20):
        before = np.array(obs)
        moved = pool.step(np.full(3, t % 2))
        obs = moved.obs
        assert (moved.truncated == (t % 5 == 4)).all() and not moved.terminated.any()
        if t % 5 == 4:
            assert (np.abs(obs) <= 0.05).all()  # a first observation
            assert moved.final_obs is not None
            obs_after: Any = moved.final_obs
        else:
            assert moved.final_obs is None
            obs_after = obs
        # CartPole's position moves by its speed: one step, no more and no less.
        np.testing.assert_allclose(obs_after[:, 0], before[:, 0] + 0.02 * before[:, 1], atol=1e-6)
    pool.close()


def test_ends_are_terminations() -> None:
    pool = jaxrl.envs.from_envpool("CartPole-v1").open(2)
    pool.reset(np.arange(2))
    steps = [pool.step(np.ones(2, int)) for _ in range(30)]
    ended = np.stack([moved.terminated for moved in steps])
    assert ended.sum() >= 4 and not np.stack([moved.truncated for moved in steps]).any()
    assert all((np.abs(m.obs[m.terminated]) <= 0.05).all() for m in steps)
    pool.close()


def test_an_agent_trains_and_is_evaluated() -> None:
    env = jaxrl.envs.make("envpool/CartPole-v1", num_envs=4)
    agent = jaxrl.PPO(num_envs=4, num_steps=64, lr=1e-3)
    run = jaxrl.train(agent, env, jax.random.key(0), steps=20_480)
    score = jaxrl.evaluate(run, env, episodes=8)
    assert score.mean > 60.0  # a random policy: 22


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="envpool/CartPol-v1.*list_all_envs"):
        jaxrl.envs.from_envpool("CartPol-v1")
