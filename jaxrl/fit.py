"""Learning from a dataset: `train` for agents that take gradient steps on examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxrl.checkpoint import Checkpoints
from jaxrl.dataset import Dataset
from jaxrl.mesh import Mesh
from jaxrl.result import Result
from jaxrl.train import train
from jaxrl.types import Key, PyTree


def fit(
    agent: Any,
    data: Dataset | PyTree,
    key: Key,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    progress: bool | None = None,
    log_every: int | None = None,
    lanes: int | None = None,
    checkpoint: str | Path | Checkpoints | None = None,
    every: int | None = None,
    resume: bool | str = False,
    guard: bool = False,
    log: Any = None,
    mesh: Mesh | None = None,
    start: PyTree = None,
) -> Result:
    """`steps` gradient steps (or `epochs` passes) of `agent.learn` on batches of `data`: a
    `Dataset`, or a tree of arrays with the examples along their first axis.

    Everything else is as in `jaxrl.train`: arrays of keys and stacks of agents are many runs,
    checkpoints, resuming, logs and the guard do what they do there, and steps mean gradient steps.
    `start` is what the agent begins with: the parameters of a language model, say.
    """
    if not isinstance(data, Dataset):
        data = Dataset(data)
    data.check()
    if (steps is None) == (epochs is None):
        raise ValueError("give steps=... or epochs=..., one of them.")
    if steps is None:
        per_epoch = max(1, data.size // getattr(agent, "batch_size", 1))
        steps = max(1, round(float(epochs or 0) * per_epoch))
    data = jax.tree.map(jax.numpy.asarray, data)
    return train(
        agent,
        data,  # pyright: ignore
        key,
        steps=steps,
        progress=progress,
        log_every=log_every,
        lanes=lanes,
        checkpoint=checkpoint,
        every=every,
        resume=resume,
        guard=guard,
        log=log,
        mesh=mesh,
        start=start,
    )
