"""Runs spread over devices, and devices that share a run; on eight devices of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKER = Path(__file__).parents[1] / "mesh_worker.py"


Found = dict[str, Any]


def look(folder: Path, *parts: str) -> Found:
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), *parts],
        env={**environment, "JAXRL_CPU_DEVICES": "8"},
        timeout=500,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return look(tmp_path_factory.mktemp("mesh"), "refusals", "gradient", "communication")


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return look(tmp_path_factory.mktemp("mesh"), "curve")["curve"]


def test_gradients_are_those_of_one_device(found: Found) -> None:
    """To rounding: a sum over a batch is added up per device first."""
    gradient = found["gradient"]
    assert gradient["gradient_norm"] > 1e-3
    assert gradient["gradient"] < 1e-4  # eight times too large would be 7


def test_seeds_do_not_talk_to_one_another(found: Found) -> None:
    assert found["communication"]["seeds"] == {}
    assert found["communication"]["envs"]["all-reduce"] > 0  # or the search finds nothing


def test_what_cannot_work_is_refused(found: Found) -> None:
    refused = found["refusals"]
    assert refused["devices"] == 8
    assert "num_envs=12" in refused["uneven"] and "write num_envs=8" in refused["uneven"]
    assert "needs 16 devices and JAX sees 8" in refused["many"]
    assert "JAXRL_CPU_DEVICES=16" in refused["many"]
    assert "only one run" in refused["runs"]
    assert "jaxrl.Mesh(envs=2)" in refused["number"]


@pytest.mark.slow
def test_a_shared_run_learns_the_same_curve(curve: Found) -> None:
    alone, shared = (np.array(row) for row in curve["curve"])
    np.testing.assert_allclose(shared[:20], alone[:20], rtol=1e-3)  # measured: all forty
    assert alone[-5:].mean() > 2 * alone[0] and shared[-5:].mean() > 2 * shared[0]
    assert curve["last"]["4x2"] == pytest.approx(curve["last"]["4"], rel=0.15)


@pytest.mark.slow
def test_where_a_seed_runs_changes_no_bit(curve: Found) -> None:
    assert curve["seeds"]
    assert curve["both"]
    assert curve["seeds_one"] < 1e-4  # the compiler fuses a program for one device otherwise


@pytest.mark.slow
def test_a_second_call_compiles_nothing(curve: Found) -> None:
    assert curve["compiled_again"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dqn", "sac", "both", "r2d2", "gru", "normalised"])
def test_every_agent_can_be_shared(tmp_path: Path, name: str) -> None:
    assert look(tmp_path, name)[name] < 2e-3


@pytest.mark.slow
def test_checkpoints_move_between_meshes(tmp_path: Path) -> None:
    moves = look(tmp_path, "moves")["moves"]
    moved, straight = (np.array(row) for row in moves["many"])
    assert moved.shape == straight.shape == (4, 16)
    np.testing.assert_allclose(moved, straight, rtol=0.02)
    moved, straight = (np.array(row) for row in moves["one"])
    np.testing.assert_allclose(moved, straight, rtol=0.02)
