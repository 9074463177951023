"""One script for two libraries: only the imports change."""

import tempfile
from pathlib import Path

import gymnasium
import numpy as np

from jaxrl.sb3 import DQN, PPO, SAC, evaluate_policy, make_vec_env

# With Stable-Baselines3 these lines stand there instead:
# from stable_baselines3 import DQN, PPO, SAC
# from stable_baselines3.common.env_util import make_vec_env
# from stable_baselines3.common.evaluation import evaluate_policy

# PPO in four environments, evaluated in another one.
model = PPO(
    "MlpPolicy",
    make_vec_env("CartPole-v1", n_envs=4, seed=0),
    learning_rate=1e-3,
    n_steps=128,
    batch_size=128,
    n_epochs=4,
    ent_coef=0.01,
    policy_kwargs=dict(net_arch=dict(pi=[32, 32], vf=[64])),
    seed=0,
)
model.learn(total_timesteps=30_000)
mean, std = evaluate_policy(model, gymnasium.make("CartPole-v1"), n_eval_episodes=10)
print(f"PPO: {mean:.1f} +- {std:.1f}")
assert mean > 100, mean  # a random policy: 22

# A policy in a file, and back.
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "ppo")
    again = PPO.load(Path(folder) / "ppo")

# One episode by hand.
env = gymnasium.make("CartPole-v1")
obs, info = env.reset(seed=1)
total, ended = 0.0, False
while not ended:
    action, _ = model.predict(obs, deterministic=True)
    assert np.array_equal(action, again.predict(obs, deterministic=True)[0])
    obs, reward, terminated, truncated, info = env.step(action)
    total, ended = total + float(reward), terminated or truncated
print(f"one episode: {total:.0f}")

# A batch of observations gives a batch of actions; some are drawn otherwise.
actions, _ = model.predict(np.zeros((64, 4), np.float32), deterministic=False)
assert actions.shape == (64,) and set(actions.tolist()) == {0, 1}

# The others.
dqn = DQN("MlpPolicy", "CartPole-v1", learning_starts=200, buffer_size=5_000, seed=0)
dqn.learn(1_000).learn(1_000, reset_num_timesteps=False)
assert dqn.num_timesteps == 2_000
sac = SAC("MlpPolicy", "Pendulum-v1", buffer_size=5_000, policy_kwargs=dict(net_arch=[32, 32]))
sac.learn(400)
action, _ = sac.predict(np.zeros(3, np.float32), deterministic=True)
assert action.shape == (1,) and abs(action[0]) <= 2.0
pendulum = gymnasium.make("Pendulum-v1")
returns, lengths = evaluate_policy(sac, pendulum, 2, return_episode_rewards=True)
assert lengths == [200, 200] and all(-2000 < r < 0 for r in returns)
print("done")
