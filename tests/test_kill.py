"""A process killed at any moment, also in the midst of a save, loses nothing but time: what it
comes to in the end is bit for bit what an undisturbed process comes to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORKER = Path(__file__).parent / "kill_worker.py"
PATIENCE = 120.0  # seconds a life may take to show a sign of itself
QUICK = ("ppo-one", "dqn-3", "sac-one", "recurrent-one", "recurrent-3", "r2d2-3")
ALL = (*QUICK, "ppo-3", "dqn-one", "sac-3", "r2d2-one")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


class Worker:
    """A process that lives many lives."""

    def __init__(self, scale: int, cases: tuple[str, ...], errors: Path) -> None:
        self.errors = errors
        self.stderr = errors.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(WORKER), str(scale), *cases],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )
        assert self.said() == "ready", self.complaints()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self, folder: Path, checkpoint: bool, first: int = 0) -> int:
        """-> the number of the child that lives this life."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {int(checkpoint)} {first}\n")
        self.process.stdin.flush()
        return int(self.said())

    def complaints(self) -> str:
        return self.errors.read_text()[-4000:]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.stderr.close()


def saves(folder: Path) -> set[tuple[str, int]]:
    """Checkpoints that are being written, or were when their process died."""
    found: set[tuple[str, int]] = set()
    for draft in folder.glob("*/checkpoints/step-*.saving"):
        try:
            found.add((str(draft), draft.stat().st_ino))
        except FileNotFoundError:
            continue
    return found


def finished(folder: Path) -> set[Path]:
    return {x for x in folder.glob("*/checkpoints/step-*") if not x.suffix}


def wait_for(
    look: Callable[[Path], set[Any]], folder: Path, before: set[Any], count: int, child: int
) -> None:
    """Until there are `count` new ones, or until the child is no more."""
    until = time.monotonic() + PATIENCE
    while len(look(folder) - before) < count:
        assert time.monotonic() < until, "nothing happened"
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state in "ZX":
            return
        time.sleep(0.0005)


def kill_often(worker: Worker, folder: Path, kills: int, cases: int) -> tuple[int, int]:
    """Kill `kills` lives, then let one come to its end. -> how many were killed in the midst of a
    save, the status of the last.

    The lives begin with one case after the other, so that each case is killed as often.
    """
    chance = random.Random(20)
    plan = [(i % cases, i // cases % 2 == 0) for i in range(kills)]
    chance.shuffle(plan)
    within = 0
    for case, aim_at_save in plan:
        before, drafts = finished(folder), saves(folder)
        child = worker.begin(folder, True, case)
        wait_for(finished, folder, before, chance.randrange(0, 3), child)
        if aim_at_save:
            wait_for(saves, folder, drafts, 1, child)
            time.sleep(chance.uniform(0, 0.03))
        else:
            time.sleep(chance.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        assert worker.said() == str(int(signal.SIGKILL)), worker.complaints()
        within += bool(saves(folder) - drafts)
    worker.begin(folder, True)
    return within, int(worker.said())


def check(tmp_path: Path, scale: int, kills: int, cases: tuple[str, ...]) -> None:
    quiet, hunted = tmp_path / "quiet", tmp_path / "hunted"
    quiet.mkdir()
    hunted.mkdir()
    worker = Worker(scale, cases, tmp_path / "stderr.txt")
    try:
        within, status = kill_often(worker, hunted, kills, len(cases))
        assert status == 0, worker.complaints()
        worker.begin(quiet, False)
        assert worker.said() == "0", worker.complaints()
    finally:
        worker.close()
    assert within >= kills // 5
    results = sorted(x.name for x in quiet.glob("*.npz"))
    assert results == sorted(f"{name}.npz" for name in cases)
    for name in results:
        with np.load(quiet / name) as whole, np.load(hunted / name) as pieces:
            assert whole.files == pieces.files
            for array in whole.files:
                np.testing.assert_array_equal(whole[array], pieces[array], err_msg=name)


def test_killed_six_times(tmp_path: Path) -> None:
    check(tmp_path, scale=1, kills=6, cases=QUICK)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path) -> None:
    check(tmp_path, scale=1, kills=20, cases=QUICK)


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    check(tmp_path, scale=5, kills=100, cases=ALL)
