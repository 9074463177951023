"""Environments by name."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import jaxrl.envs
from jaxrl.envs import registry
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.types import Env


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_make_sets_constants_and_the_time_limit() -> None:
    env = jaxrl.envs.make("CartPole-v1", gravity=5.0)
    assert isinstance(env, TimeLimit) and isinstance(env.env, jaxrl.envs.CartPole)
    assert (env.env.gravity, env.env.dt, env.max_steps) == (5.0, 0.02, 500)
    assert jaxrl.envs.make("CartPole-v1", max_steps=7).time_limit == 7
    assert isinstance(jaxrl.envs.make("CartPole-v1", max_steps=None), jaxrl.envs.CartPole)
    assert jaxrl.envs.make("DeepSea-bsuite", size=12).obs_space.shape == (12, 12)


def test_names_are_sorted_and_make_themselves() -> None:
    names = jaxrl.envs.names()
    assert names == sorted(names)
    classic = {"CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1"}
    assert classic | {"MountainCarContinuous-v0", "Catch-bsuite", "Probe-Value"} <= set(names)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxrl.envs.make("CartPole"), ["'CartPole-v1'", "jaxrl.envs.names()"]),
        (lambda: jaxrl.envs.make("cartpole-V1"), ["'CartPole-v1'"]),
        (lambda: jaxrl.envs.make("Montain Car"), ["'MountainCar-v0'"]),
        (lambda: jaxrl.envs.make("zzz"), ["not a known environment", "jaxrl.envs.names()"]),
        (lambda: jaxrl.envs.make("CartPole-v1", gravty=1.0), ["'gravity'", "gravty"]),
        (lambda: jaxrl.envs.make("CartPole-v1", zzz=1.0), ["mass_pole", "max_steps"]),
        (lambda: jaxrl.envs.make("CartPole-v1", gravity=-1.0), ["gravity", "at least 0"]),
        (lambda: jaxrl.envs.make("CartPole-v1", dt=float("nan")), ["dt", "not NaN"]),
        (lambda: jaxrl.envs.make("CartPole-v1", max_steps=0), ["max_steps", "at least 1"]),
        (lambda: jaxrl.envs.make("DeepSea-bsuite", size=1), ["size", "at least 2"]),
        (lambda: jaxrl.envs.make("gymnaxx/CartPole-v1"), ["no adapter", "'gymnax'"]),
        (lambda: jaxrl.envs.register("a/b", jaxrl.envs.CartPole), ["slash", "'a-b'"]),
        (lambda: jaxrl.envs.register("CartPole-v1", jaxrl.envs.Pendulum), ["already"]),
    ],
)
def test_mistakes_are_explained(call, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_wrong_types_are_explained() -> None:
    with pytest.raises(TypeError, match="must be text"):
        jaxrl.envs.make(jaxrl.envs.CartPole)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="my_package"):
        jaxrl.envs.register("Mine-v0", "no colon")


def test_register_takes_classes_functions_and_addresses() -> None:
    def heavy(pole: float = 1.0):
        return jaxrl.envs.CartPole(mass_pole=pole)

    jaxrl.envs.register("Heavy-v0", heavy, max_steps=50)
    env = jaxrl.envs.make("Heavy-v0", pole=2.0)
    assert (env.env.mass_pole, env.time_limit) == (2.0, 50)
    jaxrl.envs.register("Swing-v0", "jaxrl.envs.classic.pendulum:Pendulum")
    assert jaxrl.envs.make("Swing-v0").time_limit is None
    with pytest.raises(ValueError, match="'pole'"):
        jaxrl.envs.make("Heavy-v0", poel=2.0)


def test_every_public_name_can_be_had() -> None:
    for name in jaxrl.envs.__all__:
        assert getattr(jaxrl.envs, name).__name__ == name
    assert set(jaxrl.envs.__all__) <= set(dir(jaxrl.envs))
    with pytest.raises(AttributeError, match="CartPol"):
        jaxrl.envs.CartPol  # noqa: B018


def test_importing_loads_no_environment() -> None:
    code = (
        "import sys, jaxrl.envs; jaxrl.envs.names(); "
        "print([m for m in sys.modules if m.startswith(('jaxrl.envs.classic', 'gymnax', 'brax'))])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert out.stdout.strip() == "[]"


def test_the_code_in_the_docs_runs_in_its_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/environments.md", "exec"), names)
    # The last block: from cell 3 of 7, three steps to the right win.
    env = names["env"]
    assert isinstance(env, Env) and env.time_limit == 100
    state, obs = env.reset(jax.random.key(0))
    assert obs.tolist() == [False] * 3 + [True] + [False] * 3
    for _ in range(3):
        state, step = env.step(state, 1, jax.random.key(0))
    assert (float(step.reward), bool(step.terminated)) == (1.0, True)


def test_the_docs_name_every_environment() -> None:
    text = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    for name in registry._BUNDLED:  # not what other tests have registered
        stem = name.replace("-MinAtar", "-") if "MinAtar" in name else name
        assert f"`{stem}" in text, name
