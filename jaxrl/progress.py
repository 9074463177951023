"""How a run is getting on, on stderr, between chunks of compiled work.

On a terminal and in a notebook it is one line that rewrites itself. Elsewhere it is silent, except
in CI (where the variable CI is set): there a line is written every ten seconds, so that a job which
takes minutes does not look dead. `progress=True` writes a line for each chunk wherever it is.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxrl.lanes import Lanes
from jaxrl.result import Timing
from jaxrl.types import Metrics

SPARSE = 10.0
"""Seconds between two lines in CI."""

Place = Literal["terminal", "notebook", "ci", "elsewhere"]


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs us; its stderr is no terminal, but can show rich output."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def place(environment: Mapping[str, str] = os.environ) -> Place:
    if in_notebook():
        return "notebook"
    if sys.stderr.isatty() and environment.get("TERM") != "dumb":
        return "terminal"
    return "ci" if environment.get("CI", "").lower() not in ("", "0", "false") else "elsewhere"


class Progress:
    def __init__(
        self,
        show: bool | None,
        iterations: int,
        agent: Any,
        lanes: Lanes | None,
        begun: int = 0,
        per_iteration: int | None = None,
    ) -> None:
        self.place = place()
        self.show = show if show is not None else self.place != "elsewhere"
        self.sparse = show is None and self.place == "ci"
        self.iterations, self.begun = iterations, begun
        self.per_iteration = per_iteration or agent.num_envs * agent.num_steps
        self.runs = 1 if lanes is None else lanes.count
        self.name = _name(agent)
        self._what = "return"
        self._last = np.full(self.runs, np.nan)  # the last that is known of each run
        self._said = time.monotonic()
        self._width = 0
        self._display: Any = None
        where = ""
        if lanes is not None:
            shared = f" x {lanes.envs}" * (lanes.envs > 1)
            where = (
                f" on {lanes.devices}{shared} device{'s' * (lanes.devices * lanes.envs > 1)}, "
                f"{lanes.group} of {lanes.groups * lanes.group} together on each"
            )
        total = iterations * self.per_iteration
        self._head = f"{self.name}: {self.runs} run{'s' * (self.runs > 1)} x {total:,} steps{where}"

    def compiling(self, memory: str) -> None:
        """`memory` says how much the run will take, if that is known."""
        if self.show and not self.sparse:
            needed = f", about {memory}" if memory else ""
            text = f"{self._head}{needed}; compiling ..."
            self._put(text, final=self.place != "notebook")

    def compiled(self, seconds: float) -> None:
        if self.show and not self.sparse:
            text = f"{self.name}: compiled in {seconds:.1f} s"
            self._put(text, final=self.place != "notebook")

    def advanced(self, iterations: int, metrics: Metrics, timing: Timing) -> None:
        if not self.show:
            return
        self._what = "return" if "episode/return" in metrics else "loss"
        name = "episode/return" if self._what == "return" else "loss/total"
        values = np.asarray(metrics[name], float)
        rows = values.reshape(-1, values.shape[-1])[: self.runs]  # the lanes after are padding
        for column in rows.T:
            self._last = np.where(np.isnan(column), self._last, column)
        if self.sparse and time.monotonic() - self._said < SPARSE:
            return
        self._said = time.monotonic()
        self._put(self.line(iterations, timing), final=self.place in ("ci", "elsewhere"))

    def line(self, iterations: int, timing: Timing) -> str:
        share = iterations / self.iterations
        left = timing.run_seconds * (self.iterations - iterations) / (iterations - self.begun)
        full, empty = ("█", "·") if _unicode() else ("#", ".")
        parts = [
            f"{full * round(share * 20):{empty}<20} {share:4.0%}",
            f"{iterations * self.per_iteration:,} steps",
            f"{timing.steps_per_second:,.0f} steps/s",
            f"{duration(left)} left" if share < 1 else f"in {duration(timing.run_seconds)}",
            self._spread(),
        ]
        return "  ".join(parts)

    def _spread(self) -> str:
        known = self._last[~np.isnan(self._last)]
        if not known.size:
            return "no episode ended yet"
        digits = 1 if self._what == "return" else 4
        text = f"{self._what} {known.mean():.{digits}f}"
        if self.runs > 1:
            sign = "±" if _unicode() else "+-"
            text += (
                f" {sign} {known.std():.{digits}f} over {known.size} run{'s' * (known.size > 1)}"
            )
        return text

    def _put(self, text: str, final: bool) -> None:
        """`final` lines stay; the others are written over by what comes next."""
        if self.place == "notebook":
            self._in_notebook(f"{self._head}\n{text}" if not text.startswith(self._head) else text)
        elif self.place == "terminal":
            text = text[: max(20, shutil.get_terminal_size().columns - 1)]  # a second line stays
            start = "\r" if self._width else ""
            clear = "\x1b[K" if self._width else ""
            print(f"{start}{text}{clear}", end="\n" if final else "", file=sys.stderr, flush=True)
            self._width = 0 if final else len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _in_notebook(self, text: str) -> None:
        """One output of the cell that changes, and stays as it was last."""
        display: Any = importlib.import_module("IPython.display")
        data = {"text/plain": text}
        if self._display is None:
            self._display = display.display(data, raw=True, display_id=True)
        else:
            self._display.update(data, raw=True)

    def close(self) -> None:
        if self.show and self._width:
            print(file=sys.stderr, flush=True)
            self._width = 0


def _name(agent: Any) -> str:
    """NormalizeObs(PPO), say."""
    inner = getattr(agent, "agent", None)
    name = type(agent).__name__
    return name if inner is None else f"{name}({_name(inner)})"


def _unicode() -> bool:
    return "utf" in (getattr(sys.stderr, "encoding", None) or "").lower()
