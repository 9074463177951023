"""What of a run is saved, when, and whether a saved run is the one that is asked for.

`train` opens a `Keeper` when it is given `checkpoint=`, starts from its `past`, and shows it the
run after every chunk. Arrays are copied to the host there and then; a thread writes them while the
run goes on. Lanes are saved without padding, so the number of devices may change.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import platform
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import __version__, describe, distributed, guard, lanes, rollout
from jaxrl.checkpoint import Arrays, CheckpointError, Checkpoints, Content, Folder
from jaxrl.interrupt import Interrupts
from jaxrl.lock import Lock, Locked
from jaxrl.types import Key, PyTree

if TYPE_CHECKING:
    from jaxrl.train import Plan, Run

SAVES = 10
"""Checkpoints of a run, unless `every` says otherwise."""

FIXED = ("log_every", "evaluate_every", "evaluate_episodes", "reset_every")
"""Arguments of `train` that must stay what they were: curves and random numbers depend on them."""

SPACING = ("per_point", "evaluate_points")
"""The spacing of the curves, which stays when a run is made longer."""


@dataclasses.dataclass
class Past:
    """A run as it was saved."""

    run: Run
    metrics: dict[str, Any]  # of the points that were made
    ends: np.ndarray[Any, Any]  # the iterations with which they ended


# --------------------------------------------------------------------------- arrays <-> pytrees


def _nodes(run: PyTree) -> list[tuple[str, Any, bool]]:
    """(name, leaf, whether it is a counter) of every array."""
    nodes = jax.tree_util.tree_leaves_with_path(run, is_leaf=lanes.is_counter)
    return [
        (f"run{jax.tree_util.keystr(path)}", x.value if counter else x, counter)
        for path, x in nodes
        for counter in [lanes.is_counter(x)]
    ]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _host(x: jax.Array, count: int | None) -> np.ndarray[Any, Any]:
    """A copy, of the first `count` lanes: the array itself is about to be given away (donated) to
    the next chunk."""
    host = distributed.fetch(jax.random.key_data(x) if _is_key(x) else x)
    return np.array(host if count is None else host[:count])


def _env_axis(name: str) -> int | None:
    """Where the environments are in an array of this name; None where it has none."""
    streams = re.match(r"run\.streams\.(\w+)", name)
    return rollout.ENV_AXES[streams[1]] if streams else None


def flatten(run: Run, metrics: dict[str, Any], ends: np.ndarray[Any, Any], plan: Plan) -> Arrays:
    """Everything by name. Empty arrays are left out: their shape says it all."""
    count = None if plan.lanes is None else plan.lanes.count
    arrays = {name: _host(x, None if counter else count) for name, x, counter in _nodes(run)}
    arrays |= {f"metrics.{name}": np.asarray(row) for name, row in metrics.items()}
    arrays["ends"] = ends
    return {name: x for name, x in arrays.items() if x.size}


def restore(arrays: Arrays, shapes: Run, plan: Plan, where: str) -> Past:
    """The run that `flatten` took apart, laid out for the devices of now."""
    placed: list[Any] = []
    own = lanes.Placement(plan.lanes, plan.envs)
    count = None if plan.lanes is None else plan.lanes.count
    for name, leaf, counter in _nodes(shapes):
        data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        shape = data.shape
        if count is not None and not counter:
            shape = (count, *shape[1:])
        x = arrays.get(name)
        if x is None and (0 in shape or name.startswith("run.health")):  # not guarded until now
            x = np.full(shape, -1 if name == "run.health.since" else 0, data.dtype)
        if x is None or x.shape != shape or x.dtype != data.dtype:
            saved = "nothing" if x is None else f"{x.dtype}{list(x.shape)}"
            raise CheckpointError(
                f"{where} is not of this agent and environment as they are now: {name} should be "
                f"{data.dtype}{list(shape)}, saved is {saved}. Was their code changed since?"
            )
        x = own.put(x, counter, _env_axis(name))
        placed.append(_wrap(x, leaf) if _is_key(leaf) else x)
    run = jax.tree.unflatten(jax.tree.structure(shapes), placed)
    if run.health is not None and "run.health.since" not in arrays:
        flat = guard.flat if count is None else jax.vmap(guard.flat, (lanes.axes(run.state),))
        health = dataclasses.replace(run.health, good=flat(run.state))
        run = dataclasses.replace(run, health=health)
    prefix = "metrics."
    metrics = {k[len(prefix) :]: jnp.array(x) for k, x in arrays.items() if k.startswith(prefix)}
    return Past(run, metrics, arrays.get("ends", np.zeros(0, int)))


def _wrap(data: jax.Array, leaf: Any) -> Key:
    for key in (jax.random.key(0, impl=name) for name in ("threefry2x32", "rbg", "unsafe_rbg")):
        for known in (key, _unrolled(key)):
            if known.dtype == leaf.dtype:
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(known))
    raise CheckpointError(f"random keys of type {leaf.dtype} cannot be read.")


def _unrolled(key: Key) -> Key:
    from jaxrl import random

    return random.unrolled(key)


def described(value: Any) -> Content:
    return json.loads(json.dumps(describe.describe(value)))


def save_key(key: Key) -> Content:
    """A key, or one per run, as it was given."""
    impl = str(jax.random.key_impl(key))
    impl = (
        "threefry2x32" if impl == str(jax.random.key_impl(_unrolled(jax.random.key(0)))) else impl
    )
    return {"impl": impl, "data": described(np.asarray(jax.random.key_data(key)))}


def load_key(saved: Content) -> Key:
    return jax.random.wrap_key_data(describe.build(saved["data"], "key"), impl=saved["impl"])


def versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    libraries = {name: metadata.version(name) for name in names}
    return {"jaxrl": __version__, **libraries, "python": platform.python_version()}


# ----------------------------------------------------------------------------------- comparing


def refuse_other(content: Content, given: Content, where: str) -> None:
    """A run is continued with the configuration it was begun with."""
    found = [
        f"{at} was {ours}, given is {theirs}"
        for part in ("agent", "env")
        for at, ours, theirs in describe.differences(content[part], given[part], part)
    ]
    found += [
        f"{name} was {content['call'][name]}, given is {given['call'][name]}"
        for name in FIXED
        if content["call"][name] != given["call"][name]
    ]
    saved, key = content["key"], given["key"]
    shapes = [x["data"]["shape"] for x in (saved, key)]
    if shapes[0] != shapes[1]:
        runs = ["one run" if len(s) == 1 else f"{s[0]} runs" for s in shapes]
        found.append(f"it was begun with the keys of {runs[0]}, given are those of {runs[1]}")
    elif saved != key:
        found.append("key was another one")
    if found:
        raise ValueError(
            f"{where} is another run: {'; '.join(found[:8])}. Give what it was begun with "
            "(jaxrl.resume does so by itself), or save this run in another folder."
        )


# -------------------------------------------------------------------------------------- keeping


class Keeper:
    """Saves one call of `train`: `content` says what it was given, `shapes` gives the form of its
    runs. `plan` and `past` are what to go on with."""

    def __init__(
        self,
        options: Checkpoints,
        resume: bool | str,
        content: Content,
        plan: Plan,
        shapes: Callable[[Plan], Run],
        per_iteration: int,
    ) -> None:
        self.options, self.content, self.per_iteration = options, content, per_iteration
        self.folder = Folder(options.path)
        self.plan, self.past = plan, None
        self.lock = Lock(self.folder.run)
        try:
            step = distributed.by_first(lambda: self._choose(resume))
            if step is not None:
                self.plan, self.past = distributed.together(lambda: self._read(step, plan, shapes))
            distributed.by_first(self.folder.clean)
        except BaseException:
            self.lock.release()
            raise
        every = content["call"]["every"] or content["call"]["steps"] / SAVES
        self.points = max(1, round(every / per_iteration / self.plan.per_point))
        self.interrupts = Interrupts()
        self._saved = -1  # points at the last save
        self._pool = ThreadPoolExecutor(1, "jaxrl-checkpoint")
        self._writing: Future[None] | None = None

    def _choose(self, resume: bool | str) -> int | None:
        """Of the process that writes: the checkpoint to go on from."""
        self.folder.open()
        _locked(self.lock.take)
        return choose(self.folder, resume)

    def _read(self, step: int, plan: Plan, shapes: Callable[[Plan], Run]) -> tuple[Plan, Past]:
        where = str(self.folder.at(step))
        try:
            content = self.folder.content(step)
            refuse_other(content, self.content, where)
            content, arrays = self.folder.read(step)
        except CheckpointError as error:
            raise CheckpointError(
                f'{error} Write resume="newest good" to go on from the newest one that is whole.'
            ) from error
        steps, iteration = self.content["call"]["steps"], content["iteration"]
        if plan.iterations < iteration:
            raise ValueError(
                f"steps={steps:_} is less than the {content['step']:_} that {self.folder} has made "
                f"already: write steps={content['call']['steps']:_} to finish that run, or more to "
                "make it longer."
            )
        plan = dataclasses.replace(plan, **content["plan"])
        return plan, restore(arrays, shapes(plan), plan, where)

    def __enter__(self) -> Keeper:
        self.interrupts.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)
            _trim()
            self.lock.release()
            self.interrupts.__exit__()
        if kind is None:
            self.interrupts.obey()  # asked for while the last save was written

    def wait(self) -> None:
        """Until the last save is on disk; raises what went wrong with it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def after(self, run: Run, rows: list[dict[str, Any]], ends: np.ndarray[Any, Any]) -> None:
        """A chunk is over, `ends` are all points made: save when it is due, leave when asked to."""
        distributed.by_first(self._look)
        made, asked = len(ends), self._asked()
        over = ends[-1] == self.plan.iterations
        if made > self._saved and (over or asked or made % self.points == 0):
            distributed.by_first(self.wait)
            metrics = {k: np.concatenate([row[k] for row in rows], -1) for k in rows[0]}
            arrays = flatten(run, metrics, ends, self.plan)
            iteration = int(ends[-1])
            step = iteration * self.per_iteration
            content = {
                **self.content,
                "plan": {name: getattr(self.plan, name) for name in SPACING},
                "step": step,
                "iteration": iteration,
                "score": self._score(metrics),
                "versions": versions(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            self._saved = made
            if distributed.first():
                self._writing = self._pool.submit(self._write, step, content, arrays)
        if asked:
            distributed.by_first(self.wait)
            if distributed.first():
                print(self._how_to_continue(int(ends[-1])), file=sys.stderr, flush=True)
            self.interrupts.obey()

    def _look(self) -> None:
        """What went wrong is said soon, not at the next save."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def _asked(self) -> signal.Signals | None:
        """The signal that this process got, or else another one."""
        if not distributed.several():
            return self.interrupts.asked
        asked = int(distributed.exchange(int(self.interrupts.asked or 0)).max())
        if asked and self.interrupts.asked is None:
            self.interrupts.asked = signal.Signals(asked)
        return self.interrupts.asked

    def _write(self, step: int, content: Content, arrays: Arrays) -> None:
        _locked(self.lock.check)
        self.folder.write(step, content, arrays)
        self.folder.prune(self.options.latest, self.options.best)

    def _score(self, metrics: dict[str, Any]) -> float | None:
        """The last value that exists, averaged over the runs that have one."""
        name, sign = self.options.metric, 1.0
        if name is None:
            name = "evaluate/return" if self.plan.evaluate_points else "episode/return"
            if name not in metrics:  # learning from a dataset: the smaller the better
                name, sign = "loss/total", -1.0
        if name not in metrics:
            raise ValueError(
                f"Checkpoints(metric={name!r}): there is no such metric; write one of "
                f"{', '.join(sorted(metrics))}."
            )
        last = [row[~np.isnan(row)][-1:] for row in np.atleast_2d(metrics[name])]
        known = np.concatenate(last)
        return sign * float(known.mean()) if known.size else None

    def _how_to_continue(self, iteration: int) -> str:
        path, call = str(self.folder), self.content["call"]
        step, steps = iteration * self.per_iteration, call["steps"]
        text = f"Saved after {step:,} of {steps:,} steps. To continue:\n\n"
        if rebuildable(self.content):
            return text + f"    jaxrl.resume({path!r})\n"
        others = "".join(f", {name}={call[name]!r}" for name in FIXED if call[name] is not None)
        return text + (
            f"    jaxrl.train(agent, env, key, steps={steps}{others}, checkpoint={path!r}, "
            "resume=True)\n"
        )


def _trim() -> None:
    """Give freed memory back to the system. Orbax saves in many threads; the C library keeps what
    each of them freed for others that may come, and a long-lived process would seem to grow."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _locked(ask: Callable[[], None]) -> None:
    try:
        ask()
    except Locked as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(
            f"the lock of the folder: {error.strerror} ({error.filename})."
        ) from error


def rebuildable(content: Content) -> bool:
    """Whether another process can build agent and environment from the file alone."""
    parts = (content["agent"], content["env"])
    unnamed = any(True for part in parts for _ in describe.opaque(part, ""))
    return not unnamed and "__main__:" not in str(parts)


def choose(folder: Folder, resume: bool | str) -> int | None:
    """The step to go on from, None to start afresh."""
    steps = folder.steps()
    if not steps:
        return None
    if resume is False:
        raise ValueError(
            f"{folder} holds checkpoints up to step {steps[-1]:,} already: write resume=True to go "
            "on with that run, or give checkpoint= another folder."
        )
    if resume is True:
        return steps[-1]
    good, bad = folder.newest_good()
    if good is None:
        raise CheckpointError(
            f"none of the {len(steps)} checkpoints in {folder} is whole. The newest: "
            f"{bad[steps[-1]]}"
        )
    for step, why in bad.items():
        folder.set_aside(step)
        warnings.warn(f"{why} Going on from step {good:,}.", RuntimeWarning, stacklevel=5)
    return good
