"""What fresh starts cost: random play with spare starts and with a fresh one for every step.

    python -m benchmarks.resets

Writes benchmarks/results/resets.json and prints a Markdown table for docs/resets.md.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxrl
from benchmarks.stamp import stamp
from jaxrl import rollout
from jaxrl.struct import static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Rollout, Spec

RESULTS = Path(__file__).parent / "results" / "resets.json"
NAMES = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Breakout-MinAtar")


@struct
class Random:
    """Draws actions uniformly, and learns nothing."""

    num_envs: int = static("parallel environments", default=64, low=1)
    num_steps: int = static("steps per rollout", default=128, low=1)

    def init(self, key: Key, spec: Spec) -> PyTree:
        return Only(spec)

    def act(self, state: Any, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        keys = jax.random.split(key, self.num_envs)
        return ActOut(jax.vmap(state.spec.action_space.sample)(keys))

    def update(self, state: PyTree, rollout: Rollout, key: Key) -> tuple[PyTree, Metrics]:
        # Everything is used: XLA would not simulate what nobody looks at.
        total = sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(rollout.obs))
        return state, {"policy/seen": jnp.asarray(total) + rollout.reward.sum()}


@struct
class Only:
    spec: Spec = static("of the task")


def speed(name: str, reset_every: int, rounds: int = 5, repeats: int = 40) -> float:
    """Steps per second, the median over rounds."""
    env, agent = jaxrl.envs.make(name), Random()
    spec = Spec(env.obs_space, env.action_space, env.time_limit)

    @jax.jit
    def play(streams: Any, key: Key) -> tuple[Any, jax.Array]:
        def one(streams: Any, key: Key) -> tuple[Any, jax.Array]:
            streams, got, _ = rollout.collect(
                agent, env, spec, Only(spec), streams, key, 0, reset_every
            )
            return streams, agent.update((), got, key)[1]["policy/seen"]

        return jax.lax.scan(one, streams, jax.random.split(key, repeats))

    streams = rollout.start(agent, env, jax.random.key(0), reset_every)
    streams, _ = jax.block_until_ready(play(streams, jax.random.key(1)))
    rates: list[float] = []
    for i in range(rounds):
        began = time.perf_counter()
        streams, _ = jax.block_until_ready(play(streams, jax.random.key(i)))
        rates.append(repeats * agent.num_envs * agent.num_steps / (time.perf_counter() - began))
    return statistics.median(rates)


def main() -> None:
    rows: list[dict[str, Any]] = []
    print("| environment | spare starts (16), steps/s | always fresh (1), steps/s | cost |")
    print("|---|---|---|---|")
    for name in NAMES:
        spare, fresh = speed(name, rollout.RESET_EVERY), speed(name, 1)
        rows.append({"env": name, "spare": spare, "fresh": fresh})
        print(f"| {name} | {spare:,.0f} | {fresh:,.0f} | {spare / fresh - 1:+.0%} |", flush=True)
    mark = stamp("benchmarks/resets.py", num_envs=64, num_steps=128)
    RESULTS.write_text(json.dumps({"stamp": mark, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
