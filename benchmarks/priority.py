"""Prioritised sampling: our sum tree, flashbax's, and a running sum over all priorities.

    python -m benchmarks.priority
    python -m benchmarks.priority --sizes 10000 1000000 --batches 32 --lanes 1

A *round* is what a gradient step asks for: draw a batch of leaves in proportion to their priority,
look up their probabilities, write new priorities for them. An *update* is the last part alone. Both
are repeated inside one compiled loop, so that the cost of calling a program does not count. The
sides take turns; the median of the turns is written to benchmarks/results/priority.json and .md.

flashbax (the tree behind its prioritised buffer, with both of its ways to write a batch) is left
out where it is not installed. *drift* is how far the total that a side draws from is from the sum
of its leaves when the rounds are over, as a share.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NPROC", "4")

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl  # noqa: F401  (settles the thread pool before JAX starts)
from benchmarks import stamp
from jaxrl import priority

RESULTS = Path(__file__).resolve().parent / "results"
SIZES, BATCHES, LANES = (10_000, 100_000, 1_000_000), (32, 256), (1, 8)
SECONDS, TURNS = 0.1, 5


@dataclasses.dataclass(frozen=True)
class Side:
    """One way to sample in proportion to priorities."""

    name: str
    fill: Callable[[jax.Array], Any]  # priorities [S] -> memory
    draw: Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]]  # -> leaf, probability [B]
    put: Callable[[Any, jax.Array, jax.Array], Any]  # memory, leaf [B], priority [B] -> memory
    total: Callable[[Any], jax.Array]
    leaves: Callable[[Any, int], jax.Array]  # -> priorities [S]


def ours() -> Side:
    def draw(tree: Any, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
        total = tree.total
        leaf = priority.find(tree, priority.stratified(key, batch, total))
        return leaf, priority.get(tree, leaf) / total

    return Side(
        name="jaxrl",
        fill=lambda p: priority.put(priority.empty(p.size), jnp.arange(p.size), p),
        draw=draw,
        put=priority.put,
        total=lambda tree: tree.total,
        leaves=lambda tree, size: tree.levels[0].reshape(-1)[:size],
    )


def running_sum() -> Side:
    """What is written when nothing else is at hand: all priorities are added up at every draw."""

    def draw(p: jax.Array, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
        sums = jnp.cumsum(p)
        u = priority.stratified(key, batch, sums[-1])
        leaf = jnp.minimum(jnp.searchsorted(sums, u, side="right"), p.size - 1)
        return leaf, p[leaf] / sums[-1]

    return Side(
        name="cumsum + searchsorted",
        fill=lambda p: p,
        draw=draw,
        put=lambda p, leaf, value: p.at[leaf].set(value),
        total=lambda p: jnp.cumsum(p)[-1],
        leaves=lambda p, size: p,
    )


def flashbax() -> list[Side]:
    """Both ways to write a batch; its buffer takes `scan` on a CPU, `bincount` elsewhere."""
    try:
        tree: Any = importlib.import_module("flashbax.buffers.sum_tree")
    except ImportError:
        print("flashbax is not installed: left out (pip install flashbax)", flush=True)
        return []

    def draw(state: Any, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
        leaf = tree.stratified_sample(state, batch, key)
        return leaf, tree.get_probability(state, leaf)

    def side(name: str, put: Any) -> Side:
        return Side(
            name=f"flashbax, {name}",
            fill=lambda p: tree.set_batch_bincount(tree.init(p.size), jnp.arange(p.size), p),
            draw=draw,
            put=put,
            total=lambda state: state.nodes[0],
            leaves=lambda state, size: state.nodes[2**state.tree_depth - 1 :][:size],
        )

    return [side("scan", tree.set_batch_scan), side("bincount", tree.set_batch_bincount)]


def fresh(key: jax.Array, batch: int) -> jax.Array:
    """New priorities, spread over several orders of magnitude."""
    return jnp.exp(2.0 * jax.random.normal(key, (batch,)))


@dataclasses.dataclass
class Case:
    """One side at one size, in one compiled loop."""

    side: Side
    size: int
    batch: int
    lanes: int
    kind: str  # "round" or "update"
    micros: list[float] = dataclasses.field(default_factory=list)

    def build(self) -> None:
        keys = jax.random.split(jax.random.key(0), self.lanes)
        start = jax.vmap(lambda key: fresh(key, self.size))(keys)  # [lanes, S]
        memory = jax.jit(jax.vmap(self.side.fill))(start)
        self.carry: Any = (memory, keys, jnp.zeros(self.lanes))

        def once(memory: Any, key: jax.Array, seen: jax.Array) -> Any:
            key, draw_key, new_key = jax.random.split(key, 3)
            value = fresh(new_key, self.batch)
            if self.kind == "round":
                leaf, probability = self.side.draw(memory, draw_key, self.batch)
                seen = seen + jnp.sum(probability)  # used, so that it is computed
                # As in training, what is written depends on all that was read: else XLA may read
                # after the write, for which it copies the whole memory.
                value = value + 1e-30 * probability
            else:
                leaf = jax.random.randint(draw_key, (self.batch,), 0, self.size)
            return self.side.put(memory, leaf, value), key, seen

        def loop(carry: Any, count: jax.Array) -> Any:
            return jax.lax.fori_loop(0, count, lambda _, carry: jax.vmap(once)(*carry), carry)

        began = time.perf_counter()
        self.run = jax.jit(loop, donate_argnums=0).lower(self.carry, 1).compile()
        self.compile_seconds = time.perf_counter() - began
        self.count = 1
        while (took := self.turn()) < SECONDS / 8 and self.count < 10**6:
            self.count *= 4
        self.count = max(1, round(self.count * SECONDS / took))

    def turn(self) -> float:
        began = time.perf_counter()
        self.carry = jax.block_until_ready(self.run(self.carry, self.count))
        return time.perf_counter() - began

    def drift(self) -> float:
        memory = self.carry[0]
        held = jax.vmap(lambda m: self.side.leaves(m, self.size))(memory)
        exact = np.asarray(held, np.float64).sum(axis=1)
        return float(np.max(np.abs(np.asarray(jax.vmap(self.side.total)(memory)) / exact - 1)))

    def row(self) -> dict[str, Any]:
        return {
            "side": self.side.name,
            "kind": self.kind,
            "size": self.size,
            "batch": self.batch,
            "lanes": self.lanes,
            "microseconds": statistics.median(self.micros),
            "turns": self.micros,
            "compile_seconds": self.compile_seconds,
            "drift": self.drift(),
        }


def check(side: Side, size: int) -> None:
    """The side draws in proportion to the priorities; otherwise its speed means nothing."""
    p = fresh(jax.random.key(1), size)
    memory = side.fill(p)
    leaf, probability = side.draw(memory, jax.random.key(2), 50_000)
    share = np.asarray(p, np.float64) / np.asarray(p, np.float64).sum()
    np.testing.assert_allclose(probability, share[np.asarray(leaf)], rtol=1e-3)
    counts = np.bincount(np.asarray(leaf), minlength=size) / 50_000
    assert np.abs(counts - share).sum() < 0.1, side.name


def compare(sides: list[Side], size: int, batch: int, lanes: int, kind: str) -> list[Case]:
    """All sides in turn, forwards and backwards."""
    cases = [Case(side, size, batch, lanes, kind) for side in sides]
    for case in cases:
        case.build()
    for turn in range(TURNS):
        for case in cases if turn % 2 == 0 else cases[::-1]:
            case.micros.append(1e6 * case.turn() / case.count)
    return cases


def table(rows: list[dict[str, Any]]) -> str:
    """Microseconds; in brackets how many times as long as jaxrl."""
    sides = list(dict.fromkeys(row["side"] for row in rows))
    lines = [
        "| what | leaves | batch | lanes | " + " | ".join(f"{s}, us" for s in sides) + " |",
        "|---" * (4 + len(sides)) + "|",
    ]
    cases: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        key = (row["kind"], row["size"], row["batch"], row["lanes"])
        cases.setdefault(key, {})[row["side"]] = row["microseconds"]
    for (kind, size, batch, lanes), found in cases.items():
        base = found[sides[0]]
        cells = [f"{found[s]:,.1f} ({found[s] / base:.1f}x)" for s in sides[1:]]
        lines.append(
            f"| {kind} | {size:,} | {batch} | {lanes} | {base:,.1f} | " + " | ".join(cells) + " |"
        )
    worst = {s: max(row["drift"] for row in rows if row["side"] == s) for s in sides}
    drift = ", ".join(f"{s} {value:.1e}" for s, value in worst.items())
    return "\n".join(lines) + f"\n\nLargest drift of the total: {drift}."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.priority", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="leaves")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--lanes", type=int, nargs="+", default=LANES, help="trees under vmap")
    parser.add_argument("--out", type=Path, default=RESULTS / "priority.json")
    args = parser.parse_args(argv)
    sides = [ours(), *flashbax(), running_sum()]
    for side in sides:
        check(side, 500)
    stamped = stamp.stamp("benchmarks.priority", seeds=[0], turns=TURNS, unit="microseconds")
    rows: list[dict[str, Any]] = []
    for kind in ("round", "update"):
        for size in args.sizes:
            for batch in args.batches:
                for lanes in args.lanes:
                    found = [case.row() for case in compare(sides, size, batch, lanes, kind)]
                    rows += found
                    shown = ", ".join(f"{r['side']} {r['microseconds']:,.1f}" for r in found)
                    print(
                        f"{kind}, {size:,} leaves, batch {batch}, {lanes} lanes, "
                        f"microseconds: {shown}",
                        flush=True,
                    )
    text = table(rows)
    print(f"\n{text}")
    args.out.parent.mkdir(exist_ok=True)
    data = {"stamp": {**stamped, "load_after": stamp.load()}, "rows": rows}
    args.out.write_text(json.dumps(data, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(f"{stamp.line(stamped)}\n\n{text}\n")


if __name__ == "__main__":
    main()
