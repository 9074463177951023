"""One side of a comparison, in a process of its own, obeying lines on its standard input.

    run SECONDS    -> {"steps": ..., "seconds": ...}
    curve          -> {"steps": [...], "returns": [[...]]}
    quit           -> {"peak_mib": ..., "device_mib": ...}

A first line {"compile_seconds": ...} says that it is ready. Started by `benchmarks.race`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from typing import Any

from benchmarks.peers import Options, prepare
from benchmarks.settings import Task


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def device_mib() -> float:
    """Peak memory of an accelerator; zero on a CPU."""
    if "jax" not in sys.modules:
        return 0.0
    stats = sys.modules["jax"].local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0) / 2**20


def main() -> None:
    warnings.filterwarnings("ignore")
    # The libraries may print; only our own lines go to the real standard output.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    task = Task.from_json(sys.argv[1])
    options = Options(**json.loads(sys.argv[2]))
    began = time.perf_counter()
    side = prepare(task, options)
    devices = []
    if "jax" in sys.modules:
        devices = [device.device_kind for device in sys.modules["jax"].local_devices()]
    say(
        compile_seconds=side.compile_seconds,
        prepare_seconds=time.perf_counter() - began,
        devices=devices,
    )
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "run":
            began = time.perf_counter()
            steps = side.run(float(rest[0]))
            say(steps=steps, seconds=time.perf_counter() - began)
        elif command == "curve":
            if side.curve is None:
                say(steps=[], returns=[])
                continue
            steps, returns = side.curve()
            say(steps=steps.tolist(), returns=returns.tolist())
        else:
            break
    say(peak_mib=peak_mib(), device_mib=device_mib())
    out.close()
    os._exit(0)  # threads of the libraries must not keep a finished measurement alive


if __name__ == "__main__":
    main()
