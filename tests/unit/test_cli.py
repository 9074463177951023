"""The command line: quick, in step with the classes, and plain about mistakes."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import pytest

import jaxrl
from benchmarks import learning, presets
from jaxrl import describe, networks, optim
from jaxrl.cli import commands, data, doctor, parser, schema, values
from jaxrl.losses import policy as losses
from jaxrl.priority import Prioritized

ROOT = Path(__file__).parents[2]
PPO = ["ppo", "CartPole-v1"]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = parser.main(words)
    except SystemExit as left:
        status = int(left.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


# -------------------------------------------------------------------------------------- quick


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "ppo", "--help"], ["list", "presets"], ["--version"]]
)
def test_no_jax_for_help(words: list[str]) -> None:
    code = (
        "import sys\nfrom jaxrl.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'jax', 'numpy', 'flax', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr.strip() == "[]", ran.stderr


def test_help_takes_less_than_a_third_of_a_second() -> None:
    seconds: list[float] = []
    for _ in range(5):  # the smallest: other work on the machine only ever adds
        began = time.perf_counter()
        command = [sys.executable, "-m", "jaxrl", "train", "ppo", "--help"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3, seconds


def test_the_flags_are_those_of_the_classes() -> None:
    said = "fields.json is out of step with the classes: python -m jaxrl.cli.schema"
    assert data.FIELDS.read_text() == schema.written(), said


def test_every_agent_of_the_library_is_there() -> None:
    agents = {n for n in jaxrl.__all__ if jaxrl._HOMES.get(n, "").startswith("jaxrl.agents")}
    assert set(schema.ALGORITHMS.values()) == agents


@pytest.mark.parametrize("algorithm", schema.ALGORITHMS)
def test_every_field_is_a_flag_with_its_meaning(
    algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = call(capsys, "train", algorithm, "--help")
    flat = " ".join(out.split())
    for field in data.algorithms()[algorithm]["fields"]:
        assert f"--{field['name'].replace('_', '-')} " in flat
        assert f"{field['doc']} [{field['default']}]" in flat


# ------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("algorithm", schema.ALGORITHMS)
def test_what_is_shown_can_be_typed(algorithm: str) -> None:
    cls = values.agent_class(algorithm)
    for field in data.algorithms()[algorithm]["fields"]:
        given = values.read(field["default"], cls, field["name"])
        default = next(
            f.default for f in cls.__dataclass_fields__.values() if f.name == field["name"]
        )
        assert describe.describe(given) == describe.describe(default), field["name"]


def test_reading_values() -> None:
    ppo, dqn = jaxrl.PPO, jaxrl.DQN
    assert values.read("3e-4", ppo, "lr") == 3e-4
    assert values.read("none", ppo, "target_kl") is None
    assert values.read("64", ppo, "num_envs") == 64
    assert values.read("cosine", ppo, "anneal_lr") is optim.cosine
    assert values.read("256,128", ppo, "actor") == networks.MLP((256, 128))
    assert values.read("ClippedValueError(0.1)", ppo, "value_loss") == losses.ClippedValueError(0.1)
    assert values.read("32", jaxrl.R2D2, "torso") == networks.GRU(32)
    torso = values.read("MinAtarCNN(8, hidden=(32,), activation=gelu)", dqn, "torso")
    assert torso == networks.MinAtarCNN(8, (32,), nn.gelu)
    sampler = values.read("Prioritized(alpha=0.7)", dqn, "sampler")
    assert isinstance(sampler, Prioritized) and sampler.alpha == 0.7


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("fast", "lr", "a number is needed"),
        ("none", "lr", "a number is needed"),
        ("2.5", "num_envs", "a whole number is needed"),
        ("liner", "anneal_lr", r"there is no liner \(but linear"),
        ("64", "anneal_lr", "numbers do not say it all"),
        ("print(1)", "anneal_lr", "there is no print"),
        ("linear(1)", "anneal_lr", "linear takes no settings"),
        ("__import__('os')", "actor", "there is no __import__"),
        ("MLP.__init__", "actor", "names, numbers and settings"),
        ("[x for x in (1,)]", "actor", "names, numbers and settings"),
        ("MLP(widths=3)", "actor", "widths"),
        ("MLP((64,", "actor", "it cannot be read"),
    ],
)
def test_values_that_are_refused(text: str, field: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        values.read(text, jaxrl.PPO, field)


def test_splitting_a_list_of_values() -> None:
    assert commands.split("1,2") == ["1", "2"]
    assert commands.split("MLP((64, 64)),MLP((8,))") == ["MLP((64, 64))", "MLP((8,))"]


# ------------------------------------------------------------------------------------ presets


def test_the_presets_are_the_cases_that_were_measured() -> None:
    said = "presets.json is out of step with the cases: python -m benchmarks.presets"
    assert data.PRESETS.read_text() == presets.written(), said


def test_a_preset_builds_the_agent_that_was_measured() -> None:
    for algorithm, envs in data.presets().items():
        for name, preset in envs.items():
            case = learning.CASES[preset["case"]]
            assert (name, preset["steps"]) == (case.env, case.steps)
            built = values.agent(
                algorithm,
                preset["settings"],
                preset.get("normalize_obs", False),
                preset.get("normalize_reward", False),
            )
            assert describe.describe(built) == describe.describe(case.agent()), preset["case"]


# ----------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", *PPO, "--lrr", "1"], "no flag --lrr; did you mean --lr"),
        (["train", "pppo", "CartPole-v1"], "invalid choice: 'pppo'"),
        (["train", *PPO, "--lr", "fast"], "--lr fast: a number is needed"),
        (["train", *PPO, "--lr", "-1", "--no-folder"], "lr=-1.0) must be above 0"),
        (["train", *PPO, "--steps", "2.5"], "2.5 must be a whole number"),
        (["train", "ppo", "CartPol", "--no-folder"], "'CartPole-v1'"),
        (["train", *PPO, "--resume"], "--resume needs the --folder"),
        (["train", *PPO, "--no-folder", "--tensorboard"], "--no-folder leaves no place"),
        (["sweep", *PPO, "--over", "lrr=1,2"], "ppo has lr, gamma"),
        (["sweep", *PPO, "--over", "lr"], "write it like lr="),
        (["eval", "nowhere"], "nowhere holds no checkpoints"),
        (["export", "nowhere", "--output", "x"], "nowhere holds no checkpoints"),
        (["export", "nowhere"], "required: --output"),
        (["plot", "nowhere"], "no metrics.csv"),
        (["list", "runs", "nowhere"], "holds no runs"),
        (["paint"], "invalid choice: 'paint'"),
    ],
)
def test_mistakes_are_answered(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, *words)
    assert status in (1, 2) and said in err and "Traceback" not in err
    assert out == "" and not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------- a run


def test_train_resume_eval_plot_and_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--num_envs", "2", "--num-steps", "16", "--epochs=1", "--actor", "8", "--critic", "8"]
    status, out, err = call(
        capsys,
        *["train", *PPO, "--seeds", "2", "--steps", "640", "--every", "320"],
        *["--folder", "runs/a", "--tensorboard", *small],
    )
    assert status == 0, err
    assert "640 steps, return" in out and "2 runs" in out and "measured: 500" in err
    said = json.loads((tmp_path / "runs/a/run.json").read_text())["agent"]["fields"]
    assert (said["num_envs"], said["epochs"], said["minibatches"]) == (2, 1, 4)  # 4: the preset's
    assert said["value_loss"]["class"].endswith("ClippedValueError")
    assert said["actor"]["fields"]["hidden"] == [8]
    assert list((tmp_path / "runs/a/tensorboard").glob("events.*"))

    assert call(capsys, "resume", "runs/a", "--steps", "960")[0] == 0
    status, out, _ = call(capsys, "eval", "runs/a", "--episodes", "4", "--json")
    got = json.loads(out)
    assert status == 0 and got["steps"] == 960 and np.shape(got["returns"]) == (2, 4)
    status, out, _ = call(capsys, "eval", "runs/a", "--episodes", "4", "--step", "640")
    assert "after 640 steps" in out
    status, out, err = call(capsys, "export", "runs/a", "--output", "p")
    assert status == 2 and "holds 2 runs: choose one with --run 0 to --run 1" in err
    words = ["export", "runs/a", "--run", "1", "--step", "640", "--output", "p.safetensors"]
    status, out, err = call(capsys, *words)
    assert status == 0 and "KiB" in out and 'jaxrl.load_policy("p.safetensors")' in out, err
    ours, theirs = jaxrl.restore("runs/a", 640)[1], jaxrl.load_policy("p.safetensors")
    env = jaxrl.envs.make("CartPole-v1")
    scores = [jaxrl.evaluate(x, env, episodes=4).returns for x in (ours, theirs)]
    np.testing.assert_array_equal(*scores)
    status, out, err = call(capsys, *words[:-1], ".")
    assert status == 1 and ". is a folder" in err
    if importlib.util.find_spec("flatbuffers"):
        status, out, err = call(capsys, *words[:-1], "p.jax", "--format", "jax")
        assert status == 0 and "differ from the live policy's by at most 0" in out, err
        assert jaxrl.load_exported("p.jax")(np.zeros((3, 4), np.float32)).shape == (3,)
    status, out, _ = call(capsys, "plot", "runs/a")
    assert status == 0 and (tmp_path / out.strip()).stat().st_size > 5000
    status, out, _ = call(capsys, "list", "runs")
    assert "runs/a  PPO  960 of 960 steps  return" in out and "over 2 runs" in out


def test_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    status, out, err = call(
        capsys,
        *["sweep", "ppo", "MountainCar-v0", "--steps", "256", "--seeds", "2", "--num-envs", "2"],
        *["--num-steps", "16", "--over", "lr=1e-4,1e-3", "--metric", "loss/value"],
        *["--output", str(table)],
    )
    assert status == 0, err
    assert "lr=0.001" in out and "agent." not in out  # though this preset wraps the agent twice
    assert [line.split(",")[:2] for line in table.read_text().splitlines()] == [
        *[["lr", "seed"], ["0.0001", "0"], ["0.0001", "1"], ["0.001", "0"], ["0.001", "1"]]
    ]


@pytest.mark.slow
def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "bench", *PPO, "--seeds", "2", "--steps", "2048", "--json")
    assert status == 0, err
    rows = json.loads(out)["rows"]
    assert [row["runs"] for row in rows] == [1, 2]
    assert all(row["steps_per_second"] > 0 for row in rows)


# ------------------------------------------------------------------------------------- doctor

GOOD = doctor.Facts("cpu", ("cpu", "cpu"), cores=2, threads=4, free_gib=8.0, cache="x")


def test_nothing_is_wrong_with_a_good_machine() -> None:
    assert list(doctor.findings(GOOD)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nvidia": True}, "cannot use it"),
        ({"nvidia": True, "environment": {"JAX_PLATFORMS": "cpu"}}, "hides it"),
        ({"jit": False}, "operation by operation"),
        ({"debug_nans": True}, "jax_debug_nans"),
        ({"x64": True}, "64-bit"),
        ({"cache": None}, "not kept"),
        ({"threads": 2}, "can hang"),
        ({"devices": ("cpu",)}, "1 of 2 cores"),
        ({"quota": 1.0}, "may use 1 cores"),
        ({"load": 1.9}, "busy"),
        ({"free_gib": 0.5}, "0.5 GiB"),
        ({"backend": "gpu", "precision": "highest"}, "without tensor cores"),
        ({"backend": "gpu", "preallocate": False}, "piece by piece"),
    ],
)
def test_each_finding(change: dict[str, Any], said: str) -> None:
    import dataclasses

    (found,) = doctor.findings(dataclasses.replace(GOOD, **change))
    assert said in found.what and found.mend


def test_the_quota_of_a_container(tmp_path: Path) -> None:
    assert doctor.quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert doctor.quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.quota(tmp_path) is None


def test_doctor_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "doctor")
    assert status == 0 and "installed   jaxrl" in out and "devices     " in out
    status, out, _ = call(capsys, "doctor", "--json")
    assert json.loads(out)["facts"]["cores"] >= 1
