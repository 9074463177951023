"""Language models on eight devices of the host, against one. See tests/unit/test_llm_sharding.py.

python -m tests.shard_worker
"""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl.llm import GRPO, SFT, Config, Rope, Shards, Transformer, tuning
from jaxrl.llm.lora import variables
from tests.echo import END, VOCAB, Echo

CONFIG = Config(VOCAB, width=32, layers=2, heads=4, hidden=64, rope=Rope(8), eos=(END,))
NETWORK = Transformer(CONFIG)
PLAIN = tuning.AdamW(max_grad_norm=1e9)


def gap(x: Any, y: Any) -> float:
    both = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in both)


def moments(opt: Any) -> Any:
    return opt[1].mu


def cut(tree: Any) -> dict[str, list[int]]:
    """Parts of each matrix along its axes."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): [
            size // part for size, part in zip(x.shape, x.sharding.shard_shape(x.shape))
        ]
        for path, x in flat
    }


def main() -> None:
    found: dict[str, Any] = {"devices": jax.device_count()}
    tokens = jax.random.randint(jax.random.key(1), (64, 6), 2, VOCAB)
    rows = {"tokens": tokens, "segments": jnp.ones_like(tokens), "mask": tokens > 2}
    plain = tuning.fresh(NETWORK, jax.random.key(0), None)
    runs: dict[str, Any] = {}
    for name, shards in (("one", Shards()), ("eight", Shards(data=4, tensor=2))):
        sft = SFT(NETWORK, batch_size=16, lr=1e-3, optimizer=PLAIN, shards=shards)
        start = plain
        if shards.count > 1:
            flat = jax.tree_util.tree_map_with_path(
                lambda path, x, s=shards: jax.device_put(
                    x, s.place("/".join(k.key for k in path), x.shape)
                ),
                plain,
            )
            start = flat
        fitted = jaxrl.fit(sft, rows, jax.random.key(2), steps=1, start=start)
        grpo = GRPO(NETWORK, prompts=8, group=4, lr=1e-3, optimizer=PLAIN, shards=shards, parts=2)
        trained = jaxrl.train(grpo, Echo(), jax.random.key(3), steps=64, start=start, log_every=32)
        runs[name] = fitted, trained
        found[f"{name} loss"] = float(fitted.metrics["loss/total"][0])
        found[f"{name} reward"] = np.asarray(trained.metrics["reward/mean"]).tolist()
        found[f"{name} mismatch"] = float(trained.metrics["sampler/max_difference"].max())
    fitted, trained = ([runs[n][i] for n in ("one", "eight")] for i in (0, 1))
    found["gradient gap"] = gap(*(moments(r.state.opt) for r in fitted))
    found["gradient size"] = max(
        float(jnp.abs(x).max()) for x in jax.tree.leaves(moments(fitted[0].state.opt))
    )
    found["params gap"] = gap(*(r.state.params for r in trained))
    found["cut params"] = cut(trained[1].state.params)
    found["cut moments"] = cut(moments(trained[1].state.opt))
    logits = jax.jit(lambda p: NETWORK.apply(variables(p), tokens)[0])(trained[1].state.params)
    found["finite"] = bool(jnp.isfinite(logits).all())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
