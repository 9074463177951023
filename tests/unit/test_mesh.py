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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    command = [sys.executable, str(WORKER), str(tmp_path_factory.mktemp("mesh"))]
    done = subprocess.run(
        command,
        env={**environment, "JAXRL_CPU_DEVICES": "8"},
        timeout=500,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_gradients_are_those_of_one_device(found: dict[str, Any]) -> None:
    assert found["devices"] == 8
    assert found["gradient_norm"] > 1e-3
    assert found["gradient"] < 1e-4  # eight times too large would be 7


def test_seeds_do_not_talk_to_one_another(found: dict[str, Any]) -> None:
    assert found["collectives"]["seeds"] == {}
    assert found["collectives"]["envs"]["all-reduce"] > 0  # or the search finds nothing


def test_a_shared_run_learns_the_same_curve(found: dict[str, Any]) -> None:
    alone, shared = (np.array(row) for row in found["curve"])
    np.testing.assert_allclose(shared[:6], alone[:6], rtol=1e-3)
    assert alone[-5:].mean() > 3 * alone[0] and shared[-5:].mean() > 3 * shared[0]
    assert found["last"]["4x2"] == pytest.approx(found["last"]["4"], rel=0.15)


def test_where_a_seed_runs_changes_no_bit(found: dict[str, Any]) -> None:
    assert found["seeds_same"]
    assert found["both_same"]


def test_a_second_call_compiles_nothing(found: dict[str, Any]) -> None:
    assert found["compiled_again"] == 0


@pytest.mark.parametrize("name", ["dqn", "sac", "r2d2", "gru", "normalised", "sac, 2 x 4"])
def test_every_agent_can_be_shared(found: dict[str, Any], name: str) -> None:
    assert found["agents"][name] < 2e-3


def test_checkpoints_move_between_meshes(found: dict[str, Any]) -> None:
    moved, straight = (np.array(row) for row in found["moved"])
    assert moved.shape == straight.shape == (4, 16)
    np.testing.assert_allclose(moved[:, :4], straight[:, :4], rtol=1e-3)
    assert moved[:, -3:].mean() == pytest.approx(straight[:, -3:].mean(), rel=0.3)
    moved, straight = (np.array(row) for row in found["moved_one"])
    np.testing.assert_allclose(moved, straight, rtol=0.02)


def test_what_cannot_work_is_refused(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert "num_envs=12" in refused["uneven"] and "write num_envs=8" in refused["uneven"]
    assert "needs 16 devices and JAX sees 8" in refused["devices"]
    assert "JAXRL_CPU_DEVICES=16" in refused["devices"]
    assert "only one run" in refused["runs"]
    assert "jaxrl.Mesh(envs=2)" in refused["number"]
