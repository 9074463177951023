"""Many settings at once: as many compiled programs as there are static signatures among them."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks
from jaxrl.result import Result
from jaxrl.statistics import bootstrap_interval, iqm
from jaxrl.struct import is_static
from jaxrl.train import train
from jaxrl.types import Agent, Env, Key

Setting = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One result, over all seeds, for each setting. `sweep[i]` is the i-th, iteration gives
    `(setting, result)` pairs."""

    settings: list[Setting]
    results: list[Result]
    compiles: int

    def __len__(self) -> int:
        return len(self.settings)

    def __getitem__(self, index: int) -> Result:
        return self.results[index]

    def __iter__(self) -> Iterator[tuple[Setting, Result]]:
        return iter(zip(self.settings, self.results, strict=True))

    def scores(self, metric: str = "episode/return", last: float = 0.1) -> np.ndarray:
        """[settings, seeds]: the metric, averaged over the last tenth of each curve."""
        rows: list[np.ndarray] = []
        for result in self.results:
            values = np.asarray(result.metrics[metric])
            tail = values[:, -max(1, round(last * values.shape[1])) :]
            counts = (~np.isnan(tail)).sum(1)
            rows.append(np.where(counts, np.nansum(tail, 1) / np.maximum(counts, 1), np.nan))
        return np.stack(rows)

    def best(self, metric: str = "episode/return") -> tuple[Setting, Result]:
        """The setting with the highest interquartile mean over seeds."""
        index = int(np.nanargmax([iqm(row) for row in self.scores(metric)]))
        return self.settings[index], self.results[index]

    def plot(
        self,
        path: str | Path | None = None,
        metric: str = "episode/return",
        *,
        at: Mapping[str, Any] | None = None,
        ax: Any = None,
    ) -> Any:
        """Draw the scores: over one swept field as a line with its band, over two as a heat map. Of
        more, `at={"gamma": 0.99}` holds those it names. -> the matplotlib axes."""
        from jaxrl.landscape import draw

        return draw(self, path, metric, at, ax)

    def table(self, metric: str = "episode/return") -> str:
        """Settings from best to worst, with the interval of their score."""
        scores = self.scores(metric)
        middles = np.array([iqm(row) for row in scores])
        lines = [f"{metric} (IQM over {scores.shape[1]} seeds, 95% interval), settings"]
        for i in np.argsort(-middles):
            low, high = bootstrap_interval(scores[i], iqm)
            text = "  ".join(f"{name}={_number(v)}" for name, v in self.settings[i].items())
            lines.append(f"{middles[i]:10.2f} [{low:.2f}, {high:.2f}]  {text}")
        return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _field(agent: Any, name: str) -> dataclasses.Field[Any]:
    """The field of that name; `agent.lr` reaches into a wrapped agent."""
    owner, _, rest = name.partition(".")
    fields = {f.name: f for f in dataclasses.fields(agent)}
    if owner not in fields:
        near = difflib.get_close_matches(owner, fields, 3) or sorted(fields)
        raise ValueError(
            f"over names {name!r}, which {type(agent).__name__} does not have; write one of "
            f"{', '.join(near)}."
        )
    return _field(getattr(agent, owner), rest) if rest else fields[owner]


def _set(agent: Any, name: str, value: Any) -> Any:
    owner, _, rest = name.partition(".")
    if rest:
        value = _set(getattr(agent, owner), rest, value)
    return dataclasses.replace(agent, **{owner: value})


def sweep(
    agent: Agent,
    env: Env,
    key: Key,
    *,
    over: Mapping[str, Sequence[Any] | jax.Array],
    seeds: int = 1,
    steps: int = 100_000,
    progress: bool | None = None,
    **options: Any,
) -> Sweep:
    """Train every combination of the values in `over`, each with the same `seeds` keys.

    Combinations that differ only in traced hyperparameters share one compiled program and run as
    one call; every distinct combination of static ones costs a compilation. The number of
    compilations is printed first. `options` go to `train`.
    """
    if not over:
        raise ValueError('over is empty: write for example over={"lr": [1e-4, 1e-3]}.')
    checks.positive_int(seeds, "seeds")
    static = {name: is_static(_field(agent, name)) for name in over}
    values: dict[str, list[Any]] = {}
    for name, given in over.items():
        values[name] = [x if static[name] else float(x) for x in _listed(name, given)]
    settings = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, setting in enumerate(settings):
        groups.setdefault(tuple(setting[n] for n in values if static[n]), []).append(i)
    print(
        f"sweep: {len(settings)} settings x {seeds} seeds = {len(settings) * seeds} runs of "
        f"{steps:,} steps, {len(groups)} compilation{'s' * (len(groups) > 1)}",
        file=sys.stderr,
    )
    for name in ("checkpoint", "log"):
        if len(groups) > 1 and options.get(name) is not None:
            raise ValueError(
                f"{name}={options[name]!r} is the place of one call, but these settings need "
                f"{len(groups)}: sweep over one value of each of "
                f"{', '.join(n for n in values if static[n])} at a time."
            )
    run_keys, _ = checks.keys(jax.random.split(checks.keys(key, None)[0], seeds), None)

    # Refuse a bad setting before the first good one has been trained for an hour.
    agents = [_with(agent, setting) for setting in settings]
    for one in agents:
        checks.task(one, env, steps)

    results: list[Result | None] = [None] * len(settings)
    for members in groups.values():
        stack = agents[members[0]]
        for name in values:
            if not static[name]:
                column = np.array([settings[i][name] for i in members], np.float32)
                stack = _set(stack, name, jnp.repeat(jnp.asarray(column), seeds))
        keys = jnp.tile(run_keys, len(members))
        result = train(stack, env, keys, steps=steps, progress=progress, **options)
        for j, i in enumerate(members):
            results[i] = result[j * seeds : (j + 1) * seeds]
    return Sweep(settings, [r for r in results if r is not None], len(groups))


def _with(agent: Any, setting: Setting) -> Any:
    for name, value in setting.items():
        agent = _set(agent, name, value)
    return agent


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str) or not hasattr(given, "__len__"):
        raise TypeError(f"over[{name!r}]={given!r} must be a list of values: write [{given!r}].")
    values = list(given)
    if not values:
        raise ValueError(f"over[{name!r}] is empty: give at least one value.")
    return values
