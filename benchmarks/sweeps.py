"""Time of one synchronous sweep of value iteration, against SciPy's compressed rows and NumPy.

    python -m benchmarks.sweeps

Random models with ten actions per state and four outcomes per action. The three take turns; shown
are medians. Writes benchmarks/results/sweeps.json and prints a Markdown table.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from benchmarks.stamp import line, stamp
from jaxrl import planning
from jaxrl.mdp import MDP, Sparse

RESULTS = Path(__file__).parent / "results" / "sweeps.json"
PAIRS = (10_000, 100_000, 1_000_000)
ACTIONS, OUTCOMES, GAMMA = 10, 4, 0.99


def model(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> probabilities and next states [S, A, K], rewards [S, A], all in float32."""
    rng = np.random.default_rng(seed)
    states = pairs // ACTIONS
    p = rng.dirichlet(np.ones(OUTCOMES), (states, ACTIONS)).astype(np.float32)
    to = rng.integers(0, states, (states, ACTIONS, OUTCOMES), dtype=np.int32)
    return p, to, rng.normal(size=(states, ACTIONS)).astype(np.float32)


def jax_sweeps(p: np.ndarray, to: np.ndarray, R: np.ndarray) -> Callable[[int], np.ndarray]:
    mdp = MDP(Sparse(jnp.asarray(p), jnp.asarray(to)), jnp.asarray(R), GAMMA)

    def run(sweeps: int) -> np.ndarray:
        found = planning.value_iteration(mdp, tolerance=0.0, max_sweeps=sweeps)
        return np.asarray(jax.block_until_ready(found).v)

    return run


def scipy_sweeps(p: np.ndarray, to: np.ndarray, R: np.ndarray) -> Callable[[int], np.ndarray]:
    states, count = len(R), p.size
    rows = np.arange(0, count + 1, OUTCOMES)
    shape = (states * ACTIONS, states)
    P = scipy.sparse.csr_matrix((p.ravel(), to.ravel(), rows), shape)

    def run(sweeps: int) -> np.ndarray:
        v = np.zeros(states, np.float32)
        for _ in range(sweeps):
            v = (R + np.float32(GAMMA) * (P @ v).reshape(states, ACTIONS)).max(1)
        return v

    return run


def numpy_sweeps(p: np.ndarray, to: np.ndarray, R: np.ndarray) -> Callable[[int], np.ndarray]:
    """The same layout as ours, in plain NumPy."""

    def run(sweeps: int) -> np.ndarray:
        v = np.zeros(len(R), np.float32)
        for _ in range(sweeps):
            v = (R + np.float32(GAMMA) * (p * v[to]).sum(-1)).max(1)
        return v

    return run


def seconds(run: Callable[[int], np.ndarray], sweeps: int) -> float:
    began = time.perf_counter()
    run(sweeps)
    return (time.perf_counter() - began) / sweeps


def measure(pairs: int, rounds: int = 7) -> dict[str, Any]:
    arrays = model(pairs)
    sides = {"jaxrl": jax_sweeps, "scipy": scipy_sweeps, "numpy": numpy_sweeps}
    runs = {name: build(*arrays) for name, build in sides.items()}
    sweeps = min(200, max(10, 2_000_000 // pairs))
    began = time.perf_counter()
    first = runs["jaxrl"](sweeps)
    compiling = time.perf_counter() - began
    for name in ("scipy", "numpy"):
        np.testing.assert_allclose(runs[name](sweeps), first, rtol=1e-4, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, sweeps))
    row: dict[str, Any] = {name: statistics.median(each) for name, each in times.items()}
    return {"pairs": pairs, "first_call": compiling, "sweeps": sweeps, **row}


def main() -> None:
    mark = stamp("benchmarks.sweeps", actions=ACTIONS, outcomes=OUTCOMES, seed=0, rounds=7)
    rows: list[dict[str, Any]] = []
    print("| pairs | jaxrl, ms | SciPy, ms | NumPy, ms | SciPy / jaxrl | NumPy / jaxrl |")
    print("|---|---|---|---|---|---|")
    for pairs in PAIRS:
        row = measure(pairs)
        rows.append(row)
        ours = row["jaxrl"]
        shown = " | ".join(f"{1e3 * row[name]:.3f}" for name in ("jaxrl", "scipy", "numpy"))
        ratios = " | ".join(f"{row[name] / ours:.1f}" for name in ("scipy", "numpy"))
        print(f"| {pairs:,} | {shown} | {ratios} |", flush=True)
    print(f"\n{line(mark)}")
    RESULTS.write_text(json.dumps({"stamp": mark, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
