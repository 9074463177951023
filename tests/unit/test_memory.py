"""What a run will take, before it is compiled."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import devices, memory
from jaxrl.lanes import Lanes

SLOW = pytest.mark.slow
IMAGE = jaxrl.networks.MinAtarCNN()


def both(agent: Any, env: Any, runs: int | None, together: int | None) -> tuple[int, int]:
    """-> what was estimated, and what the compiled program takes."""
    assert jaxrl.train is not None
    drive = sys.modules["jaxrl.train"]
    key = jax.random.key(0)
    call = drive._prepare(
        agent, env, key if runs is None else jax.random.split(key, runs),
        steps=2 * agent.num_envs * agent.num_steps, evaluate_every=None, evaluate_episodes=8,
        log_every=None, reset_every=16, together=together,
    )  # fmt: skip
    plan = call.plan
    advance = functools.partial(drive._advance_donating, plan=plan, room=2)
    needed = drive.estimate(call, advance)
    run = jax.eval_shape(
        functools.partial(drive._begin_all, plan=plan), call.agent, call.env, call.key
    )
    lowered = drive._advance_donating.lower(
        call.agent, call.env, run, call.key, count=1, plan=plan, room=2
    )
    used = lowered.compile().memory_analysis()
    total = (
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        - used.alias_size_in_bytes
        + used.temp_size_in_bytes
    )
    return needed.total, total * plan.devices


@pytest.mark.parametrize(
    "agent, task, runs, together",
    [
        (jaxrl.PPO(num_envs=512, num_steps=128), "CartPole-v1", None, None),
        (jaxrl.PPO(num_envs=64, num_steps=64), "CartPole-v1", 16, 8),
        (jaxrl.DQN(capacity=1_000_000, learning_starts=500), "CartPole-v1", None, None),
        (jaxrl.SAC(capacity=1_000_000, learning_starts=500), "Pendulum-v1", None, None),
        (jaxrl.SAC(capacity=100_000, learning_starts=500), "Pendulum-v1", 6, None),
        pytest.param(
            jaxrl.PPO(num_envs=64, num_steps=32, epochs=1, actor=IMAGE, critic=IMAGE),
            "Breakout-MinAtar",
            None,
            None,
            marks=SLOW,
        ),
        pytest.param(
            jaxrl.DQN(capacity=50_000, learning_starts=500, torso=IMAGE),
            "Breakout-MinAtar",
            6,
            2,
            marks=SLOW,
        ),
    ],
)
def test_the_estimate_is_what_the_program_takes(
    agent: Any, task: str, runs: int | None, together: int | None
) -> None:
    estimated, compiled = both(agent, jaxrl.envs.make(task), runs, together)
    assert estimated == pytest.approx(compiled, rel=0.05)  # measured: 0.03 at the most


def work(function: Any, *shapes: tuple[int, ...]) -> int:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return memory.work(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_what_is_fused_takes_nothing() -> None:
    assert work(lambda x: jnp.sum(jnp.tanh(x) * 2 + 1), (1000,)) == 4
    assert work(lambda x: jnp.tanh(x) * 2 + 1, (1000,)) == 4000


def test_what_is_read_through_another_shape_must_be_there() -> None:
    def product(x: jax.Array) -> jax.Array:
        return jnp.tanh(x).reshape(10, 100) @ jnp.ones((100, 1))

    assert work(product, (1000,)) == 4000 + 400 + 40


def test_a_result_stays_until_it_was_read_for_the_last_time() -> None:
    def chain(x: jax.Array) -> jax.Array:
        y = x @ x
        z = y @ y
        return z @ z

    def kept(x: jax.Array) -> jax.Array:
        y = x @ x
        z = y @ y
        return z @ y

    assert work(chain, (10, 10)) == 2 * 400
    assert work(kept, (10, 10)) == 3 * 400


def test_what_goes_round_a_loop_is_there_once() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 10, lambda i, x: x.at[i].set(1.0), x)

    assert 4000 <= work(loop, (1000,)) < 4100  # and the number of the turn


@pytest.mark.parametrize("lanes", [1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_few_at_a_time_give_the_same_runs(lanes: int) -> None:
    """Run 7 of twelve has its turn in one of several groups. With the same neighbours and nobody
    waiting, it is the same to the bit."""
    env, agent = jaxrl.envs.make("CartPole-v1"), jaxrl.PPO(num_envs=4, num_steps=16)
    keys = jax.random.split(jax.random.key(0), 12)
    count = min(jax.device_count(), 2)
    first = 7 - (7 - 6 * (count - 1)) % lanes  # of its group
    chosen = [*range(lanes), *range(first, first + lanes)][-lanes * count :]
    few = jaxrl.train(agent, env, keys, steps=512, lanes=lanes, mesh=jaxrl.Mesh(seeds=count))
    alike = jaxrl.train(
        agent, env, keys[np.array(chosen)], steps=512, lanes=lanes, mesh=jaxrl.Mesh(seeds=count)
    )
    same = alike[chosen.index(7, -lanes)]
    assert same.state.updates.value == 8
    for x, y in zip(jax.tree.leaves(few[7].state), jax.tree.leaves(same.state), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("lanes", [1, pytest.param(3, marks=SLOW)])
def test_a_run_among_others_is_the_run_alone(lanes: int) -> None:
    env, agent = jaxrl.envs.make("CartPole-v1"), jaxrl.PPO(num_envs=4, num_steps=16)
    keys = jax.random.split(jax.random.key(0), 12)
    one = jaxrl.Mesh(seeds=1)
    few = jaxrl.train(agent, env, keys, steps=512, lanes=lanes, mesh=one)
    alone = jaxrl.train(agent, env, keys[7], steps=512)
    for x, y in zip(jax.tree.leaves(few[7].state), jax.tree.leaves(alone.state), strict=True):
        if lanes == 1:  # on one device it is the very program of a single run
            np.testing.assert_array_equal(x, y)
        else:  # products of several runs are batched, which adds up in another order
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_the_page() -> None:
    """docs/devices.md: its code runs."""
    text = (Path(__file__).parents[2] / "docs/devices.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/devices.md", "exec"), names)
    assert 0 < names["few"].memory < 2**30


def test_more_than_there_is_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory.Estimate(state=600, work=700)
    plan = Lanes(count=8, devices=1, groups=2, group=4)
    monkeypatch.setattr(devices, "memory_free", lambda: 1000)
    with pytest.warns(RuntimeWarning, match="lanes=2, which advances fewer"):
        memory.warn(needed, plan)
    memory.warn(needed, plan, processes=2)
    memory.warn(needed, plan, there=600)  # a run that is taken up again is in memory already
    with pytest.warns(RuntimeWarning, match="write a smaller num_envs"):
        memory.warn(needed, None)
