"""Evaluation, results, sweeps and pictures."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.evaluate import Evaluation

ENV = jaxrl.envs.make("CartPole-v1")
PENDULUM = jaxrl.envs.make("Pendulum-v1")
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def runs() -> jaxrl.Result:
    return jaxrl.train(AGENT, ENV, jax.random.split(KEY, 3), steps=2000)


def test_evaluation_of_a_known_policy() -> None:
    # Always pushing one way fails within a dozen steps; every episode counts once.
    got = jaxrl.evaluate(lambda obs: jnp.ones(obs.shape[0], jnp.int32), ENV, episodes=500)
    assert got.returns.shape == (1, 500)
    assert got.returns.min() >= 8 and got.returns.max() <= 11
    np.testing.assert_array_equal(got.returns, got.lengths)
    assert got.unfinished == 0


def test_evaluation_stops_at_the_time_limit_and_not_before() -> None:
    got = jaxrl.evaluate(lambda obs: jnp.zeros((obs.shape[0], 1)), PENDULUM, episodes=8)
    np.testing.assert_array_equal(got.lengths, 200)
    short = jaxrl.evaluate(
        lambda obs: jnp.zeros((obs.shape[0], 1)), PENDULUM, episodes=8, max_steps=50
    )
    assert short.unfinished == 8
    assert "8 stopped" in repr(short)


def test_evaluation_of_many_seeds_is_that_of_each(runs: jaxrl.Result) -> None:
    together = jaxrl.evaluate(runs, ENV, episodes=16)
    assert together.returns.shape == (3, 16)
    for i in range(3):
        alone = jaxrl.evaluate(runs[i], ENV, episodes=16)
        np.testing.assert_array_equal(together.returns[i], alone.returns[0])
        by_policy = jaxrl.evaluate(runs[i].policy, ENV, episodes=16)
        np.testing.assert_array_equal(alone.returns, by_policy.returns)


def test_evaluation_does_not_explore(runs: jaxrl.Result) -> None:
    one = jaxrl.evaluate(runs[0], ENV, episodes=16, key=jax.random.key(5))
    two = jaxrl.evaluate(runs[0], ENV, episodes=16, key=jax.random.key(5))
    np.testing.assert_array_equal(one.returns, two.returns)
    other = jaxrl.evaluate(runs[0], ENV, episodes=16, key=jax.random.key(6))
    assert (one.returns != other.returns).any()


def test_summary_of_an_evaluation() -> None:
    returns = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [100.0, 300.0]])
    got = Evaluation(returns, np.ones((4, 2), int))
    assert got.mean == pytest.approx(returns.mean())
    assert got.iqm == pytest.approx(2.5)  # of the seed means 1, 2, 3, 200
    low, high = got.interval
    assert low <= 2.5 <= high
    single = Evaluation(returns[:1], np.ones((1, 2), int))
    assert single.interval == (0.0, 2.0)


def test_policies_take_one_or_many_observations(runs: jaxrl.Result) -> None:
    policy = runs[1].policy
    obs = jnp.linspace(-1, 1, 20).reshape(5, 4)
    many = policy(obs)
    assert many.shape == (5,)
    for i in range(5):
        assert policy(obs[i]).shape == ()
        assert policy(obs[i]) == many[i]
    assert policy(np.zeros(4)).dtype == jnp.int32
    drawn = [int(policy(obs[0], key=jax.random.key(i), explore=True)) for i in range(30)]
    assert len(set(drawn)) == 2


def test_a_slice_of_runs(runs: jaxrl.Result) -> None:
    part = runs[1:]
    assert len(part) == 2
    np.testing.assert_array_equal(part[0].metrics["loss/value"], runs[1].metrics["loss/value"])
    np.testing.assert_array_equal(runs[-1].steps, runs[2].steps)


def test_results_describe_themselves(runs: jaxrl.Result) -> None:
    assert "PPO, 3 runs x 1,984 steps" in repr(runs)
    assert "steps/s" in repr(runs)
    assert "1 run x" in repr(runs[0])


def test_pictures(runs: jaxrl.Result, tmp_path: Path) -> None:
    axes = runs.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert axes.get_xlabel() == "environment steps of each run"
    assert "3 runs" in axes.get_legend().get_texts()[0].get_text()
    before = len(axes.lines)
    runs[0].plot(metric="episode/return", ax=axes)
    assert len(axes.lines) == before + 1


def test_a_sweep_groups_by_static_signature(capsys: pytest.CaptureFixture[str]) -> None:
    over = {"lr": np.array([1e-3, 1e-4]), "num_steps": [8, 16]}
    got = jaxrl.sweep(AGENT, ENV, KEY, over=over, seeds=2, steps=1000)
    text = capsys.readouterr().err
    assert text.startswith("sweep: 4 settings x 2 seeds = 8 runs of 1,000 steps, 2 compilations")
    assert got.compiles == 2
    assert [s["num_steps"] for s in got.settings] == [8, 16, 8, 16]
    for setting, result in got:
        assert result.runs == 2
        assert result.agent.num_steps == setting["num_steps"]
        np.testing.assert_allclose(result.agent.lr, setting["lr"], rtol=1e-6)


def test_a_sweep_trains_what_its_settings_say() -> None:
    got = jaxrl.sweep(AGENT, ENV, KEY, over={"lr": [1e-2, 1e-3]}, seeds=2, steps=640)
    key = jax.random.split(KEY, 2)[1]
    alone = jaxrl.train(dataclasses.replace(AGENT, lr=1e-3), ENV, key, steps=640)
    ours = got[1][1]
    for x, y in zip(jax.tree.leaves(ours.state), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_a_sweep_knows_its_best() -> None:
    got = jaxrl.sweep(AGENT, ENV, KEY, over={"lr": [1e-9, 3e-3]}, seeds=3, steps=20_000)
    setting, result = got.best()
    assert setting["lr"] == pytest.approx(3e-3)
    assert result is got[1]
    lines = got.table().splitlines()
    assert "lr=0.003" in lines[1] and "lr=1e-09" in lines[2]


def test_a_sweep_reaches_into_wrapped_agents() -> None:
    agent = jaxrl.NormalizeObs(AGENT)
    got = jaxrl.sweep(agent, ENV, KEY, over={"agent.lr": [1e-3, 1e-4]}, steps=500)
    np.testing.assert_allclose(got[1].agent.agent.lr, 1e-4)


def test_progress_is_quiet_in_a_pipe_and_speaks_when_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jaxrl.train(AGENT, ENV, KEY, steps=500)
    assert capsys.readouterr().err == ""
    jaxrl.train(AGENT, ENV, KEY, steps=500, progress=True)
    text = capsys.readouterr().err
    assert "PPO: 1 run x 480 steps" in text
    assert "100%" in text and "steps/s" in text and "compiled in" in text
