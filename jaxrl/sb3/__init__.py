"""The interface of Stable-Baselines3 on the agents of this library.

    from jaxrl.sb3 import PPO, evaluate_policy

    model = PPO("MlpPolicy", "CartPole-v1", seed=0).learn(50_000, progress_bar=True)
    print(evaluate_policy(model, "CartPole-v1", n_eval_episodes=20))

The names and the defaults of arguments are those of Stable-Baselines3, so that results can be
compared; what is not supported is refused with what to write instead. docs/sb3.md says what is the
same and what is not. A name as `env` is a Gymnasium environment; environments of this library
(`jaxrl.envs.make`) are taken too, and are many times as fast.
"""

from jaxrl.sb3.evaluation import evaluate_policy, make_vec_env
from jaxrl.sb3.models import DQN, PPO, SAC

__all__ = ["DQN", "PPO", "SAC", "evaluate_policy", "make_vec_env"]
