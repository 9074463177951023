"""The package as users get it: the wheel elsewhere, from git, and what importing it costs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import jax, jaxrl, jaxrl.envs
assert "{root}" not in __import__("sys").path
print(jaxrl.__file__)
env = jaxrl.envs.make("CartPole-v1")
state, obs = env.reset(jax.random.key(0))
state, step = env.step(state, 1, jax.random.key(1))
assert obs.shape == step.obs.shape == (4,) and float(step.reward) == 1.0
assert type(env).__module__ == "jaxrl.envs.wrappers.time_limit", type(env).__module__
try:
    import envs
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("a top-level package `envs` was installed: " + str(envs))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=clean | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files a clone would have, so that building leaves nothing behind."""
    folder = tmp_path_factory.mktemp("source")
    run("cp", "-R", "-P", *(ROOT / n for n in (
        "jaxrl", "envs", "examples", "tests", "pyproject.toml", "README.md", "LICENSE",
        "CHANGELOG.md",
    )), folder, cwd=ROOT)  # fmt: skip
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    run(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "-o", out, source, cwd=out)
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


def fresh(folder: Path) -> Path:
    """The Python of an empty environment that sees our dependencies, but not our checkout: their
    folder is added at its end, without reading the .pth files in it."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(python: Path, what: str, cwd: Path) -> None:
    """With the pip of this environment, into the other."""
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=cwd)
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
        *("--no-deps", "--no-build-isolation", "--target", site.strip(), what),
        cwd=cwd,
    )


def test_the_wheel_holds_the_environments_once(wheel: Path) -> None:
    files = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in n]
    assert {n.split("/")[0] for n in files} == {"jaxrl"}
    assert len(files) == len(set(files))
    here = {
        str(p.relative_to(ROOT / "envs")) for p in (ROOT / "envs").rglob("*.py")
    }  # every file of envs/ has become one of jaxrl/envs/
    assert {n.removeprefix("jaxrl/envs/") for n in files if n.startswith("jaxrl/envs/")} == here
    assert "jaxrl/py.typed" in files
    assert not any("__pycache__" in n for n in files)


def test_the_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    python = fresh(tmp_path / "venv")
    install(python, str(wheel), tmp_path)
    where = run(python, "-c", USE.format(root=ROOT), cwd=tmp_path)
    assert where.startswith(str(tmp_path))


def test_the_source_archive_builds_the_same_wheel(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    archive = build(source, "sdist", tmp_path)
    run("tar", "xzf", archive, cwd=tmp_path)
    again = build(tmp_path / archive.name.removesuffix(".tar.gz"), "wheel", tmp_path)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_install_from_git(source: Path, tmp_path: Path) -> None:
    git = ("git", "-c", "user.name=jaxrl", "-c", "user.email=jaxrl@example.org", "-C", source)
    run(*git, "init", "--quiet", cwd=tmp_path)
    run(*git, "add", "--all", cwd=tmp_path)
    run(*git, "commit", "--quiet", "--message", "all", cwd=tmp_path)
    python = fresh(tmp_path / "venv")
    install(python, f"jaxrl @ git+file://{source}", tmp_path)
    where = run(python, "-c", USE.format(root=ROOT), cwd=tmp_path)
    assert where.startswith(str(tmp_path))


# ------------------------------------------------------------------------------------ imports

HEAVY = ("gymnax", "gymnasium", "brax", "mujoco", "distrax", "transformers", "matplotlib", "pandas")


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys, jax, flax, optax, flax.linen
before = set(sys.modules)
import jaxrl
print([m for m in {HEAVY} if m in set(sys.modules) - before])
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)).strip() == "[]"


def test_importing_is_quick(tmp_path: Path) -> None:
    code = """
import time, jax, flax, optax
start = time.perf_counter()
import jaxrl
print(time.perf_counter() - start)
"""
    # The smallest of three: other work on the machine only ever adds.
    seconds = [
        float(run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))) for _ in range(3)
    ]
    assert min(seconds) < 0.3, seconds


def imported(file: Path) -> set[str]:
    """Every module named in an import of this file, at any depth, except for type checking."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{a.name}" for a in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text()))
    return names


LIBRARY = [p for p in (ROOT / "jaxrl").rglob("*.py") if (ROOT / "jaxrl/envs") not in p.parents]


@pytest.mark.parametrize("file", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_who_imports_whom(file: Path) -> None:
    names = imported(file)
    assert not [n for n in names if n.startswith("jaxrl.envs") or n.split(".")[0] == "envs"]
    assert "jaxrl.envs" not in {f"jaxrl.{n}" for n in names if n == "envs"}
    agents = {n for n in names if n.startswith("jaxrl.agents.")}
    assert not agents, f"agents and drivers import primitives, never an agent: {agents}"
    if "distrax" in {n.split(".")[0] for n in names}:
        assert file.name == "distributions.py"


def test_the_walk_sees_imports(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from jaxrl.agents.policy import ppo\n    import envs.classic\n")
    assert imported(file) == {"jaxrl.agents.policy.ppo", "envs.classic"}
