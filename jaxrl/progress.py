"""One line per second about a run, on stderr, between chunks of compiled work."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from jaxrl.lanes import Lanes
from jaxrl.result import Timing
from jaxrl.types import Metrics


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """`show=None`: a line that rewrites itself on a terminal, nothing elsewhere. `show=True`
    prints elsewhere too, one line for each report."""

    def __init__(
        self,
        show: bool | None,
        iterations: int,
        agent: Any,
        lanes: Lanes | None,
        begun: int = 0,
    ) -> None:
        self.live = sys.stderr.isatty()
        self.show = self.live if show is None else show
        self.iterations, self.begun = iterations, begun
        self.per_iteration = agent.num_envs * agent.num_steps
        self.runs = 1 if lanes is None else lanes.count
        self.name = type(agent).__name__
        if self.show:
            where = ""
            if lanes is not None:
                where = (
                    f" on {lanes.devices} device{'s' * (lanes.devices > 1)}, {lanes.group} of "
                    f"{lanes.groups * lanes.group} together on each"
                )
            total = iterations * self.per_iteration
            print(
                f"{self.name}: {self.runs} run{'s' * (self.runs > 1)} x {total:,} steps{where}; "
                "compiling ...",
                file=sys.stderr,
            )

    def compiled(self, seconds: float) -> None:
        if self.show:
            print(f"{self.name}: compiled in {seconds:.1f} s", file=sys.stderr)

    def advanced(self, iterations: int, metrics: Metrics, timing: Timing) -> None:
        if not self.show:
            return
        share = iterations / self.iterations
        left = timing.run_seconds * (self.iterations - iterations) / (iterations - self.begun)
        returns = np.asarray(metrics["episode/return"])[..., -1]
        finite = returns[~np.isnan(returns)]
        text = "no episode ended yet"
        if finite.size:
            text = f"return {finite.mean():.1f}"
            if self.runs > 1:
                text += f" ± {finite.std():.1f}"
        bar = "█" * round(share * 20)
        line = (
            f"{bar:·<20} {share:4.0%}  {iterations * self.per_iteration:,} steps  "
            f"{timing.steps_per_second:,.0f} steps/s  {duration(left)} left  {text}"
        )
        print(
            f"\r{line}\x1b[K" if self.live else line,
            end="" if self.live else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self.show and self.live:
            print(file=sys.stderr)
