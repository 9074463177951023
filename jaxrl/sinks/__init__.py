"""Where the metrics of a run go while it runs.

A sink has two methods, so that anything can be one:

    class Printer:
        def write(self, steps, metrics):
            print(steps, metrics["episode/return"].mean())

        def close(self):
            pass

`jaxrl.train(..., log=Printer())` calls `write` for each point of the learning curves, in order and
soon after it was made (points come in chunks of about a second), and `close` at the end, also after
an error. What a sink raises stops the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from jaxrl.sinks.files import CSV, JSONL
from jaxrl.sinks.tensorboard import TensorBoard
from jaxrl.sinks.weights_and_biases import WandB

Point: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


@runtime_checkable
class Sink(Protocol):
    def write(self, steps: int, metrics: Point) -> None:
        """One point: `steps` environment steps of each run lie behind us. A metric is an array []
        of a single run, or [runs]; NaN where it does not exist yet. `time/seconds` since the
        training began, and `time/steps_per_second` of all runs together, are always []."""
        ...

    def close(self) -> None: ...


__all__ = ["CSV", "JSONL", "Point", "Sink", "TensorBoard", "WandB"]
