"""Metrics as TensorBoard event files, written by tensorboardX: TensorFlow is not needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.sinks import tags as tag_styles


class TensorBoard:
    """Event files in `folder`. `tags` names the metrics as "cleanrl", "sb3" or our "own" do; of
    several runs the mean is drawn, and their standard deviation as `<tag>_std`.

    A run that is resumed writes another file there; points of the first that it makes again are
    marked as superseded.
    """

    def __init__(self, folder: str | Path, tags: str = "cleanrl") -> None:
        self.folder = Path(folder)
        self.tags = tag_styles.style(tags)
        self._writer: Any = None
        if importlib.util.find_spec("tensorboardX") is None:
            raise ModuleNotFoundError(
                "TensorBoard files need tensorboardX: pip install tensorboardX"
            )

    def write(self, steps: int, metrics: Mapping[str, np.ndarray[Any, Any]]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=steps)
        for tag, value in tag_styles.scalars(metrics, self.tags).items():
            self._writer.add_scalar(tag, value, steps)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
