"""A run as one page: every metric, every setting, what it ran on. One HTML file, nothing else.

    run.report("report.html")            of a result
    jaxrl report runs/x                  of the folder of a run, on the command line

The page holds no script and asks for no other file, so it can be mailed, archived and opened
without a network. Everything that comes from the run is escaped.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl.report.page import FILMS, Content, short, written

if TYPE_CHECKING:
    from jaxrl.result import Result

__all__ = ["Content", "of_folder", "of_result", "write", "written"]


def of_folder(folder: str | Path, title: str | None = None) -> Content:
    """What `run.json` and `metrics.csv` of a folder say, and the films in it."""
    from jaxrl import record
    from jaxrl.sinks import files

    folder = Path(folder)
    said = record.read(folder)
    table = folder / "metrics.csv"
    steps, metrics = np.zeros(0, int), {}
    if table.exists():
        try:
            steps, metrics = files.read(table)
        except (csv.Error, IndexError) as error:
            raise ValueError(f"{table} is not readable: {error}.") from error
    films = sorted(x for x in folder.iterdir() if x.suffix in FILMS)
    sessions = said.get("sessions")
    return Content(
        title=title or _title(said.get("agent"), said.get("env")),
        agent=said.get("agent"),
        env=said.get("env"),
        call=_dict(said.get("call")),
        sessions=[_dict(x) for x in sessions] if isinstance(sessions, list) else [],
        steps=steps,
        metrics=metrics,
        films=films,
        place=str(folder),
    )


def of_result(result: Result, title: str | None = None) -> Content:
    """What a result knows, and the circumstances of now."""
    from jaxrl import keeper, record

    steps = np.atleast_2d(np.asarray(result.steps))[0]
    names = sorted(result.metrics)
    agent = keeper.described(result.agent)
    env = None if result.env is None else keeper.described(result.env)
    timing = result.timing
    call: dict[str, Any] = {"steps": int(steps[-1]) if len(steps) else 0}
    if timing.steps:
        call |= {
            "compile_seconds": round(timing.compile_seconds, 2),
            "run_seconds": round(timing.run_seconds, 2),
            "steps_per_second": round(timing.steps_per_second),
        }
    return Content(
        title=title or _title(agent, env),
        agent=agent,
        env=env,
        call=call,
        sessions=[record.session(0)],
        steps=steps,
        metrics={n: np.atleast_2d(np.asarray(result.metrics[n], np.float64)) for n in names},
        notes=[f"Stopped: {sick}" for sick in result.sick],
    )


def write(content: Content, path: str | Path) -> Path:
    """The page as a file, all or nothing."""
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"path={str(path)!r} must end in .html.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".saving")
    try:
        draft.write_text(written(content), encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _dict(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {"": json.dumps(said)}


def _title(agent: Any, env: Any) -> str:
    return f"{short(agent)} on {short(env)}" if env is not None else short(agent)
