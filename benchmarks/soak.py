"""A long life in one process: does it grow?

    python -m benchmarks.soak --minutes 60

Round after round does the same things: trains with checkpoints and is interrupted by its own
length, resumes from the folder several times, trains many seeds in many chunks, sweeps, evaluates,
plots, and reads a checkpoint back. After every round the memory in use and the resident set, the
compiled programs that the driver holds, the entries of the compilation cache on disk (whatever was
compiled, however small), live arrays, threads, open files and objects are counted. After the first
rounds none of them may grow, except the resident set to where it settles: the C library keeps what
was freed for the thread that freed it, and checkpoints are written by several.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import stamp

RESULTS = Path(__file__).resolve().parent / "results"
WARM = 3
"""Rounds after which nothing new is compiled or cached."""


def programs() -> int:
    """Entries of the caches of the driver's compiled functions."""
    import sys

    train, evaluate = sys.modules["jaxrl.train"], sys.modules["jaxrl.evaluate"]
    jitted = (train._begin_jit, train._advance_donating, train._advance_keeping, evaluate._play_jit)
    return sum(f._cache_size() for f in jitted)


class Heap(ctypes.Structure):
    """What glibc's `mallinfo2` tells of its heap, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "used",
            "fordblks", "keepcost",
        )
    )  # fmt: skip


def in_use() -> int:
    """Bytes that were allocated and not freed, whoever asked for them."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = Heap
    heap = library.mallinfo2()
    return heap.used + heap.mapped


def count(number: int, seconds: float, cache: Path) -> dict[str, Any]:
    import jax

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "round": number,
        "seconds": round(seconds, 1),
        "in_use_mib": round(in_use() / 2**20, 1),
        "resident_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        "programs": programs(),
        "cache_entries": len(list(cache.glob("*-cache"))),
        "arrays": len(jax.live_arrays()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


def one_round(number: int, folder: Path) -> None:
    import contextlib
    import io

    import jax
    import matplotlib

    import jaxrl

    matplotlib.use("Agg")
    env = jaxrl.envs.make("CartPole-v1")
    ppo = jaxrl.PPO(num_envs=4, num_steps=32, epochs=1, minibatches=1)
    dqn = jaxrl.DQN(capacity=2000, learning_starts=200)
    keys = jax.random.split(jax.random.key(number), 4)
    place = folder / f"run-{number}"
    for part in (1, 2):  # times 1,024 steps: the run is made longer and taken up again
        jaxrl.train(
            ppo, env, keys, steps=1024 * part, log_every=256, checkpoint=place, resume=True,
            progress=False,
        )  # fmt: skip
    result = jaxrl.resume(place, steps=1024 * 3, progress=False)
    jaxrl.restore(place)
    jaxrl.train(dqn, env, keys, steps=4000, log_every=40, progress=False, guard=True)
    for _, _ in zip(range(3), jaxrl.stream(ppo, env, keys[0], steps=1024), strict=False):
        pass
    with contextlib.redirect_stderr(io.StringIO()):
        jaxrl.sweep(
            ppo, env, keys[0], over={"lr": [1e-3, 1e-4], "num_steps": [16, 32]}, seeds=2,
            steps=1024, progress=False,
        )  # fmt: skip
    jaxrl.evaluate(result, env, episodes=4)
    result.plot(folder / "curve.png")


def soak(minutes: float, rounds: int | None = None) -> list[dict[str, Any]]:
    import shutil

    import jax

    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        cache, number = Path(name) / "cache", 0
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        rounds = rounds or 0  # at least, so that there is a slope to see
        while number < max(rounds, WARM + 3) or time.monotonic() - began < minutes * 60:
            one_round(number, Path(name))
            shutil.rmtree(Path(name) / f"run-{number}")
            found.append(count(number, time.monotonic() - began, cache))
            print(json.dumps(found[-1]), flush=True)
            number += 1
    return found


def growth(found: list[dict[str, Any]]) -> dict[str, float]:
    """Per round, after the first ones: the slope of a straight line through each count."""
    import numpy as np

    late = found[WARM:]
    x = np.arange(len(late))
    names = [name for name in found[0] if name not in ("round", "seconds")]
    return {name: float(np.polyfit(x, [row[name] for row in late], 1)[0]) for name in names}


def table(found: list[dict[str, Any]]) -> str:
    """The first rounds, and then some of the others."""
    step = max(1, (len(found) - WARM) // 8)
    chosen = [*found[:WARM], *found[WARM::step]]
    names = [name for name in found[0] if name != "objects"]
    lines = [f"| {' | '.join(names).replace('_', ' ')} |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(f"{row[name]:,}" for name in names) + " |" for row in chosen]
    slopes = ", ".join(f"{k.replace('_', ' ')} {v:+.3g}" for k, v in growth(found).items())
    return "\n".join(lines) + f"\n\nPer round, after the first {WARM}: {slopes}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, help="at least so many")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    args = parser.parse_args()
    import jaxrl  # noqa: F401

    found = soak(args.minutes, args.rounds)
    stamped = stamp.stamp("benchmarks.soak")
    content = {"stamp": stamped, "growth_per_round": growth(found), "rounds": found}
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
