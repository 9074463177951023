"""The facade of Stable-Baselines3: its defaults, what it refuses, its files, and one script that
runs with both."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import replay
from jaxrl.envs import from_gymnasium
from jaxrl.sb3 import DQN, PPO, SAC, evaluate_policy, make_vec_env
from jaxrl.sb3.arguments import ClippedValueError, Unscaled
from jaxrl.spaces import Box

SCRIPT = Path(__file__).parents[2] / "examples/sb3_script.py"
SMALL: dict[str, Any] = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0)


def run(code: str, tmp_path: Path) -> str:
    file = tmp_path / "script.py"
    file.write_text(code)
    root = str(SCRIPT.parents[1])
    done = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_script_runs_with_ours(tmp_path: Path) -> None:
    assert run(SCRIPT.read_text(), tmp_path).endswith("done\n")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="needs stable-baselines3"
)
def test_the_script_runs_with_theirs(tmp_path: Path) -> None:
    code = re.sub(r"^from jaxrl\.sb3 import .*\n", "", SCRIPT.read_text(), flags=re.MULTILINE)
    code = re.sub(r"^# (from stable_baselines3)", r"\1", code, flags=re.MULTILINE)
    assert code.count("from stable_baselines3") == 3 and "jaxrl" not in code
    assert run(code, tmp_path).endswith("done\n")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="needs stable-baselines3"
)
@pytest.mark.parametrize("model", [PPO, DQN, SAC])
def test_defaults_and_names_are_theirs(model: Any) -> None:
    import stable_baselines3

    from jaxrl.sb3.arguments import OTHERS

    theirs = inspect.signature(getattr(stable_baselines3, model.__name__).__init__).parameters
    ours = inspect.signature(model.__init__).parameters
    for name, parameter in theirs.items():
        if name in OTHERS:
            assert OTHERS[name][0] == parameter.default, name
        else:
            assert ours[name].default == parameter.default, name
    assert set(ours) - set(theirs) == {"n_envs", "others"}


# ------------------------------------------------------------------------------------- arguments


def test_ppo_is_ours_with_their_numbers() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", clip_range_vf=0.3, target_kl=0.02)
    agent = model.agent
    assert (agent.num_envs, agent.num_steps, agent.epochs) == (1, 2048, 10)
    assert agent.num_steps // agent.minibatches == 64
    assert (agent.lr, agent.gamma, agent.lam, agent.clip) == (3e-4, 0.99, 0.95, 0.2)
    assert agent.entropy == 0.0 and agent.max_grad_norm == 0.5 and agent.adam_eps == 1e-5
    assert agent.target_kl == pytest.approx(0.03)
    share = jnp.float32(0.25)
    assert agent.anneal_lr(share) == agent.anneal_clip(share) == 1.0
    # Theirs: 0.5 * mean((v - target)^2).
    value, old, target = (jnp.array(x) for x in ([1.0, 2.0], [1.1, 1.0], [3.0, 3.0]))
    kept = np.array([1.0, 1.3])
    np.testing.assert_allclose(
        agent.value_weight * agent.value_loss(value, old, target),
        0.5 * np.mean((kept - 3.0) ** 2),
        rtol=1e-6,
    )
    assert isinstance(agent.value_loss, ClippedValueError)
    assert agent.actor.hidden == agent.critic.hidden == (64, 64)
    plain = PPO("MlpPolicy", "CartPole-v1", normalize_advantage=False).agent
    np.testing.assert_allclose(
        plain.value_weight * plain.value_loss(value, old, target), 0.5 * 2.5, rtol=1e-6
    )
    advantage = jnp.array([1.0, 5.0])
    np.testing.assert_array_equal(plain.normalize_minibatch(advantage), advantage)


def test_schedules_count_what_is_left() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda left: 1e-3 * left, **SMALL)
    share = jnp.float32(0.25)
    np.testing.assert_allclose(model.agent.lr * model.agent.anneal_lr(share), 7.5e-4, rtol=1e-6)
    model.learn(16)


def test_dqn_counts_as_they_do() -> None:
    agent = DQN("MlpPolicy", make_vec_env("CartPole-v1", 3)).agent
    assert (agent.num_envs, agent.num_steps, agent.grad_steps) == (3, 4, 1)
    # Every 10000 // 3 = 3333 calls, an update each 4: theirs copies every 833 updates.
    assert agent.copy.every == 833
    assert agent.capacity == 999_999 and agent.batch_size == 32
    assert (agent.epsilon_start, agent.epsilon_end, agent.explore_share) == (1.0, 0.05, 0.1)
    error = jnp.array([0.5, -3.0])
    np.testing.assert_allclose(agent.loss(error), [0.125, 2.5])
    online, target = jnp.array([[5.0, 1.0]]), jnp.array([[2.0, 3.0]])
    assert agent.target(online, target, None) == 3.0  # not double
    two = DQN(
        "MlpPolicy", make_vec_env("CartPole-v1", 2), train_freq=(3, "step"), gradient_steps=-1
    )
    assert (two.agent.num_steps, two.agent.grad_steps) == (3, 6)


def test_sac_temperature() -> None:
    kwargs: dict[str, Any] = dict(buffer_size=400, policy_kwargs=dict(net_arch=[8]), seed=0)
    fixed = SAC("MlpPolicy", "Pendulum-v1", ent_coef=0.2, **kwargs).learn(120)
    assert float(jnp.exp(fixed._state.log_alpha)) == pytest.approx(0.2, abs=1e-7)
    learned = SAC("MlpPolicy", "Pendulum-v1", ent_coef="auto_0.2", **kwargs).learn(120)
    assert abs(float(jnp.exp(learned._state.log_alpha)) - 0.2) > 1e-4
    assert learned.agent.actor.hidden == (8,) and learned.agent.grad_steps == 1


def test_actions_are_in_the_units_of_the_environment() -> None:
    """Standard deviation 1 of the action itself, not of half the width of its box."""
    space = Box(-2.0, 2.0, (1,))
    policy = Unscaled.of(jnp.zeros((1,)), jnp.zeros((1,)), space)
    np.testing.assert_allclose(policy.action(jnp.array([0.5])), [0.5])
    np.testing.assert_allclose(policy.action(jnp.array([-5.0])), [-2.0])


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: PPO("MlpPolicy", "CartPole-v1", use_sde=True), TypeError, "use_sde=True"),
        (lambda: PPO("MlpPolicy", "CartPole-v1", n_step=5), TypeError, "did you mean n_steps"),
        (lambda: PPO("Mlp", "CartPole-v1"), TypeError, '"MlpPolicy"'),
        (lambda: PPO("MlpPolicy", "CartPole-v1", batch_size=100), ValueError, "batch_size=4"),
        (lambda: PPO("MlpPolicy", "CartPole-v1", device="cuda:1"), ValueError, "JAX_PLATFORMS"),
        (
            lambda: PPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(activation_fn="swish")),
            ValueError,
            "'tanh', 'relu'",
        ),
        (
            lambda: PPO("MlpPolicy", "CartPole-v1", policy_kwargs=dict(log_std_init=1)),
            TypeError,
            "takes net_arch and activation_fn",
        ),
        (
            lambda: DQN("MlpPolicy", "CartPole-v1", tau=0.5),
            ValueError,
            "target_update_interval=4 for a copy",
        ),
        (lambda: DQN("MlpPolicy", "CartPole-v1", train_freq=(1, "episode")), TypeError, "step"),
        (lambda: DQN("MlpPolicy", "Pendulum-v1"), TypeError, "Discrete action space"),
        (lambda: SAC("MlpPolicy", "Pendulum-v1", ent_coef="x"), ValueError, "auto_0.1"),
        (lambda: SAC("MlpPolicy", "Pendulum-v1", action_noise=3), TypeError, "action_noise=3"),
        (lambda: make_vec_env("CartPole-v1", monitor_dir="x"), TypeError, "monitor_dir"),
        (
            lambda: PPO("MlpPolicy", "CartPole-v1", **SMALL).learn(8, callback=lambda *_: True),
            TypeError,
            r"jaxrl\.stream",
        ),
        (lambda: PPO("MlpPolicy", "CartPole-v1", **SMALL).learn(8.5), TypeError, "whole number"),
        (lambda: PPO("MlpPolicy", "CartPole-v1", **SMALL).get_env(), TypeError, "model.predict"),
        (
            lambda: evaluate_policy(PPO("MlpPolicy", "CartPole-v1", **SMALL), "Pendulum-v1"),
            ValueError,
            "trained on",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_refusals(build: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build()


def test_neutral_values_of_what_is_missing_are_taken() -> None:
    PPO("MlpPolicy", "CartPole-v1", use_sde=False, rollout_buffer_class=None, **SMALL)


# -------------------------------------------------------------------------------------- learning


def test_learning_goes_on_or_begins_anew() -> None:
    kwargs: dict[str, Any] = dict(
        learning_starts=16, buffer_size=128, batch_size=8, train_freq=2, seed=0,
        target_update_interval=10_000, exploration_fraction=0.5,
    )  # fmt: skip
    model = DQN("MlpPolicy", "CartPole-v1", **kwargs).learn(40)
    first = jax.tree.map(np.asarray, model._state)
    assert model.num_timesteps == 40 and int(first.env_steps.value) == 40
    assert float(model.result.metrics["policy/epsilon"][-1]) == pytest.approx(0.05)
    model.learn(41, reset_num_timesteps=False)  # rounded up to whole updates
    assert model.num_timesteps == 82 and int(model._state.env_steps.value) == 82
    assert int(model._state.replay.filled.value) == 82
    # The seam between the two is a truncation in the replay.
    flags = int(np.asarray(model._state.replay.flags)[39, 0])
    assert flags & (replay.TRUNCATED | replay.TERMINATED)
    before = model.result.metrics["policy/epsilon"]
    assert float(before[0]) < 1.0  # the schedule goes on
    model.learn(40)
    assert model.num_timesteps == 40 and int(model._state.env_steps.value) == 40
    assert int(model._state.replay.filled.value) == 122
    assert float(model.result.metrics["policy/epsilon"][0]) > 0.8


def test_an_environment_of_ours_is_taken(tmp_path: Path) -> None:
    env = jaxrl.envs.make("CartPole-v1")
    model = PPO("MlpPolicy", env, n_envs=4, tensorboard_log=str(tmp_path / "tb"), **SMALL)
    model.learn(64).learn(64)
    assert sorted(p.name for p in (tmp_path / "tb").iterdir()) == ["PPO_1", "PPO_2"]
    mean, std = evaluate_policy(model, env, n_eval_episodes=5)
    again, _ = evaluate_policy(model, n_eval_episodes=5, deterministic=False)
    assert 8 <= mean <= 500 and std >= 0 and again >= 8
    dqn = DQN("MlpPolicy", env, n_envs=2, buffer_size=64, learning_starts=8, batch_size=4, seed=0)
    dqn.learn(32).learn(32)  # its time limit is known: the replay begins empty
    assert int(dqn._state.replay.filled.value) == 16


def test_what_is_given_as_an_environment() -> None:
    for env, count in (
        (gymnasium.make("CartPole-v1"), 1),
        ("CartPole-v1", 1),
        (from_gymnasium("CartPole-v1", 2), 2),
        (make_vec_env("CartPole-v1", 3), 3),
        ([lambda: gymnasium.make("CartPole-v1")] * 2, 2),
        (make_vec_env("CartPole-v1", 2, wrapper_class=gymnasium.wrappers.NormalizeReward), 2),
    ):
        model = PPO("MlpPolicy", env, **SMALL)
        assert model.n_envs == count
    model.learn(16)
    plain, kept = PPO("MlpPolicy", "CartPole-v1", **SMALL), gymnasium.make("CartPole-v1")
    plain.set_env(kept)
    plain.learn(8)
    with pytest.raises(ValueError, match="trained on"):
        plain.set_env("Pendulum-v1")


def test_evaluation_is_of_whole_episodes_and_has_a_threshold() -> None:
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL)
    returns, lengths = evaluate_policy(
        model, make_vec_env("CartPole-v1", 3), n_eval_episodes=7, return_episode_rewards=True
    )
    assert len(returns) == 7 and returns == [float(n) for n in lengths]
    assert evaluate_policy(model, n_eval_episodes=3, reward_threshold=5.0)[0] > 5
    with pytest.raises(AssertionError, match="reward_threshold=1000"):
        evaluate_policy(model, n_eval_episodes=2, reward_threshold=1000)


def test_predict_is_greedy_or_drawn() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", **SMALL)
    obs = np.zeros((3, 3), np.float64)
    action, state = model.predict(obs, state="kept", deterministic=True)
    assert action.shape == (3, 1) and action.dtype == np.float32 and state == "kept"
    np.testing.assert_array_equal(action, model.predict(obs, deterministic=True)[0])
    assert (model.predict(obs)[0] != model.predict(obs)[0]).any()
    assert model.predict(obs[0], deterministic=True)[0].shape == (1,)


# ----------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["PPO", "DQN", pytest.param("SAC", marks=pytest.mark.slow)])
def test_a_file_holds_what_was_learned(name: str, tmp_path: Path) -> None:
    task = "Pendulum-v1" if name == "SAC" else "CartPole-v1"
    kwargs: dict[str, Any] = SMALL if name == "PPO" else dict(buffer_size=256, seed=0)
    kind: Any = {"PPO": PPO, "DQN": DQN, "SAC": SAC}[name]
    model = kind("MlpPolicy", task, **kwargs).learn(160)
    model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").stat().st_size < 3_000_000
    again = kind.load(tmp_path / "model", env=task)
    obs = np.random.default_rng(0).normal(size=(16, 3 if name == "SAC" else 4)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0]
    )
    assert again.num_timesteps == model.num_timesteps
    assert jax.tree.structure(again.agent) == jax.tree.structure(model.agent)
    again.learn(16)  # and it learns on
    other: Any = DQN if name != "DQN" else PPO
    with pytest.raises(ValueError, match=rf"write {name}\.load"):
        other.load(tmp_path / "model.zip")
    with pytest.raises(TypeError, match="custom_objects"):
        kind.load(tmp_path / "model", custom_objects={})


def test_a_schedule_without_a_name_is_not_saved(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda left: left, **SMALL)
    with pytest.raises(ValueError, match="defined in a module"):
        model.save(tmp_path / "x")


def test_damaged_files_raise_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    PPO("MlpPolicy", "CartPole-v1", **SMALL).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data[: int(rng.integers(10, len(data)))]) if rng.random() < 0.3
                         else bytes(data))  # fmt: skip
        try:
            PPO.load(path)  # some flips hit what is not read
        except ValueError as error:
            assert str(path) in str(error)
    with pytest.raises(FileNotFoundError):
        PPO.load(tmp_path / "nothing")


def test_a_file_that_names_other_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    PPO("MlpPolicy", "CartPole-v1", **SMALL).save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    head = json.loads(parts["model.json"])
    head["agent"] = {"class": "os:system", "fields": {}}
    parts["model.json"] = json.dumps(head).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    with pytest.raises(ValueError, match="Python's own library"):
        PPO.load(path)


@pytest.mark.slow
def test_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs/sb3.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/sb3.md", "exec"), names)
