"""Checkpoints on disk: a folder of steps, each complete or absent.

    runs/x/checkpoints/step-000000409600/arrays/        the arrays, written by Orbax
                                         manifest.json  what they are, and their checksums

A checkpoint is written under another name, with its manifest last, and renamed when everything is
on disk; it is renamed away before it is deleted. Whatever the moment at which a process dies, a
folder named `step-...` is whole, and only what is called `.saving` or `.deleting` is not. Damage
that happens later is found by the checksums. This file knows arrays and JSON; `jaxrl.keeper` knows
what they mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrl import checks, distributed

KIND, FORMAT = "jaxrl checkpoint", 2
TOGETHER = 2**16
"""Arrays of fewer bytes are written as one: what describes an array to TensorStore is never freed
(its `to_json` leaks), and a run has many of a few bytes."""

STEP = re.compile(r"step-(\d+)")
OURS = re.compile(r"step-\d+(\.saving|\.deleting|\.bad(-\d+)?)?")

Arrays = dict[str, np.ndarray[Any, Any]]
Content = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint could not be read or written; the message says which and why. When saving
    failed during training, `result` holds what had been learned."""

    result: Any = None


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where to save, and what to keep: the `latest` few and the `best` few by the last value of
    `metric` (`evaluate/return` where there is one, else `episode/return`; the mean over runs)."""

    path: str | Path
    latest: int = 3
    best: int = 1
    metric: str | None = None

    def check(self) -> None:
        if not isinstance(self.path, str | Path) or not str(self.path):
            raise TypeError(f'checkpoint={self.path!r} must be a folder, such as "runs/x".')
        checks.positive_int(self.latest, "latest")
        if self.best != 0:
            checks.positive_int(self.best, "best")


class Folder:
    """The checkpoints of one run."""

    def __init__(self, path: str | Path) -> None:
        self.run = Path(path)
        self.path = self.run / "checkpoints"

    def __str__(self) -> str:
        return str(self.run)

    def at(self, step: int) -> Path:
        return self.path / f"step-{step:012d}"

    def steps(self) -> list[int]:
        """Of all checkpoints that were finished, damaged since or not; the oldest first."""
        try:
            names = [STEP.fullmatch(x.name) for x in self.path.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(found[1]) for found in names if found)

    # ---------------------------------------------------------------------------------- reading

    def content(self, step: int) -> Content:
        """What the manifest says, checked against its own checksum."""
        file = self.at(step) / "manifest.json"
        try:
            manifest = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise self._refused(
                step, "it has no manifest.json: it was not written by jaxrl, or files were removed"
            ) from None
        except (ValueError, RecursionError):
            raise self._refused(
                step, "manifest.json is not readable: truncated or damaged"
            ) from None
        if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
            raise self._refused(step, "manifest.json is not that of a jaxrl checkpoint")
        form = manifest.get("format")
        if form != FORMAT:
            older = isinstance(form, int) and form < FORMAT
            raise self._refused(
                step,
                f"it has format {form!r}, {'older' if older else 'other'} than format {FORMAT} "
                "that this jaxrl reads: go on with the version that wrote it"
                + self._writer(manifest.get("content")),
            )
        content = manifest.get("content")
        if not isinstance(content, dict) or manifest.get("sha256") != _digest(content):
            raise self._refused(step, "manifest.json does not have its checksum: it was damaged")
        return content

    @staticmethod
    def _writer(content: Any) -> str:
        versions = content.get("versions") if isinstance(content, dict) else None
        version = versions.get("jaxrl") if isinstance(versions, dict) else None
        return f" ({version})" if version else ""

    def verify(self, step: int) -> Content:
        """Every file is there and has its checksum."""
        content = self.content(step)
        for name, (size, digest) in content["files"].items():
            file = self.at(step) / name
            try:
                found = file.stat().st_size
            except OSError as error:
                raise self._refused(step, f"{name} cannot be read: {error.strerror}") from None
            if found != size:
                raise self._refused(step, f"{name} has {found:,} bytes instead of {size:,}")
            if _file_digest(file) != digest:
                raise self._refused(step, f"{name} does not have its checksum: it was damaged")
        return content

    def read(self, step: int) -> tuple[Content, Arrays]:
        content = self.verify(step)
        try:
            stored = _orbax().restore(self.at(step).resolve() / "arrays")
        except Exception as error:  # whatever lies below Orbax raises all kinds
            raise self._refused(step, f"Orbax cannot read it: {_reason(error)}") from error
        return content, _unpacked(stored, content["arrays"])

    def newest_good(self) -> tuple[int | None, dict[int, str]]:
        """The newest checkpoint that is whole, and what is wrong with those after it."""
        bad: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                self.verify(step)
                return step, bad
            except CheckpointError as error:
                bad[step] = str(error)
        return None, bad

    def _refused(self, step: int, why: str) -> CheckpointError:
        return CheckpointError(f"{self.at(step)} cannot be used: {why}.")

    # ---------------------------------------------------------------------------------- writing

    def open(self) -> None:
        """Make sure that saving will work, before anything is computed."""
        foreign = []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = [x.name for x in self.path.iterdir() if not OURS.fullmatch(x.name)]
            probe = self.path / "step-0.saving"
            shutil.rmtree(probe, ignore_errors=True)
            probe.mkdir()
            (probe / "probe").write_bytes(b"can this be written?")
            shutil.rmtree(probe)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint={str(self.run)!r}: nothing can be saved there: {error.strerror} "
                f"({error.filename}). Give a folder that you may write to, on a disk with room."
            ) from error
        if foreign:
            raise CheckpointError(
                f"{self.path} holds {sorted(foreign)[0]!r}, which jaxrl did not write; give "
                "checkpoint= a folder of its own."
            )

    def clean(self) -> None:
        """Remove what a process that was killed left unfinished."""
        for leftover in self.path.iterdir():
            if leftover.suffix in (".saving", ".deleting"):
                shutil.rmtree(leftover, ignore_errors=True)

    def set_aside(self, step: int) -> None:
        """Keep a damaged checkpoint, but count it no more."""
        for i in range(1000):
            place = self.at(step).with_suffix(f".bad-{i}")
            if not place.exists():
                self.at(step).rename(place)
                return

    def write(self, step: int, content: Content, arrays: Arrays) -> None:
        """All or nothing."""
        place = self.at(step)
        draft = place.with_suffix(".saving")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            stored, about = _packed(arrays)
            _orbax().save(draft.resolve() / "arrays", stored)
            files = {
                file.relative_to(draft).as_posix(): [file.stat().st_size, _file_digest(file)]
                for file in sorted(draft.rglob("*"))
                if file.is_file()
            }
            content = json.loads(json.dumps({**content, "arrays": about, "files": files}))
            manifest = {"kind": KIND, "format": FORMAT, "sha256": _digest(content)}
            with open(draft / "manifest.json", "w") as file:
                json.dump({**manifest, "content": content}, file)
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                self._remove(place)
            draft.rename(place)
            _sync(self.path)
        except Exception as error:  # whatever lies below Orbax raises all kinds
            _discard(draft)
            kept = [s for s in self.steps() if s != step]
            newest = f"the newest is that of step {kept[-1]:,}" if kept else "there are none yet"
            raise CheckpointError(
                f"the checkpoint of step {step:,} could not be saved in {self.path}: "
                f"{_reason(error)}. Checkpoints saved before are untouched ({newest}). Make "
                "room or permit writing there, and go on with resume=True."
            ) from error

    def prune(self, latest: int, best: int) -> None:
        """Keep the latest few and the best few."""
        steps = self.steps()
        keep = set(steps[-latest:])
        if best and len(steps) > latest:
            scores = {step: self._score(step) for step in steps}
            ranked = sorted(
                (s for s in steps if not math.isnan(scores[s])), key=lambda s: scores[s]
            )
            keep |= set(ranked[-best:])
        for step in steps:
            if step not in keep:
                self._remove(self.at(step))

    def _score(self, step: int) -> float:
        try:
            score = self.content(step).get("score")
        except CheckpointError:
            return math.nan
        return math.nan if score is None else float(score)

    def best(self) -> int | None:
        """The step with the highest score."""
        scores = {s: self._score(s) for s in self.steps()}
        known = [s for s in scores if not math.isnan(scores[s])]
        return max(known, key=lambda s: scores[s]) if known else None

    @staticmethod
    def _remove(place: Path) -> None:
        gone = place.with_suffix(".deleting")
        shutil.rmtree(gone, ignore_errors=True)
        place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _discard(folder: Path) -> None:
    """Orbax may have threads that go on writing for a moment after it gave up."""
    for pause in (0.0, 0.05, 0.2, 1.0):
        time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def _packed(arrays: Arrays) -> tuple[Arrays, list[Any]]:
    """What Orbax is to write, and of each array its name, its type and its shape. Arrays are
    numbered, as names of leaves are no names of files; the bytes of all small ones are "small"."""
    about = [[name, x.dtype.name, list(x.shape)] for name, x in arrays.items()]
    small = b"".join(x.tobytes() for x in arrays.values() if x.nbytes < TOGETHER)
    stored = {f"{i:05d}": x for i, x in enumerate(arrays.values()) if x.nbytes >= TOGETHER}
    if small:  # Orbax writes no empty array
        stored["small"] = np.frombuffer(small, np.uint8)
    return stored, about


def _unpacked(stored: Arrays, about: list[Any]) -> Arrays:
    found: Arrays = {}
    begun = 0
    for i, (name, kind, shape) in enumerate(about):
        if f"{i:05d}" in stored:
            found[name] = np.asarray(stored[f"{i:05d}"])
            continue
        dtype = jnp.dtype(kind)
        end = begun + math.prod(shape) * dtype.itemsize
        found[name] = np.asarray(stored["small"])[begun:end].copy().view(dtype).reshape(shape)
        begun = end
    return found


def _orbax() -> Any:
    """Imported when first used: it takes a second."""
    import orbax.checkpoint as orbax

    if not distributed.several():
        return orbax.PyTreeCheckpointer()
    me = distributed.index()  # each process reads for itself, and only one writes
    alone = orbax.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process-{me}"
    )
    handler = orbax.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return orbax.Checkpointer(handler, multiprocessing_options=alone)


def _digest(content: Content) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _file_digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Put a rename on disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip() or type(error).__name__
    code = re.search(r"os_error_code='(\d+)'", text)  # as TensorStore words it, at length
    if code:
        return os.strerror(int(code[1]))
    return text.splitlines()[0][:300]
