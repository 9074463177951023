"""Metrics to Weights & Biases, which is an extra: `pip install jaxrl[wandb]`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.sinks import tags as tag_styles


class WandB:
    """A run of `project`, begun at the first point. `mode="offline"` writes to `folder` alone,
    nothing leaves the machine, and `wandb sync` sends it later. `id` goes on with an earlier run.
    `options` go to `wandb.init` (name, entity, group, config ...)."""

    def __init__(
        self,
        project: str,
        *,
        folder: str | Path | None = None,
        tags: str = "cleanrl",
        mode: str | None = None,
        id: str | None = None,
        **options: Any,
    ) -> None:
        self.tags = tag_styles.style(tags)
        self.options = {"project": project, "mode": mode, "id": id, **options}
        if id is not None:
            self.options.setdefault("resume", "allow")
        self.folder = None if folder is None else Path(folder)
        self._run: Any = None
        if importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError("Weights & Biases is not installed: pip install jaxrl[wandb]")

    def write(self, steps: int, metrics: Mapping[str, np.ndarray[Any, Any]]) -> None:
        if self._run is None:
            wandb: Any = importlib.import_module("wandb")
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.options["dir"] = str(self.folder)
            self._run = wandb.init(**self.options)
            # Their own step must only rise; ours goes back when a run is resumed.
            self._run.define_metric("global_step")
            self._run.define_metric("*", step_metric="global_step")
        self._run.log({"global_step": steps, **tag_styles.scalars(metrics, self.tags)})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
