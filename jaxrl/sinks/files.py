"""Metrics as text: a table for spreadsheets, and one JSON object per line for programs.

Numbers are written with nine digits, which give back every float32 exactly. A metric that does not
exist (NaN) is an empty cell of the table and `null` in JSON; infinities, which JSON does not know,
are the texts "inf" and "-inf" there.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Point = Mapping[str, np.ndarray[Any, Any]]


def text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"


def number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(f"{value:.9g}") if math.isfinite(value) else str(value)


def runs_of(metrics: Point) -> int | None:
    """How many runs the metrics are of; None for a single one."""
    return next((len(x) for x in metrics.values() if np.ndim(x)), None)


class _File:
    """Lines that reach the disk point by point. When writing fails (a full disk) the run goes on
    without: it says so once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        self._failed = False

    def write(self, steps: int, metrics: Point) -> None:
        if self._failed:
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                fresh = not self.path.exists() or not self.path.stat().st_size
                self._file = self.path.open("a", newline="", encoding="utf-8")
                if fresh:
                    self._head(self._file, metrics)
            self._lines(self._file, steps, metrics)
            self._file.flush()
        except OSError as error:
            self.fail(error)

    def fail(self, error: OSError) -> None:
        self._failed = True
        print(
            f"{self.path} is no longer written: {error.strerror}. The run goes on.",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the rest of a buffer that was spoken of already
                self._file.close()
            self._file = None

    def cut(self, steps: int) -> list[int]:
        """Drop every line of a later step, and what is not a line; -> the steps that are left."""
        if not self.path.exists():
            return []
        draft = self.path.with_name(self.path.name + ".saving")
        kept: list[int] = []
        try:
            with (
                open(self.path, encoding="utf-8", newline="") as old,
                open(draft, "w", encoding="utf-8", newline="") as new,
            ):
                for line in self._start(old, new):
                    at = self._steps(line)
                    if at is not None and at <= steps and line.endswith("\n"):
                        new.write(line)
                        if not kept or kept[-1] != at:
                            kept.append(at)
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        return kept

    def _head(self, file: TextIO, metrics: Point) -> None:
        raise NotImplementedError

    def _lines(self, file: TextIO, steps: int, metrics: Point) -> None:
        raise NotImplementedError

    def _start(self, old: TextIO, new: TextIO) -> Iterable[str]:
        """The lines after the head, which is copied."""
        raise NotImplementedError

    def _steps(self, line: str) -> int | None:
        raise NotImplementedError


class CSV(_File):
    """A row per point and run: `steps`, `run` (empty for a single one), then the metrics by name.
    The columns are those of the first point."""

    _columns: list[str] | None = None

    def _head(self, file: TextIO, metrics: Point) -> None:
        self._columns = sorted(metrics)
        csv.writer(file, lineterminator="\n").writerow(["steps", "run", *self._columns])

    def _lines(self, file: TextIO, steps: int, metrics: Point) -> None:
        if self._columns is None:  # the file was there already
            with open(self.path, encoding="utf-8", newline="") as old:
                self._columns = next(csv.reader(old))[2:]
        columns = [np.atleast_1d(np.asarray(metrics.get(n, np.nan), float)) for n in self._columns]
        runs = runs_of(metrics)
        writer = csv.writer(file, lineterminator="\n")
        for run in range(runs or 1):
            cells = [text(float(x[run if len(x) > 1 else 0])) for x in columns]
            writer.writerow([steps, "" if runs is None else run, *cells])

    def _start(self, old: TextIO, new: TextIO) -> Iterable[str]:
        new.write(old.readline())
        return old

    def _steps(self, line: str) -> int | None:
        cell = line.partition(",")[0]
        return int(cell) if cell.isdigit() else None


class JSONL(_File):
    """`{"steps": ..., "metrics": {name: number or list of one per run}}`, a line per point."""

    def _head(self, file: TextIO, metrics: Point) -> None:
        pass

    def _lines(self, file: TextIO, steps: int, metrics: Point) -> None:
        values = {
            name: [number(float(v)) for v in x] if np.ndim(x) else number(float(x))
            for name, x in sorted(metrics.items())
        }
        file.write(json.dumps({"steps": steps, "metrics": values}, allow_nan=False) + "\n")

    def _start(self, old: TextIO, new: TextIO) -> Iterable[str]:
        return old

    def _steps(self, line: str) -> int | None:
        try:
            return int(json.loads(line)["steps"])
        except (ValueError, TypeError, KeyError):
            return None


def read(path: str | Path) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """-> steps [points], metrics [runs, points] of a file written by `CSV`."""
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))  # a last half line is none
    head = rows[0] if rows else []
    if head[:2] != ["steps", "run"]:
        raise ValueError(
            f"{path} is not a table of metrics: its first line should begin steps,run."
        )
    body = [row for row in rows[1:] if len(row) == len(head)]
    runs = max((int(row[1] or 0) for row in body), default=0) + 1
    steps = np.array(sorted({int(row[0]) for row in body}), int)
    place = {int(s): i for i, s in enumerate(steps)}
    metrics = {name: np.full((runs, len(steps)), np.nan) for name in head[2:]}
    for row in body:
        run, point = int(row[1] or 0), place[int(row[0])]
        for name, cell in zip(head[2:], row[2:], strict=True):
            if cell:
                metrics[name][run, point] = float(cell)
    return steps, metrics
