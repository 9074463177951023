"""Metrics on their way out: files, TensorBoard, Weights & Biases, a sink of one's own."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl import record
from jaxrl.sinks import CSV, JSONL, TensorBoard, WandB, files, tags

ENV = jaxrl.envs.make("CartPole-v1")
AGENT = jaxrl.PPO(num_envs=2, num_steps=16, minibatches=2, epochs=2, lr=1e-3)
KEY = jax.random.key(3)
STEPS = 3000


class Memory:
    """The smallest sink."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, Any]]] = []
        self.closed = 0

    def write(self, steps: int, metrics: Any) -> None:
        self.points.append((steps, dict(metrics)))

    def close(self) -> None:
        self.closed += 1


def point(**metrics: Any) -> dict[str, Any]:
    return {name.replace("__", "/"): np.asarray(x, float) for name, x in metrics.items()}


# -------------------------------------------------------------------------------------- files


def test_the_table_has_a_row_per_point_and_run(tmp_path: Path) -> None:
    sink = CSV(tmp_path / "x" / "m.csv")
    sink.write(10, point(loss__td=[1.5, np.nan], time__seconds=3.0))
    sink.write(20, point(loss__td=[np.inf, 1 / 3], time__seconds=4.0))
    sink.close()
    assert (tmp_path / "x" / "m.csv").read_text().splitlines() == [
        "steps,run,loss/td,time/seconds",
        "10,0,1.5,3",
        "10,1,,3",
        "20,0,inf,4",
        "20,1,0.333333333,4",
    ]
    steps, metrics = files.read(tmp_path / "x" / "m.csv")
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(metrics["loss/td"], [[1.5, np.inf], [np.nan, 0.333333333]])


def test_a_single_run_has_no_number(tmp_path: Path) -> None:
    sink = CSV(tmp_path / "m.csv")
    sink.write(10, point(a=1))
    sink.close()
    assert (tmp_path / "m.csv").read_text() == "steps,run,a\n10,,1\n"


def test_json_lines_say_what_json_cannot(tmp_path: Path) -> None:
    sink = JSONL(tmp_path / "m.jsonl")
    sink.write(10, point(a=[1, np.nan], b=-np.inf))
    sink.close()
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "steps": 10,
        "metrics": {"a": [1.0, None], "b": "-inf"},
    }


def test_every_float32_survives(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**31, 2000).astype(np.int32).view(np.float32)
    values = values[np.isfinite(values)]
    sink = CSV(tmp_path / "m.csv")
    sink.write(1, {"a": values})
    sink.close()
    back = files.read(tmp_path / "m.csv")[1]["a"][:, 0].astype(np.float32)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("kind", [CSV, JSONL])
def test_cutting_drops_later_steps_and_half_a_line(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    sink = kind(path)
    for steps in (10, 20, 30):
        sink.write(steps, point(a=[1, 2]))
    sink.close()
    whole = path.read_text()
    path.write_text(whole[:-3])
    again = kind(path)
    assert again.cut(20) == [10, 20]
    again.write(30, point(a=[1, 2]))
    again.close()
    assert path.read_text() == whole
    assert kind(path).cut(5) == []


def test_a_half_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("steps,run,a\n10,,1.25\n20,,3.2")
    steps, metrics = files.read(tmp_path / "m.csv")
    assert list(steps) == [10] and metrics["a"].tolist() == [[1.25]]
    (tmp_path / "n.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a table of metrics"):
        files.read(tmp_path / "n.csv")


def test_a_file_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = CSV(tmp_path)  # a folder
    sink.write(1, point(a=1))
    sink.write(2, point(a=1))
    sink.close()
    assert capsys.readouterr().err.count("is no longer written") == 1


# --------------------------------------------------------------------------------------- tags


def test_tags_of_others_and_the_spread_of_runs() -> None:
    metrics = point(policy__entropy=[1.0, 3.0, np.nan], q__mean=np.nan, other=5)
    assert tags.scalars(metrics, tags.style("cleanrl")) == {
        "losses/entropy": 2.0,
        "losses/entropy_std": 1.0,
        "other": 5.0,
    }
    assert tags.scalars(metrics, tags.style("sb3"))["train/entropy_loss"] == -2.0
    assert tags.scalars(metrics, tags.style("own"))["policy/entropy"] == 2.0
    with pytest.raises(ValueError, match="'cleanrl', 'sb3', 'own'"):
        tags.style("tb")


@pytest.mark.parametrize("style", [tags.CLEANRL, tags.SB3])
def test_no_two_metrics_share_a_tag(style: Any) -> None:
    names = [tag for tag, _ in style.values()]
    assert len(names) == len(set(names))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read event files back: records of length, checksum, message, checksum."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_files_say_what_was_trained(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path / "tb")
    result = jaxrl.train(AGENT, ENV, KEY, steps=STEPS, log_every=640, log=sink)
    found = scalars(tmp_path / "tb")
    returns = np.asarray(result.metrics["episode/return"])
    want = [(int(s), float(x)) for s, x in zip(result.steps, returns) if not np.isnan(x)]
    assert found["charts/episodic_return"] == want and len(want) == 5
    assert {"charts/SPS", "losses/policy_loss", "losses/approx_kl"} <= set(found)


WANDB = """
import sys, numpy as np
from jaxrl.sinks import WandB
sink = WandB("project", folder=sys.argv[1], mode="offline", name="x")
for step in (10, 20):
    sink.write(step, {"episode/return": np.array([1.0, 3.0])})
sink.close()
"""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is an extra")
def test_weights_and_biases_offline(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", WANDB, str(tmp_path / "run")]
    subprocess.run(command, check=True, env=environment, timeout=120)
    (file,) = (tmp_path / "run").rglob("*.wandb")
    assert b"charts/episodic_return" in file.read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_weights_and_biases_missing_is_said_at_once() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install jaxrl\[wandb\]"):
        WandB("project")


# ---------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("keys", [KEY, jax.random.split(KEY, 3)], ids=["one", "three"])
def test_a_sink_gets_every_point_and_the_same_numbers(keys: Any) -> None:
    sink = Memory()
    result = jaxrl.train(AGENT, ENV, keys, steps=STEPS, log_every=640, log=sink)
    assert sink.closed == 1
    runs = np.atleast_2d(np.asarray(result.steps))
    assert [steps for steps, _ in sink.points] == list(runs[0])
    for name, row in result.metrics.items():
        got = np.stack([np.asarray(x[name]) for _, x in sink.points], -1)
        np.testing.assert_array_equal(got, np.asarray(row))
    assert all(x["time/steps_per_second"] > 0 for _, x in sink.points)


def test_what_a_sink_raises_stops_the_run_and_closes_all() -> None:
    class Bad(Memory):
        def write(self, steps: int, metrics: Any) -> None:
            raise RuntimeError("enough")

    bad, good = Bad(), Memory()
    with pytest.raises(RuntimeError, match="enough"):
        jaxrl.train(AGENT, ENV, KEY, steps=STEPS, log=[good, bad])
    assert (bad.closed, good.closed) == (1, 1)


@pytest.mark.parametrize("log", [3, Memory, print, [object()]])
def test_what_is_no_sink_is_refused(log: Any) -> None:
    with pytest.raises(TypeError, match="must be a folder, or an object with write"):
        jaxrl.train(AGENT, ENV, KEY, steps=STEPS, log=log)


def test_logging_inside_jit_is_refused() -> None:
    with pytest.raises(TypeError, match="log= needs to look at the run"):
        jax.jit(lambda key: jaxrl.train(AGENT, ENV, key, steps=STEPS, log=Memory()))(KEY)


# ---------------------------------------------------------------------------------- the folder


def table(folder: Path) -> list[dict[str, str]]:
    """Without what depends on the clock."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith("time/")}
            for row in csv.DictReader(file)
        ]


def train(folder: Path, **options: Any) -> jaxrl.Result:
    keys = jax.random.split(KEY, 2)
    return jaxrl.train(AGENT, ENV, keys, steps=STEPS, log_every=320, **options)


def test_the_folder_says_what_was_run_and_with_what(tmp_path: Path) -> None:
    result = train(tmp_path, log=tmp_path / "run")
    content = record.read(tmp_path / "run")
    assert content["agent"]["class"] == "jaxrl.agents.policy.ppo:PPO"
    assert content["agent"]["fields"]["lr"] == 1e-3
    assert content["call"]["steps"] == STEPS
    (session,) = content["sessions"]
    assert session["versions"]["jax"] == jax.__version__
    assert session["hardware"]["devices"] == [d.device_kind for d in jax.local_devices()]
    assert session["matmul_precision"] == "default (float32)"
    assert {"cpu", "cores", "memory_gib", "os"} <= set(session["hardware"])
    _, metrics = files.read(tmp_path / "run" / "metrics.csv")
    for name, row in result.metrics.items():
        np.testing.assert_array_equal(metrics[name].astype(np.float32), np.asarray(row))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == result.steps.shape[1]
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(ValueError, match="holds the metrics of a run already"):
        train(tmp_path, log=tmp_path / "run")


def test_a_run_that_died_goes_on_in_its_files(tmp_path: Path) -> None:
    import shutil

    straight, died = tmp_path / "straight", tmp_path / "died"
    train(tmp_path, checkpoint=straight, every=640)
    train(tmp_path, checkpoint=jaxrl.Checkpoints(died, latest=9, best=0), every=640)
    want = table(straight)
    assert table(died) == want
    for place in (died / "checkpoints").iterdir():  # rows after the checkpoint stay behind
        if int(place.name.removeprefix("step-")) > 1280:
            shutil.rmtree(place)
    with open(died / "metrics.csv", "a") as file:
        file.write("3200,0,")
    jaxrl.resume(died)
    assert table(died) == want
    sessions = record.read(died)["sessions"]
    assert [s["from_step"] for s in sessions] == [0, 1280]
    jaxrl.resume(died)  # finished: nothing is written
    assert len(record.read(died)["sessions"]) == 2


def test_files_that_were_lost_are_written_again(tmp_path: Path) -> None:
    import shutil

    keep = jaxrl.Checkpoints(tmp_path / "run", latest=9, best=0)
    train(tmp_path, checkpoint=keep, every=640)
    want = table(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000000002976")
    for name in ("metrics.csv", "metrics.jsonl", "run.json"):
        (tmp_path / "run" / name).unlink()
    jaxrl.resume(tmp_path / "run")
    assert table(tmp_path / "run") == want


def test_git_state(tmp_path: Path) -> None:
    assert record.git_state(tmp_path) is None

    def git(*words: str) -> None:
        who = ("-c", "user.name=jaxrl", "-c", "user.email=jaxrl@example.org")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch=main")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--quiet", "--message", "a")
    clean = record.git_state(tmp_path)
    assert clean is not None and len(clean["commit"]) == 40
    assert (clean["branch"], clean["changed"]) == ("main", [])
    (tmp_path / "a").write_text("2")
    changed = record.git_state(tmp_path)
    assert changed is not None and len(changed["changed"]) == 1


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the folder of a run"):
        record.read(tmp_path)
    (tmp_path / "run.json").write_text('{"kind": "jaxrl run"')
    with pytest.raises(ValueError, match="truncated or damaged"):
        record.read(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match="not written by jaxrl"):
        record.read(tmp_path)


def test_a_sweep_with_several_programs_has_no_single_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="place of one call"):
        jaxrl.sweep(
            AGENT, ENV, KEY, over={"num_envs": [2, 4]}, steps=STEPS, log=str(tmp_path / "x")
        )
