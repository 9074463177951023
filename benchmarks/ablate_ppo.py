"""What each switchable detail of PPO is worth: one change at a time, the same seeds.

    python -m benchmarks.ablate_ppo [--seeds 10] [--steps 200000]

Writes benchmarks/results/ablate_ppo.json and prints a Markdown table for docs/ppo.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax

import jaxrl
from benchmarks.stamp import stamp
from jaxrl import cache, optim
from jaxrl.losses import policy as losses

RESULTS = Path(__file__).parent / "results" / "ablate_ppo.json"

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no learning-rate annealing": {"anneal_lr": optim.constant},
    "advantages not normalised": {"normalize_minibatch": optim.identity},
    "advantages normalised per rollout": {
        "normalize_minibatch": optim.identity,
        "normalize_batch": losses.normalize,
    },
    "value loss clipped": {"value_loss": losses.ClippedValueError(0.2)},
    "no entropy bonus": {"entropy": 0.0},
    "no gradient clipping": {"max_grad_norm": 1e9},
    "Adam's epsilon 1e-8": {"adam_eps": 1e-8},
    "ratio not clipped": {"clip": 1e9},
    "one epoch": {"epochs": 1},
    "one minibatch": {"minibatches": 1},
    "no GAE (lambda 1)": {"lam": 1.0},
    "one-step advantages (lambda 0)": {"lam": 0.0},
    "target KL 0.02": {"target_kl": 0.02},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="the worth of PPO's details")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--envs", nargs="*", default=["CartPole-v1", "Acrobot-v1"])
    options = parser.parse_args()
    cache.enable()
    keys = jax.random.split(jax.random.key(37), options.seeds)
    rows: list[dict[str, Any]] = []
    print(f"| change | {' | '.join(options.envs)} |\n|---|{'---|' * len(options.envs)}")
    for change, fields in CHANGES.items():
        cells: list[str] = []
        for name in options.envs:
            env = jaxrl.envs.make(name)
            result = jaxrl.train(jaxrl.PPO(**fields), env, keys, steps=options.steps)
            score = jaxrl.evaluate(result, env)
            low, high = score.interval
            cells.append(f"{score.iqm:.1f} [{low:.1f}, {high:.1f}]")
            rows.append({"change": change, "env": name, "iqm": score.iqm, "low": low, "high": high})
        print(f"| {change} | {' | '.join(cells)} |", flush=True)
    mark = stamp("benchmarks/ablate_ppo.py", seeds=options.seeds, steps=options.steps)
    RESULTS.write_text(json.dumps({"stamp": mark, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
