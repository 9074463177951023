import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import jaxrl.priority
from benchmarks import flops, priority, settings, stamp
from benchmarks.peers import LEARNERS, Options, jaxrl_side
from benchmarks.race import Measured, race
from benchmarks.settings import Task
from benchmarks.throughput import best, entries, rows, table, threshold


def test_stamp_names_machine_versions_and_revision() -> None:
    found = stamp.stamp("benchmarks.throughput", seeds=[1])
    for name in ("cpu", "os", "python", "date", "revision", "command", "seeds", "script"):
        assert found[name], name
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0.1
    assert {"jax", "jaxlib", "numpy"} <= set(found["versions"])
    assert json.loads(json.dumps(found)) == found
    assert found["revision"] in stamp.line(found) and found["cpu"] in stamp.line(found)


def test_flops_of_a_small_net_by_hand() -> None:
    # 3 -> 5 -> 2: 15 + 10 products, two operations each.
    assert flops.forward((3, 5, 2)) == 50
    # Weights of both layers (50) and the hidden activations (20); not the input.
    assert flops.backward((3, 5, 2)) == 70
    assert flops.backward((3, 5, 2), inputs=True) == 100
    assert flops.gradient((3, 5, 2)) == 120


def test_flops_of_ppo_by_hand() -> None:
    # actor 4-64-64-2: 2 * (256 + 4096 + 128) = 8960; critic: 2 * (256 + 4096 + 64) = 8832.
    # gradient: 3 * forward - 2 * 256 each.
    play, learn = 8960 + 8832, 3 * (8960 + 8832) - 2 * 512
    assert flops.per_step(settings.ppo(4)) == play + 4 * learn
    assert flops.per_step(settings.ppo(64)) == flops.per_step(settings.ppo(4))


def test_flops_of_dqn_count_the_updates() -> None:
    one, ten = flops.per_step(settings.dqn(1)), flops.per_step(settings.dqn(10))
    net = 8960
    assert one == net + 0.1 * 128 * (3 * net - 512 + 2 * net)
    assert ten - net == pytest.approx(10 * (one - net))


def test_flops_refuse_what_they_cannot_count() -> None:
    with pytest.raises(ValueError, match="no count for algorithm"):
        flops.per_step(Task("dreamer", "CartPole-v1", 4))


def test_task_survives_the_way_to_a_worker() -> None:
    task = settings.sac(8)
    assert Task.from_json(task.to_json()) == task
    assert task.hidden == (256, 256)


def test_all_seeds_together_do_the_same_work() -> None:
    one, many = settings.ppo(4, 1), settings.ppo(4, 32)
    assert one.steps % 512 == many.steps % 512 == 0
    assert math.isclose(one.steps, 32 * many.steps, rel_tol=0.05)
    assert one.name == many.name


def test_steps_before_the_first_update_are_not_counted() -> None:
    assert settings.ppo(4).idle == 0 and settings.dqn().idle == 500
    task = dataclasses.replace(settings.dqn(), steps=700, warmup=300, hidden=(8,), seeds=2)
    assert jaxrl_side.prepare(task, Options("jaxrl")).run(0.0) == 2 * 400


def test_python_loops_are_measured_at_several_thread_counts() -> None:
    group = [settings.ppo(4, 1), settings.ppo(4, 32)]
    found = entries(group, ["sb3", "rejax"], cores=2, devices=False)
    threads = {o.threads for t, o in found if o.side == "sb3" and o.processes == 1}
    assert threads == {1, 2}
    assert [o.processes for _, o in found if o.side == "sb3"].count(2) == 1
    assert [t.seeds for t, o in found if o.side == "rejax"] == [1, 32]


def measured(side: str, rate: float, seeds: int = 1, **options: int) -> Measured:
    return Measured(settings.ppo(4, seeds), Options(side, **options), rates=[rate])  # pyright: ignore


def test_ratio_is_taken_to_the_best_of_a_peer() -> None:
    slow, fast = measured("sb3", 10.0, threads=1), measured("sb3", 20.0, threads=2)
    pair = measured("sb3", 35.0, threads=1, processes=2)
    own = [measured("jaxrl", 100.0), measured("jaxrl", 200.0, seeds=32)]
    everything = [*own, slow, fast, pair]
    assert best(everything, "sb3", own[0].task) is fast  # one run may not use two processes
    assert best(everything, "sb3", own[1].task) is pair
    ratios = {row["label"]: row["ratio"] for row in rows(everything)}
    assert ratios["sb3, 1 thread"] == 10.0 and ratios["sb3, 2 threads"] == 5.0
    text = table(everything)
    assert "5.00 x sb3, 2 threads" in text and "5.71 x sb3, 1 thread, 2 processes" in text


def test_time_to_threshold_includes_compilation() -> None:
    one = measured("jaxrl", 100.0)
    one.compile_seconds = 3.0
    one.curve = {"steps": [100, 200, 300], "returns": [[0, 450, 500], [0, 0, 450], [0, 420, 0]]}
    assert threshold(one) == {"steps": 200.0, "seconds": 5.0, "reached": 1.0}
    one.curve["returns"] = [[0, 0, 0]]
    found = threshold(one)
    assert found and math.isinf(found["seconds"]) and found["reached"] == 0


def test_a_side_that_fails_is_reported_and_not_waited_for() -> None:
    (found,) = race([(settings.ppo(4), Options("nothing"))], rounds=1, limit=60)
    assert found.error and "nothing" in found.error and not found.rates


def test_a_side_that_says_nothing_is_ended() -> None:
    (found,) = race([(settings.ppo(4), Options("jaxrl"))], rounds=1, limit=0.05)
    assert found.error and "no answer" in found.error


@pytest.mark.parametrize("have", [True, False])
def test_prioritised_sampling_with_and_without_flashbax(
    have: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if have:
        pytest.importorskip("flashbax")
    else:
        monkeypatch.setitem(sys.modules, "flashbax.buffers.sum_tree", None)  # as if not installed
    monkeypatch.setattr(priority, "SECONDS", 1e-3)
    out = tmp_path / "priority.json"
    priority.main(["--sizes", "40", "--batches", "4", "--lanes", "2", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["stamp"]["unit"] == "microseconds"
    sides = {row["side"] for row in found["rows"]}
    assert ("flashbax, scan" in sides) == have and {"jaxrl", "cumsum + searchsorted"} <= sides
    assert {(row["kind"], row["size"], row["lanes"]) for row in found["rows"]} == {
        ("round", 40, 2),
        ("update", 40, 2),
    }
    assert all(row["microseconds"] > 0 for row in found["rows"])
    assert all(row["drift"] < 1e-5 for row in found["rows"] if row["side"] == "jaxrl")
    printed = capsys.readouterr().out
    assert ("left out" in printed) != have and "| round | 40 | 4 | 2 |" in printed


def test_a_side_that_draws_wrongly_is_not_measured() -> None:
    ours = priority.ours()
    priority.check(ours, 100)

    def uniform(tree: Any, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
        leaf = jax.random.randint(key, (batch,), 0, 100)
        return leaf, jaxrl.priority.get(tree, leaf) / tree.total

    with pytest.raises(AssertionError):
        priority.check(dataclasses.replace(ours, draw=uniform), 100)


@pytest.mark.slow
def test_jaxrl_alone_in_its_own_process() -> None:
    task = dataclasses.replace(settings.ppo(4, 1, total=4_096), threshold_steps=15_360)
    (found,) = race([(task, Options("jaxrl"))], rounds=2, limit=120, thresholds=True)
    assert found.error is None
    assert found.compile_seconds > 0 and found.peak_mib > 50
    assert len(found.rates) == 2 and min(found.rates) > 100
    assert found.curve is not None
    assert found.curve["steps"] == list(range(512, 15_361, 512))
    assert [len(seed) for seed in found.curve["returns"]] == [30] * LEARNERS


@pytest.mark.slow
def test_a_long_life_does_not_grow(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--rounds", "7", "--minutes", "0"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "soak.json")],
        cwd=Path(__file__).parents[2],
        timeout=550,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    growth = json.loads((tmp_path / "soak.json").read_text())["growth_per_round"]
    for name in ("programs", "cache_entries", "arrays", "threads", "files"):
        assert growth[name] == pytest.approx(0, abs=1e-6), name
