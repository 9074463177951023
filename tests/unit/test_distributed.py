"""Two processes on this machine train as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKER = Path(__file__).parents[1] / "process_worker.py"


def start(count: int, folder: Path, task: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("NPROC", "XLA_FLAGS")}
    environment["JAXRL_CPU_DEVICES"] = str(4 // count)
    return [
        subprocess.Popen(
            [sys.executable, WORKER, str(port), str(index), str(count), str(folder), task],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> tuple[list[dict[str, Any]], list[str]]:
    """-> what each of them printed, on standard output and on standard error."""
    said = []
    try:
        for process in processes:
            said.append(process.communicate(timeout=300))
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors[-4000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in said], [errors for _, errors in said]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (said,), _ = finish(start(1, tmp_path_factory.mktemp("alone"), "seeds"))
    return said


@pytest.mark.parametrize("task", ["seeds", pytest.param("envs", marks=pytest.mark.slow)])
def test_two_processes_give_what_one_gives(
    alone: dict[str, Any], tmp_path: Path, task: str
) -> None:
    said, errors = finish(start(2, tmp_path, task))
    assert said[0] == said[1]  # every process has the whole result
    if task == "seeds":
        assert said[0] == alone  # to the bit: a device for each run, there as here
    else:
        # Sums over a batch are added up per device here, at once there: rounding, until it
        # changes an action.
        ours, theirs = (np.array(x["returns"])[:, :4] for x in (said[0], alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert (tmp_path / f"{task}-writer-0").read_text().split()[-1] == str(8 * 16 * 8)
    assert not (tmp_path / f"{task}-writer-1").exists()
    assert "PPO" in errors[0] and "PPO" not in errors[1]  # one of them shows progress
    steps = (tmp_path / task / "metrics.csv").read_text().splitlines()
    assert len(steps) == 1 + 12 * 3  # nothing was written twice


@pytest.mark.slow
def test_when_a_process_dies_the_others_stop(tmp_path: Path) -> None:
    processes = start(2, tmp_path, "die")
    try:
        limit = time.monotonic() + 120
        while not (tmp_path / "began").exists():
            assert time.monotonic() < limit and processes[0].poll() is None
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGKILL)
        _, errors = processes[0].communicate(timeout=180)
    finally:
        for process in processes:
            process.kill()
        processes[1].communicate()
    assert processes[0].returncode != 0
    assert "process" in errors
