"""A language model spread over devices computes what it computes on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jax.sharding import PartitionSpec

from jaxrl.llm.sharding import DATA, TENSOR, Shards


def test_how_matrices_are_cut() -> None:
    shards = Shards(data=4, tensor=2)
    assert shards.spec("blocks_0/attention/query/kernel", (8, 6)) == PartitionSpec(DATA, TENSOR)
    assert shards.spec("blocks_0/forward/down/kernel", (6, 8)) == PartitionSpec(TENSOR, DATA)
    assert shards.spec("embedding", (10, 8)) == PartitionSpec(TENSOR, DATA)
    assert shards.spec("opt/1/mu/embedding", (10, 6)) == PartitionSpec(TENSOR, None)  # 6 by 4
    assert shards.spec("blocks_0/experts/up", (3, 8, 8)) == PartitionSpec(None, DATA, TENSOR)
    assert shards.spec("blocks_0/attention/query/bias", (8,)) == PartitionSpec()
    assert shards.spec("norm/scale", (8,)) == PartitionSpec()


def test_more_devices_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 4096 devices"):
        _ = Shards(data=4096).mesh


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.shard_worker"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAXRL_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_eight_devices_are_one(found: dict[str, Any]) -> None:
    assert found["devices"] == 8 and found["finite"]
    assert found["eight loss"] == pytest.approx(found["one loss"], rel=1e-5)
    assert found["gradient gap"] < 1e-5 * max(1.0, found["gradient size"])
    assert found["eight reward"] == pytest.approx(found["one reward"], abs=1e-6)
    assert found["params gap"] < 1e-4
    assert found["eight mismatch"] <= 1e-5


@pytest.mark.slow
def test_no_device_holds_it_all(found: dict[str, Any]) -> None:
    for name in ("cut params", "cut moments"):
        parts = found[name]
        assert parts["['blocks_0']['attention']['query']['kernel']"] == [4, 2]
        assert parts["['blocks_1']['forward']['down']['kernel']"] == [2, 4]
        assert parts["['embedding']"] == [2, 4]
