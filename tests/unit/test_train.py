"""The driver: the same bits however it is called, no retracing, lanes that do not touch."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import checks, lanes, networks
from jaxrl.struct import struct
from jaxrl.types import Counter, Key, PyTree

driver: Any = importlib.import_module("jaxrl.train")  # `jaxrl.train` is the function
ENV = jaxrl.envs.make("CartPole-v1")
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, lr=1e-3)
KEY = jax.random.key(3)
STEPS = 3000  # 93 iterations of 32, rounded down


def train(key: Key = KEY, agent: jaxrl.PPO = AGENT, steps: int = STEPS) -> jaxrl.Result:
    return jaxrl.train(agent, ENV, key, steps=steps, log_every=320)


def assert_same(a: PyTree, b: PyTree, atol: float = 0) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=atol)


@pytest.fixture(scope="module")
def straight() -> jaxrl.Result:
    return train()


def test_what_comes_back(straight: jaxrl.Result) -> None:
    assert straight.steps[-1] == 93 * 32
    assert straight.steps[0] == 320
    assert straight.metrics["loss/policy"].shape == (10,)
    assert straight.runs is None
    assert float(straight.metrics["episode/count"].sum()) > 20
    assert straight.state.updates.value == 93
    assert straight.compile_seconds > 0 and straight.steps_per_second > 0


def test_chunked_is_straight(straight: jaxrl.Result) -> None:
    seen = list(jaxrl.stream(AGENT, ENV, KEY, steps=STEPS, log_every=320))
    assert len(seen) == 10
    assert_same(seen[-1][0], straight.state)
    for i, (_, metrics) in enumerate(seen):
        assert_same(metrics, {name: row[i] for name, row in straight.metrics.items()})


def test_inside_jit_is_straight(straight: jaxrl.Result) -> None:
    inside = jax.jit(lambda key: train(key))(KEY)
    assert_same(inside.state, straight.state)
    assert_same(inside.metrics, straight.metrics)


def test_a_traced_hyperparameter_is_straight(straight: jaxrl.Result) -> None:
    inside = jax.jit(lambda lr: train(agent=dataclasses.replace(AGENT, lr=lr)))(1e-3)
    assert_same(inside.state, straight.state)


def test_lanes_are_their_standalone_runs(straight: jaxrl.Result) -> None:
    keys = jnp.stack([jax.random.key(1), KEY, jax.random.key(2)])
    runs = train(keys)
    assert len(runs) == 3
    assert_same(runs[1].state, straight.state, atol=1e-4)
    assert_same(runs[1].metrics["episode/return"], straight.metrics["episode/return"], atol=1e-3)
    assert_same(runs[2].state, train(jax.random.key(2)).state, atol=1e-4)


def test_lanes_advanced_together(straight: jaxrl.Result) -> None:
    # Batched arithmetic rounds differently, and training amplifies it: compare a short run.
    keys = jnp.stack([jax.random.key(1), KEY, jax.random.key(2)])
    runs = jaxrl.train(AGENT, ENV, keys, steps=320, lanes=3)
    alone = jaxrl.train(AGENT, ENV, KEY, steps=320)
    assert_same(runs[1].state, alone.state, atol=1e-5)


def test_inside_vmap(straight: jaxrl.Result) -> None:
    keys = jnp.stack([jax.random.key(1), KEY])
    runs = jax.vmap(lambda key: jaxrl.train(AGENT, ENV, key, steps=320))(keys)
    assert runs.runs == 2
    alone = jaxrl.train(AGENT, ENV, KEY, steps=320)
    assert_same(runs[1].state, alone.state, atol=1e-5)
    evaluation = jaxrl.evaluate(runs, ENV, episodes=4)
    assert evaluation.returns.shape == (2, 4)
    np.testing.assert_array_equal(
        evaluation.returns[1], jaxrl.evaluate(alone, ENV, episodes=4).returns[0]
    )


def test_raw_keys_are_keys(straight: jaxrl.Result) -> None:
    assert_same(train(jax.random.PRNGKey(3)).state, straight.state)
    both = train(jax.random.key_data(jnp.stack([KEY, jax.random.key(1)])))
    assert_same(both[0].state, straight.state, atol=1e-4)


def test_a_stack_of_agents(straight: jaxrl.Result) -> None:
    stack = dataclasses.replace(AGENT, lr=jnp.array([1e-2, 1e-3, 1e-4]))
    keys = jnp.stack([KEY, KEY, KEY])
    runs = train(keys, stack)
    assert_same(runs[1].state, straight.state, atol=1e-4)
    assert runs[2].agent.lr == pytest.approx(1e-4)
    assert len(train(KEY, stack)) == 3  # one key is split


def test_no_retrace_on_new_floats_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = 0
    update = jaxrl.PPO.update

    def counted(self: jaxrl.PPO, *args: object) -> object:
        nonlocal traces
        traces += 1
        return update(self, *args)  # pyright: ignore

    monkeypatch.setattr(jaxrl.PPO, "update", counted)
    agent = jaxrl.PPO(num_envs=2, num_steps=8, minibatches=1, epochs=1)
    jaxrl.train(agent, ENV, KEY, steps=100)
    assert traces > 0
    before = traces
    for lr, key in [(1e-2, 0), (np.float32(3e-3), 1), (jnp.array(1e-4), 2), (1, 3)]:
        other = dataclasses.replace(agent, lr=lr, gamma=0.9)
        jaxrl.train(other, ENV, jax.random.key(key), steps=100)
    jaxrl.train(
        agent,
        dataclasses.replace(ENV, env=dataclasses.replace(ENV.env, gravity=5.0)),
        KEY,
        steps=100,
    )
    assert traces == before
    jaxrl.train(dataclasses.replace(agent, num_steps=16), ENV, KEY, steps=100)
    assert traces > before


def test_evaluation_during_training() -> None:
    result = jaxrl.train(
        AGENT, ENV, KEY, steps=3200, log_every=320, evaluate_every=960, evaluate_episodes=8
    )
    curve = np.asarray(result.metrics["evaluate/return"])
    np.testing.assert_array_equal(np.where(~np.isnan(curve))[0], [2, 5, 8, 9])
    # Watching a run does not change it.
    assert_same(result.state, jaxrl.train(AGENT, ENV, KEY, steps=3200, log_every=320).state)
    assert np.nanmax(curve) <= 500


def test_the_last_evaluation_is_that_of_the_final_policy() -> None:
    result = jaxrl.train(AGENT, ENV, KEY, steps=3200, evaluate_every=3200, evaluate_episodes=64)
    own = jaxrl.evaluate(result, ENV, episodes=64)
    shown = float(result.metrics["evaluate/return"][-1])
    assert abs(shown - own.mean) < 5 * own.returns.std() / 8 + 1


def test_counters_stay_unbatched() -> None:
    runs = train(jax.random.split(KEY, 3))
    assert runs.state.updates.value.shape == ()
    assert runs.state.params["critic"]["params"]["Dense_0"]["bias"].shape == (3, 1)


def test_counters_stop_instead_of_wrapping() -> None:
    assert Counter(jnp.int32(2**31 - 2)).add(5).value == 2**31 - 1


@pytest.mark.parametrize("seeds", [None, 3])  # three runs on two devices are padded
def test_the_clock_does_not_decide_what_is_compiled(
    seeds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KEY if seeds is None else jax.random.split(KEY, seeds)
    module, compiled = sys.modules["jaxrl.train"], []

    def listen(event: str, seconds: float, **more: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    sizes, advanced = [], jaxrl.progress.Progress.advanced

    def advance(self: Any, iterations: int, metrics: Any, timing: Any) -> None:
        sizes.append(metrics["episode/return"].shape[-1])
        advanced(self, iterations, metrics, timing)

    monkeypatch.setattr(jaxrl.progress.Progress, "advanced", advance)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        whole = []
        for seconds in (1e-9, 1e9, 1e-9):  # a point at a time, and as many as possible
            monkeypatch.setattr(module, "CHUNK_SECONDS", seconds)
            sizes.clear()
            compiled.clear()
            whole.append(train(key))
            assert (max(sizes) > 3) == (seconds > 1)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert_same(whole[0].metrics, whole[1].metrics)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("together", [None, 1, 2, 5])
def test_every_lane_has_a_place(count: int, together: int | None) -> None:
    plan = lanes.arrange(count, together)
    assert count <= plan.padded < count + plan.devices * plan.group
    if together:
        assert plan.group <= together


@pytest.mark.parametrize(
    "count, together, turns",
    [(16, 16, (1, 16)), (16, 7, (4, 4)), (16, 3, (8, 2)), (15, 8, (3, 5)), (7, 4, (2, 4))],
)
def test_more_turns_where_less_is_padding(
    count: int, together: int, turns: tuple[int, int]
) -> None:
    plan = lanes.arrange(count, together, spread=False)
    assert (plan.groups, plan.group) == turns


def test_a_cpu_advances_as_many_runs_as_its_cache_holds() -> None:
    def suits(agent: Any, name: str) -> int:
        env = jaxrl.envs.make(name)
        return driver._suits(agent, env, checks.task(agent, env, 10**6))

    wide = networks.MLP((512, 512))
    ppo = suits(jaxrl.PPO(), "CartPole-v1")
    assert 4 <= ppo <= 10  # 110 KB of networks and their moments, 512 steps of 50 bytes
    assert suits(jaxrl.PPO(num_envs=64), "CartPole-v1") < ppo / 2
    assert suits(jaxrl.PPO(actor=wide, critic=wide), "CartPole-v1") == 1
    assert suits(jaxrl.SAC(capacity=20_000), "Pendulum-v1") == 1
    assert suits(jaxrl.QLearning(), "FrozenLake-v1") == driver.TOGETHER
    assert suits(jaxrl.MonteCarloControl(), "FrozenLake-v1") == 1  # the agent's own wish


def test_padded_lanes_are_dropped() -> None:
    # Three lanes on two devices: the fourth is padding.
    plan = lanes.arrange(3, 1)

    def double(shared: jax.Array, own: tuple[jax.Array, Counter]) -> tuple[jax.Array, Counter]:
        return shared * own[0], own[1].add(1)

    own = (jnp.arange(3.0), Counter.zero())
    got, counter = lanes.trim(lanes.each(double, jnp.array(2.0), lanes.pad(own, plan), plan), plan)
    np.testing.assert_array_equal(got, [0, 2, 4])
    assert counter.value == 1


HANG = """
import jax, jaxrl
assert len(jax.devices()) == 2, jax.devices()
agent = jaxrl.PPO(num_envs=4, num_steps=32)
env = jaxrl.envs.make("CartPole-v1")
keys = jax.random.split(jax.random.key(0), 16)
print(jaxrl.train(agent, env, keys, steps=5_000, lanes=8))
print(jaxrl.train(agent, env, keys, steps=5_000))
print(jax.jit(jax.vmap(lambda k: jaxrl.train(agent, env, k, steps=5_000)))(keys))
wide = jaxrl.SAC(learning_starts=256, capacity=1_000)  # its products are split over the pool
print(jaxrl.train(wide, jaxrl.envs.make("Pendulum-v1"), keys, steps=280))
"""

HANG_AT_THE_START = """
import jax, jaxrl
assert len(jax.devices()) == 2, jax.devices()
agent = jaxrl.PPO(num_envs=2, num_steps=4, minibatches=1, epochs=1)
env = jaxrl.envs.make("CartPole-v1")
for i in range(20):
    jaxrl.train(agent, env, jax.random.split(jax.random.key(i), 512), steps=8, lanes=256)
"""


@pytest.mark.parametrize("code", [HANG, HANG_AT_THE_START])
def test_many_runs_on_few_cores_do_not_hang(code: str) -> None:
    # With a pool of one thread per core the first stood still for ever on two cores (jaxlib 0.10),
    # the second, with batches of orthogonal weights, also with two threads per core.
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    environment["JAXRL_CPU_DEVICES"] = "2"
    taskset = ["taskset", "-c", "0,1"] if sys.platform == "linux" else []
    done = subprocess.run(
        [*taskset, sys.executable, "-c", code], env=environment, timeout=300, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    "torso", [networks.MLP((8,)), networks.GRU(8), networks.LSTM(8), networks.MinAtarCNN()]
)
def test_no_batch_of_matrices_is_given_to_lapack(torso: Any) -> None:
    # LAPACK's batches wait in XLA's pool for XLA's pool: see jaxrl/networks/orthogonal.py.
    shape = (1, 10, 10, 4) if isinstance(torso, networks.MinAtarCNN) else (1, 4)
    keys = jax.random.split(jax.random.key(0), 3)

    def init(key: jax.Array) -> Any:
        return torso.init(key, jnp.zeros(shape))

    text = jax.jit(jax.vmap(init)).lower(keys).as_text()
    calls = [line for line in text.splitlines() if "@lapack_" in line]
    assert calls
    for line in calls:
        assert not re.search(r"tensor<\d+x\d+x\d+xf32>", line), line
    batch = jax.jit(jax.vmap(init))(keys)
    for i, key in enumerate(keys):
        alone = jax.jit(init)(key)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), batch, alone)


def test_a_late_import_warns() -> None:
    code = "import jax; jax.devices(); import jaxrl"
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0
    if (os.cpu_count() or 1) < 8:
        assert "NPROC=" in done.stderr


def test_what_was_checked_is_known_by_its_values() -> None:
    """A second call checks nothing again, one with another value does."""
    tried: list[float] = []

    @struct
    class Choosy(jaxrl.PPO):
        def init(self, key: Any, spec: Any) -> Any:
            if not checks.is_traced(self.lr):
                tried.append(float(self.lr))
                if self.lr > 0.5:
                    raise ValueError("lr")
            return super().init(key, spec)

    spec = [
        checks.task(Choosy(lr=lr), jaxrl.envs.make("CartPole-v1"), 1024) for lr in (0.1, 0.1, 0.2)
    ]
    assert tried == [0.1, 0.2] and spec[0] == spec[1]
    with pytest.raises(ValueError, match="lr"):
        checks.task(Choosy(lr=0.6), jaxrl.envs.make("CartPole-v1"), 1024)
