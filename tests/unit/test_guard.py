"""A run that becomes infinite or NaN: found in its iteration, frozen, and reported."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Counter, Key, Metrics, PyTree, Rollout, Spec

ENV = jaxrl.envs.make("CartPole-v1")
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, lr=1e-3)
KEY = jax.random.key(3)


@struct
class State:
    weight: jax.Array
    moments: dict[str, jax.Array]
    updates: Counter
    spec: Spec = static()


@struct
class Fragile:
    """Counts its updates in `weight`, until what is poisoned becomes `poison` at `at`."""

    at: Float = param("update that fails", default=-1.0)
    poison: float = static("what appears there", default=float("inf"))
    where: str = static("what is poisoned", default="weight")
    num_envs: int = static("", default=2, low=1)
    num_steps: int = static("", default=4, low=1)

    def init(self, key: Key, spec: Spec) -> State:
        return State(jnp.zeros(3), {"mean": jnp.zeros(())}, Counter.zero(), spec)

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        return ActOut(jnp.zeros(obs.shape[0], jnp.int32))

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        now = state.updates.value == self.at
        bad = {
            name: jnp.where(now & (self.where == name), self.poison, 0.0)
            for name in ("weight", "mean", "always", "warm")
        }
        exists = state.updates.value >= 5
        sometimes = state.updates.value % 2 == 0
        return State(
            weight=state.weight.at[1].add(1.0 + bad["weight"]),
            moments={"mean": state.moments["mean"] + bad["mean"]},
            updates=state.updates.add(1),
            spec=state.spec,
        ), {
            "loss/always": 1.0 + bad["always"],
            "loss/sometimes": jnp.where(sometimes, 1.0, jnp.nan),
            "loss/warm": jnp.where(exists, 1.0, jnp.nan) + bad["warm"],
            "value/mean": jnp.nan * jnp.zeros(()),
        }


def assert_same(a: PyTree, b: PyTree) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def train(agent: Any, key: Key = KEY, steps: int = 160, **options: Any) -> jaxrl.Result:
    return jaxrl.train(agent, ENV, key, steps=steps, log_every=32, guard=True, **options)


@pytest.mark.parametrize("keys", [1, 3])
def test_a_healthy_run_is_not_changed(keys: int) -> None:
    key = jax.random.split(KEY, keys) if keys > 1 else KEY
    plain = jaxrl.train(AGENT, ENV, key, steps=1000)
    guarded = jaxrl.train(AGENT, ENV, key, steps=1000, guard=True)
    assert guarded.sick == ()
    assert_same(guarded.state, plain.state)
    assert_same(guarded.metrics, plain.metrics)


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "where, name",
    [
        ("weight", "state.weight"),
        ("mean", "state.moments['mean']"),
        ("always", "loss/always"),
        ("warm", "loss/warm"),
    ],
)
def test_a_single_run_stops_where_it_happens(where: str, name: str, poison: float) -> None:
    # 20 iterations of 8 steps, points of 4 iterations; iteration 13 is the second of its point.
    with pytest.raises(jaxrl.NonFinite) as caught:
        train(Fragile(at=13, poison=poison, where=where))
    error = caught.value
    (sick,) = error.result.sick
    assert (sick.run, sick.iteration, sick.steps, sick.tensors) == (None, 13, 104, (name,))
    assert name in str(error) and "iteration 13" in str(error)
    assert error.result.state.weight[1] == 13  # as it was after thirteen good updates
    assert np.isfinite(error.result.state.moments["mean"])
    curve = np.asarray(error.result.metrics["loss/always"])
    np.testing.assert_array_equal(curve[:4], 1.0)  # of the fourth point only the good iteration
    assert np.isnan(curve[4:]).all()


def test_a_loss_that_does_not_exist_is_no_alarm() -> None:
    # `loss/sometimes` and `value/mean` are NaN by design, `loss/warm` until warm-up is over.
    assert train(Fragile()).sick == ()


def test_the_first_iteration_too() -> None:
    with pytest.raises(jaxrl.NonFinite, match="iteration 0 "):
        train(Fragile(at=0))


@pytest.mark.parametrize("lanes", [None, 3])
def test_other_runs_go_on(lanes: int | None) -> None:
    agents = Fragile(at=jnp.array([-1.0, 6.0, 17.0]))
    keys = jax.random.split(KEY, 3)
    result = train(agents, keys, lanes=lanes)
    assert [(s.run, s.iteration) for s in result.sick] == [(1, 6), (2, 17)]
    np.testing.assert_array_equal(result.state.weight[:, 1], [20, 6, 17])
    assert result[0].sick == ()
    assert [(s.run, s.iteration) for s in result[1].sick] == [(None, 6)]
    assert [(s.run, s.iteration) for s in result[1:].sick] == [(0, 6), (1, 17)]
    plain = jaxrl.train(Fragile(), ENV, keys, steps=160, log_every=32, lanes=lanes)
    assert_same(result[0].metrics, plain[0].metrics)
    returns = np.asarray(result.metrics["loss/always"])
    assert np.isnan(returns[1, 2:]).all() and not np.isnan(returns[0]).any()


def test_all_runs_sick_is_an_error() -> None:
    agents = Fragile(at=jnp.array([3.0, 6.0]))
    with pytest.raises(jaxrl.NonFinite, match="run 0 .*run 1 ") as caught:
        train(agents, jax.random.split(KEY, 2))
    np.testing.assert_array_equal(caught.value.result.state.weight[:, 1], [3, 6])


def test_a_policy_that_diverges_is_caught_before_it_is_kept() -> None:
    wild = dataclasses.replace(AGENT, lr=1e38, max_grad_norm=1e38)
    with pytest.raises(jaxrl.NonFinite) as caught:
        jaxrl.train(wild, ENV, KEY, steps=3200, guard=True)
    for x in jax.tree.leaves(caught.value.result.state.params):
        assert np.isfinite(np.asarray(x)).all()
    assert any("params" in name for name in caught.value.result.sick[0].tensors)


def test_replay_is_not_looked_through() -> None:
    env = jaxrl.envs.make("Pendulum-v1")
    agent = jaxrl.SAC(num_envs=2, capacity=200, learning_starts=20, batch_size=8)
    from jaxrl import guard

    spec = Spec(env.obs_space, env.action_space, env.time_limit, 100)
    names = guard.names(agent.init(KEY, spec), {"loss/actor": 0})
    assert "loss/actor" in names and any("state.critic" in n for n in names)
    assert not any("replay" in n for n in names)


def test_the_guard_costs_nothing_when_it_is_off() -> None:
    import sys

    from jaxrl import train as _  # noqa: F401

    driver = sys.modules["jaxrl.train"]
    call = driver._prepare(  # pyright: ignore
        AGENT, ENV, KEY, steps=320, evaluate_every=None, evaluate_episodes=1, log_every=None,
        reset_every=16, together=None,
    )  # fmt: skip
    run = jax.eval_shape(lambda k: driver.begin(AGENT, ENV, k, call.plan), KEY)
    assert run.health is None


def test_the_guard_needs_concrete_values() -> None:
    with pytest.raises(TypeError, match="guard= needs to look at the run from outside"):
        jax.jit(lambda key: train(AGENT, key))(KEY)
    with pytest.raises(TypeError, match="guard='yes' must be True or False"):
        jaxrl.train(AGENT, ENV, KEY, steps=100, guard="yes")  # pyright: ignore


def test_sick_runs_stay_sick_across_a_checkpoint(tmp_path: Path) -> None:
    agents = Fragile(at=jnp.array([-1.0, 6.0]))
    keys = jax.random.split(KEY, 2)
    whole = train(agents, keys)
    train(agents, keys, checkpoint=tmp_path, every=32, steps=96)
    later = train(agents, keys, checkpoint=tmp_path, resume=True)
    assert_same(later.state.weight, whole.state.weight)
    assert later.sick == whole.sick


def test_a_guard_can_be_set_when_resuming(tmp_path: Path) -> None:
    # The first iteration after the save fails: what is kept must come from the checkpoint.
    for key in (KEY, jax.random.split(KEY, 2)):
        path = tmp_path / str(key.size)
        agent = Fragile(at=12)
        jaxrl.train(agent, ENV, key, steps=96, log_every=32, checkpoint=path)
        with pytest.raises(jaxrl.NonFinite, match="iteration 12 ") as caught:
            train(agent, key, checkpoint=path, resume=True)
        np.testing.assert_array_equal(caught.value.result.state.weight[..., 1], 12)
