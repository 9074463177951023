"""A model as one file: a zip of JSON that says what it is, and of its arrays. Nothing in it is ever
run: no pickle, and only names of classes that a description may have (see `jaxrl.describe`)."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl import __version__, describe
from jaxrl.types import PyTree, Spec

KIND, FORMAT = "jaxrl sb3 model", 1


def _path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".zip" else path.with_name(path.name + ".zip")


def _learned(state: Any) -> list[tuple[str, Any]]:
    """The arrays by name, without a replay."""
    if getattr(state, "replay", None) is not None:
        state = dataclasses.replace(state, replay=None)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path), x) for path, x in leaves]


def save(
    path: str | Path, kind: str, agent: Any, spec: Spec, state: PyTree, content: dict[str, Any]
) -> None:
    said = {"agent": describe.describe(agent), "spec": describe.describe(spec)}
    for part, described in said.items():
        for where, what in describe.opaque(described, part):
            raise ValueError(
                f"{where} is {what}, which has no name to read it by: use a function that is "
                "defined in a module, not a lambda, to save this model."
            )
    head = {"kind": KIND, "format": FORMAT, "model": kind, "version": __version__}
    arrays = _learned(state)
    head |= {**said, **content, "arrays": [name for name, _ in arrays]}
    with zipfile.ZipFile(_path(path), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.json", json.dumps(head, indent=1))
        for i, (_, x) in enumerate(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asarray(x), allow_pickle=False)
            file.writestr(f"{i}.npy", data.getvalue())


def load(path: str | Path, kind: str) -> tuple[Any, Spec, PyTree, dict[str, Any]]:
    """-> agent, spec, state (with an empty replay, where it has one), and what else was said."""
    file = _path(path)
    try:
        with zipfile.ZipFile(file) as opened:
            head = json.loads(opened.read("model.json"))
            if head["kind"] != KIND:
                raise KeyError("kind")
            arrays = {
                name: np.lib.format.read_array(
                    io.BytesIO(opened.read(f"{i}.npy")), allow_pickle=False
                )
                for i, name in enumerate(head["arrays"])
            }
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{file} is no model of jaxrl.sb3, or it is damaged ({type(error).__name__}: {error}). "
            "Files of Stable-Baselines3 itself cannot be read."
        ) from error
    if head["model"] != kind:
        raise ValueError(f"{file} holds a {head['model']}: write {head['model']}.load(...).")
    try:
        agent, spec = describe.build(head["agent"], "agent"), describe.build(head["spec"], "spec")
        state = agent.init(jax.random.key(0), spec)
    except describe.NotDescribed as error:
        raise ValueError(f"{file} cannot be read: {error}.") from error
    buffer = getattr(state, "replay", None)
    leaves = []
    for name, x in _learned(state):
        saved = arrays.get(name)
        if saved is None or saved.shape != x.shape or saved.dtype != x.dtype:
            raise ValueError(
                f"{file} is not of this version: {name} should be {x.shape} {x.dtype}."
            )
        leaves.append(jax.numpy.asarray(saved))
    if buffer is not None:
        state = dataclasses.replace(state, replay=None)
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    if buffer is not None:
        state = dataclasses.replace(state, replay=buffer)
    return agent, spec, state, head
