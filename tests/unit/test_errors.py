"""Bad input fails before compiling, and says what was given, what was needed, what to type."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import networks, policies, spaces
from jaxrl.types import Spec

KEY = jax.random.key(0)
CARTPOLE = jaxrl.envs.make("CartPole-v1")
PENDULUM = jaxrl.envs.make("Pendulum-v1")
PPO = jaxrl.PPO(num_envs=2, num_steps=8, minibatches=2)


def train(agent: Any = PPO, env: Any = CARTPOLE, key: Any = KEY, steps: Any = 100, **more: Any):
    return jaxrl.train(agent, env, key, steps=steps, **more)


def ppo(**fields: Any) -> Callable[[], Any]:
    return lambda: train(dataclasses.replace(PPO, **fields))


def dqn(**fields: Any) -> Callable[[], Any]:
    return lambda: train(jaxrl.DQN(num_envs=2, **fields))


def replace_space(space: spaces.Space, attribute: str = "obs_space") -> Any:
    @dataclasses.dataclass(frozen=True)
    class Other:
        obs_space: Any = CARTPOLE.obs_space
        action_space: Any = CARTPOLE.action_space
        time_limit: int | None = None

        def reset(self, key: Any) -> Any: ...
        def step(self, state: Any, action: Any, key: Any) -> Any: ...

    return Other(**{attribute: space})


def policy() -> jaxrl.Policy:
    spec = Spec(CARTPOLE.obs_space, CARTPOLE.action_space)
    return jaxrl.Policy(PPO, PPO.init(KEY, spec), spec)


MASKED = spaces.Dict(
    {"observation": spaces.Box(-1, 1, (4,)), "action_mask": spaces.Box(0, 1, (3,), bool)}
)

# name: (call, exception, the argument it must name, a part of the remedy)
CASES: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "agent class": (lambda: train(jaxrl.PPO), TypeError, "agent", r"PPO\(\)"),
    "agent string": (lambda: train("PPO"), TypeError, "agent", r"jaxrl.PPO\(\)"),
    "agent None": (lambda: train(None), TypeError, "agent", r"jaxrl.PPO\(\)"),
    "env string": (lambda: train(env="CartPole-v1"), TypeError, "env", "envs.make"),
    "env class": (lambda: train(env=jaxrl.envs.CartPole), TypeError, "env", r"\(\)"),
    "env None": (lambda: train(env=None), TypeError, "env", "envs.make"),
    "unknown env": (lambda: jaxrl.envs.make("CartPol-v1"), ValueError, "CartPol-v1", "CartPole-v1"),
    "unknown env constant": (
        lambda: jaxrl.envs.make("CartPole-v1", gravty=1.0),
        (ValueError, TypeError),
        "gravty",
        "gravity",
    ),
    "key is a number": (lambda: train(key=0), TypeError, "key", r"jax.random.key\(0\)"),
    "key is a list": (lambda: train(key=[1, 2]), TypeError, "key", "jax.random.key"),
    "key is floats": (lambda: train(key=jnp.zeros(2)), TypeError, "key", "jax.random.key"),
    "key has two axes": (
        lambda: train(key=jax.random.split(KEY, (2, 2))),
        ValueError,
        "key",
        r"ravel\(\)",
    ),
    "no keys": (lambda: train(key=jax.random.split(KEY, 3)[:0]), ValueError, "key", "split"),
    "steps too few": (lambda: train(steps=15), ValueError, "steps", "steps=16"),
    "steps a float": (lambda: train(steps=1e5), TypeError, "steps", "steps=100_000"),
    "steps fractional": (lambda: train(steps=1.5), TypeError, "steps", "whole number"),
    "steps zero": (lambda: train(steps=0), ValueError, "steps", "at least 1"),
    "steps negative": (lambda: train(steps=-5), ValueError, "steps", "at least 1"),
    "steps beyond the counters": (
        lambda: train(steps=2**33),
        ValueError,
        "steps",
        "more environments",
    ),
    "log_every": (lambda: train(log_every=0), ValueError, "log_every", "at least 1"),
    "evaluate_every": (lambda: train(evaluate_every=-1), ValueError, "evaluate_every", "at least"),
    "evaluate_episodes": (
        lambda: train(evaluate_episodes=0),
        ValueError,
        "evaluate_episodes",
        "at least 1",
    ),
    "reset_every": (lambda: train(reset_every=0), ValueError, "reset_every", "at least 1"),
    "lanes": (lambda: train(lanes=0), ValueError, "lanes", "at least 1"),
    "lr NaN": (ppo(lr=float("nan")), ValueError, "lr", "not NaN"),
    "lr negative": (ppo(lr=-1e-3), ValueError, "lr", "above 0"),
    "lr string": (ppo(lr="3e-4"), TypeError, "lr", "must be a number"),
    "one lr of a stack": (ppo(lr=jnp.array([1e-3, jnp.nan])), ValueError, "lr", "not NaN"),
    "gamma above one": (ppo(gamma=1.5), ValueError, "gamma", "at most 1"),
    "lam negative": (ppo(lam=-0.1), ValueError, "lam", "at least 0"),
    "clip zero": (ppo(clip=0.0), ValueError, "clip", "above 0"),
    "num_envs zero": (ppo(num_envs=0), ValueError, "num_envs", "at least 1"),
    "num_envs float": (ppo(num_envs=4.0), TypeError, "num_envs", "whole number"),
    "num_steps bool": (ppo(num_steps=True), TypeError, "num_steps", "whole number"),
    "static list": (
        ppo(actor=networks.MLP(hidden=[64, 64])),
        (TypeError, ValueError),
        "actor",
        "hashable|tuple",
    ),
    "minibatches do not divide": (ppo(minibatches=3), ValueError, "minibatches", "minibatches=2"),
    "stacks of two lengths": (
        ppo(lr=jnp.ones(2), gamma=jnp.ones(3)),
        ValueError,
        "lengths",
        "one value per run",
    ),
    "stack with two axes": (ppo(lr=jnp.ones((2, 2))), ValueError, "axis", r"ravel\(\)"),
    "stack and keys differ": (
        lambda: train(dataclasses.replace(PPO, lr=jnp.ones(2)), key=jax.random.split(KEY, 3)),
        ValueError,
        "key",
        r"split\(key, 2\)",
    ),
    "torso of a wrong rank": (ppo(actor=networks.MinAtarCNN()), ValueError, "actor", "MLP"),
    "critic of a wrong rank": (ppo(critic=networks.NatureCNN()), ValueError, "critic", "MLP"),
    "images into an MLP": (
        lambda: train(env=replace_space(spaces.Box(0, 1, (10, 10, 4)))),
        ValueError,
        "actor",
        "Flatten",
    ),
    "mask of a wrong size": (
        lambda: train(env=replace_space(MASKED)),
        ValueError,
        "action_mask",
        "2 actions",
    ),
    "matrix actions": (
        lambda: train(env=replace_space(spaces.Box(-1, 1, (2, 2)), "action_space")),
        ValueError,
        "action space",
        "vector",
    ),
    "tanh without bounds": (
        lambda: train(
            dataclasses.replace(PPO, policy=policies.TanhGaussian),
            replace_space(spaces.Box(-np.inf, np.inf, (2,)), "action_space"),
        ),
        ValueError,
        "policy",
        "policies.Gaussian",
    ),
    "dict actions": (
        lambda: train(env=replace_space(MASKED, "action_space")),
        TypeError,
        "action_space",
        "wrapper",
    ),
    "DQN on a Box": (lambda: train(jaxrl.DQN(), PENDULUM, steps=1000), TypeError, "DQN", "SAC"),
    "SAC on Discrete": (lambda: train(jaxrl.SAC(), steps=1000), TypeError, "SAC", "DQN|PPO"),
    "replay beyond memory": (dqn(capacity=10**12), ValueError, "capacity", "GiB"),
    "replay does not divide": (dqn(capacity=1001), ValueError, "capacity", "1_?000|1_?002"),
    "replay smaller than a batch": (
        dqn(capacity=16, batch_size=64),
        ValueError,
        "capacity|batch_size",
        "capacity|batch_size",
    ),
    "normalised images": (
        lambda: train(jaxrl.NormalizeObs(PPO), replace_space(spaces.Box(0, 255, (8,), np.uint8))),
        ValueError,
        "NormalizeObs",
        "drop the wrapper",
    ),
    "normalised replay": (
        lambda: train(jaxrl.NormalizeReward(jaxrl.DQN()), steps=1000),
        TypeError,
        "NormalizeReward",
        "on-policy",
    ),
    "obs of a wrong shape": (lambda: policy()(jnp.zeros(3)), ValueError, "obs", r"\(4,\)"),
    "obs with two batch axes": (
        lambda: policy()(jnp.zeros((2, 2, 4))),
        ValueError,
        "obs",
        "jax.vmap",
    ),
    "exploring without a key": (
        lambda: policy()(jnp.zeros(4), explore=True),
        ValueError,
        "key",
        "key=",
    ),
    "policy of many runs": (
        lambda: train(key=jax.random.split(KEY, 2)).policy,
        TypeError,
        "runs",
        r"result\[i\]",
    ),
    "run out of range": (
        lambda: train(key=jax.random.split(KEY, 2))[2],
        IndexError,
        "run 2",
        "0 to 1",
    ),
    "index of a single run": (lambda: train()[0], TypeError, "single run", r"without \[i\]"),
    "unknown metric": (
        lambda: train().plot(metric="reward"),
        ValueError,
        "metric",
        "episode/return",
    ),
    "another environment": (
        lambda: jaxrl.evaluate(policy(), PENDULUM),
        ValueError,
        "env",
        "trained on",
    ),
    "nothing to evaluate": (
        lambda: jaxrl.evaluate(3, CARTPOLE),
        TypeError,
        "policy",
        "jaxrl.train",
    ),
    "no episodes": (
        lambda: jaxrl.evaluate(policy(), CARTPOLE, episodes=0),
        ValueError,
        "episodes",
        "at least 1",
    ),
    "empty sweep": (lambda: jaxrl.sweep(PPO, CARTPOLE, KEY, over={}), ValueError, "over", "lr"),
    "sweep of a typo": (
        lambda: jaxrl.sweep(PPO, CARTPOLE, KEY, over={"lrr": [1]}),
        ValueError,
        "lrr",
        "lr",
    ),
    "sweep without a list": (
        lambda: jaxrl.sweep(PPO, CARTPOLE, KEY, over={"lr": 1e-3}),
        TypeError,
        "over",
        r"\[0.001\]",
    ),
    "sweep with a bad value": (
        lambda: jaxrl.sweep(PPO, CARTPOLE, KEY, over={"lr": [1e-3, -1.0]}),
        ValueError,
        "lr",
        "above",
    ),
    "sweep with a bad shape": (
        lambda: jaxrl.sweep(PPO, CARTPOLE, KEY, over={"minibatches": [2, 3]}),
        ValueError,
        "minibatches",
        "divide",
    ),
    "stream inside jit": (
        lambda: jax.jit(lambda k: list(jaxrl.stream(PPO, CARTPOLE, k, steps=100)))(KEY),
        TypeError,
        "stream",
        "jaxrl.train",
    ),
    "unknown public name": (lambda: jaxrl.PPOO, AttributeError, "PPOO", "jaxrl"),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name: str) -> None:
    call, kind, argument, remedy = CASES[name]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert re.search(argument, message), message
    assert re.search(remedy, message), message


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
