"""Going on with a saved run, or looking at it, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxrl import describe, keeper
from jaxrl.checkpoint import CheckpointError, Checkpoints, Content, Folder
from jaxrl.mesh import Mesh
from jaxrl.result import Result
from jaxrl.train import restored, train
from jaxrl.types import Agent, Env


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    agent: Agent | None = None,
    env: Env | None = None,
    progress: bool | None = None,
    newest_good: bool = False,
    log: Any = None,
    mesh: Mesh | None = None,
) -> Result:
    """Continue the run saved in `path` (the folder given as `checkpoint=`) to its end.

    Agent, environment, keys and all arguments of `train` come from the checkpoint. `agent` and
    `env` are needed only where they cannot be built by name: classes or functions defined in a
    script, lambdas. `steps` makes the run longer or shorter. `newest_good=True` passes over damaged
    checkpoints. A run that is finished comes back at once. The metrics in the folder go on; `log`
    names other places for them, as in `train`. `mesh` lays out the devices of now, not those of
    then.
    """
    folder = _folder(path)
    content = _content(folder, newest_good)
    call = dict(content["call"])
    kept = {name: call.pop(name) for name in ("latest", "best", "metric")}
    if steps is not None:
        call["steps"] = steps
    return train(
        _built(content, "agent", agent, folder),
        _built(content, "env", env, folder),
        keeper.load_key(content["key"]),
        progress=progress,
        checkpoint=Checkpoints(path, **kept),
        resume="newest good" if newest_good else True,
        log=log,
        mesh=mesh,
        **call,
    )


def restore(
    path: str | Path,
    step: int | str = "newest",
    *,
    agent: Agent | None = None,
    env: Env | None = None,
) -> Result:
    """The result as it was at one checkpoint, without going on: `step` is "newest", "best" or a
    number of environment steps."""
    folder = _folder(path)
    steps = folder.steps()
    chosen = {"newest": steps[-1], "best": folder.best()}.get(str(step), step)
    if chosen not in steps:
        raise ValueError(
            f'step={step!r} is not saved in {folder}: give "newest", "best" or one of '
            f"{', '.join(f'{s:_}' for s in steps)}."
        )
    content, arrays = folder.read(int(chosen))
    return restored(
        _built(content, "agent", agent, folder),
        _built(content, "env", env, folder),
        keeper.load_key(content["key"]),
        content,
        lambda shapes, plan: keeper.restore(arrays, shapes, plan, str(folder.at(int(chosen)))),
    )


def _folder(path: str | Path) -> Folder:
    folder = Folder(path)
    if not folder.steps():
        raise CheckpointError(
            f"{folder} holds no checkpoints: give the folder that was given to jaxrl.train as "
            "checkpoint=."
        )
    return folder


def _content(folder: Folder, newest_good: bool) -> Content:
    step: int | None = folder.steps()[-1]
    if newest_good:
        step = folder.newest_good()[0] or step
    try:
        return folder.content(step)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Write newest_good=True to go on from the newest one that is whole."
        ) from error


def _built(content: Content, part: str, given: Any, folder: Folder) -> Any:
    if given is not None:
        return given
    try:
        return describe.build(content[part], part)
    except describe.NotDescribed as error:
        raise CheckpointError(
            f"the {part} of {folder} cannot be built from the checkpoint: {error}. Give it: "
            f"{part}=..., with the settings it was trained with."
        ) from error
