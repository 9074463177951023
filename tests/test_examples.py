"""The examples run, the agent among them learns, and the README shows them as they are."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest

import jaxrl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_my_agent_learns() -> None:
    env = jaxrl.envs.make("CartPole-v1")
    agent = load("my_agent").Reinforce()
    run = jaxrl.train(agent, env, jax.random.split(jax.random.key(0), 2), steps=200_000)
    score = jaxrl.evaluate(run, env, episodes=16)
    assert score.mean > 150.0  # a random policy: 22


def test_my_env_is_solved() -> None:
    load("my_env")
    env = jaxrl.envs.make("Line-v0", slip=0.0)
    run = jaxrl.train(jaxrl.PPO(lr=2.5e-3), env, jax.random.key(0), steps=20_480)
    assert jaxrl.evaluate(run, env, episodes=4).mean == -7.0  # eight places, seven steps


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples/demo.py"), "--seeds", "2", "--steps", "4096"]
    done = subprocess.run(
        [*command, "--episodes", "4", "--picture", str(tmp_path / "curve.png")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "IQM" in done.stdout and "PPO: 2 runs" in done.stderr
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["my_agent", "my_env"])
def test_the_readme_shows_the_example(name: str) -> None:
    code = (ROOT / f"examples/{name}.py").read_text()
    shown = [b for b in BLOCKS if b.strip() and b in code]
    assert any("class " in b and "def " in b for b in shown), "copy the example into the README"


def test_the_quick_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, but for the number of steps and seeds."""
    monkeypatch.chdir(tmp_path)
    code = BLOCKS[0]
    assert len(code.strip().splitlines()) <= 30
    small = re.sub(r"steps=\d[\d_]*", "steps=8192", code)
    small = (
        small.replace(", 256)", ", 4)").replace("-2, 16)", "-2, 2)").replace("seeds=8", "seeds=2")
    )
    assert small != code
    exec(compile(small, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "cartpole.png").exists()


def test_the_page_on_learning_with_tables() -> None:
    page = (ROOT / "docs/tabular_learning.md").read_text()
    scope: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "tabular_learning.md", "exec"), scope)
    assert scope["q"].shape == (20, 48, 4)  # type: ignore[attr-defined]


def test_the_page_on_linear_learning() -> None:
    page = (ROOT / "docs/linear.md").read_text()
    scope: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "linear.md", "exec"), scope)
    assert scope["w"].shape == (4, 3, 648)  # type: ignore[attr-defined]


def test_the_page_on_bandits() -> None:
    page = (ROOT / "docs/bandits.md").read_text()
    scope: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "bandits.md", "exec"), scope)
    assert scope["theta"].shape == (4, 10, 6)  # type: ignore[attr-defined]
