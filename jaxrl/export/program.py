"""A policy as a `jax.export` program, for CPUs and for NVIDIA GPUs, in one file.

    program   as `jax.export` serialises it
    about     JSON: spaces, memory, versions
    tail      lengths of both, SHA-256 of everything before it, the mark JAXRLEXP

`jax.export.deserialize` reads the file as it is: it looks at the beginning and not at what follows.
`load_exported` checks the tail first, so that damaged bytes never reach the reader of the program.
Against malice a checksum is no help: a program does what it does. Take policies from strangers as
`save_policy` writes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import __version__, allowed, checks, describe, saved, spaces, tensors
from jaxrl.export import needs
from jaxrl.export.stepper import Memory, compare, start, stepper
from jaxrl.result import Policy
from jaxrl.types import PyTree

KIND, FORMAT = "jaxrl exported policy", 1

PLATFORMS = ("cpu", "cuda")

MARK = b"JAXRLEXP"
TAIL = struct.Struct("<QQ32s8s")


def _package() -> Any:
    if importlib.util.find_spec("flatbuffers") is None:
        raise needs("flatbuffers", "jax")
    from jax import export

    return export


# -------------------------------------------------------------------------------------- writing


def write(policy: Policy, path: Path) -> tuple[float, int]:
    """-> the largest difference from the live policy, and on how many actions."""
    export = _package()
    live = stepper(policy.agent, policy.state, policy.spec)
    (batch,) = export.symbolic_shape("batch")
    obs = _shaped(live.spec.obs_space, batch)
    memory = tuple(jax.ShapeDtypeStruct((batch, *x.shape), x.dtype) for x in live.memory)
    if live.memory:
        function, given = live.step, (obs, memory)
    else:
        function, given = (lambda obs: live.step(obs, ())[0]), (obs,)
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*given)
    about = {
        "kind": KIND,
        "format": FORMAT,
        "obs_space": describe.describe(live.spec.obs_space),
        "action_space": describe.describe(live.spec.action_space),
        "memory": [describe.describe(x) for x in live.memory],
        "agent": type(policy.agent).__name__,
        "versions": {"jaxrl": __version__, "jax": jax.__version__},
    }
    content = pack(bytes(exported.serialize()), json.dumps(about, allow_nan=False).encode())
    again = unpack(content, path)
    found = compare(live, again.call, f"the program for {path}")
    tensors.put(path, content)
    return found


def _shaped(space: spaces.Space, batch: Any) -> PyTree:
    if isinstance(space, spaces.Dict):
        return {name: _shaped(part, batch) for name, part in space.items}
    return jax.ShapeDtypeStruct((batch, *space.shape), space.dtype)


def pack(program: bytes, about: bytes) -> bytes:
    body = program + about
    lengths = struct.pack("<QQ", len(program), len(about))
    return body + lengths + hashlib.sha256(body + lengths).digest() + MARK


# -------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class ExportedPolicy:
    """A program of `run.export`, with the calls of a policy: `policy(obs)`, or `step` for one that
    remembers. It does not explore."""

    exported: Any
    obs_space: spaces.Space
    action_space: spaces.Space
    memory: Memory

    def call(self, obs: PyTree, memory: Memory) -> tuple[jax.Array, Memory]:
        """Of a batch of observations."""
        if not self.memory:
            return self.exported.call(obs), ()
        return self.exported.call(obs, tuple(memory))

    def __call__(self, obs: PyTree) -> jax.Array:
        """The action for one observation, or those of a batch."""
        if self.memory:
            raise TypeError(
                "this policy remembers: write memory = policy.initial_memory() where an episode "
                "begins, and then action, memory = policy.step(obs, memory)."
            )
        return self.step(obs, ())[0]

    def initial_memory(self, num_envs: int | None = None) -> Memory:
        """What `step` is given where an episode begins."""
        memory = start(self.memory, num_envs or 1)
        return tuple(jnp.asarray(x if num_envs else x[0]) for x in memory)

    def step(self, obs: PyTree, memory: Memory) -> tuple[jax.Array, Memory]:
        """-> the action for one observation and what is remembered then, or those of a batch."""
        obs, leading = checks.observation(self.obs_space, obs)
        obs = _typed(self.obs_space, obs)
        if leading:
            return self.call(obs, memory)
        obs, memory = jax.tree.map(lambda x: x[None], (obs, memory))
        return jax.tree.map(lambda x: x[0], self.call(obs, memory))


def _typed(space: spaces.Space, obs: PyTree) -> PyTree:
    """A program takes one type of numbers only."""
    if isinstance(space, spaces.Dict):
        return {name: _typed(part, obs[name]) for name, part in space.items}
    return jnp.asarray(obs, space.dtype)


def load_exported(path: str | Path) -> ExportedPolicy:
    """The program that `run.export(path)` wrote. `jaxrl.FileRefused` says what is wrong with a file
    that is damaged or foreign."""
    _package()
    path = Path(path)
    return unpack(path.read_bytes(), path)


def unpack(content: bytes, where: str | os.PathLike[str]) -> ExportedPolicy:
    body, about = _checked(content, where)
    said = tensors.strict_json(about, where)
    if not isinstance(said, dict) or said.get("kind") != KIND or said.get("format") != FORMAT:
        tensors.refuse(where, f"it is not of format {FORMAT}, which this jaxrl reads")
    try:
        obs_space, action_space = (
            describe.build(said[name], name, allowed.find) for name in ("obs_space", "action_space")
        )
        saved.check_space(obs_space, "obs_space")
        saved.check_space(action_space, "action_space")
        memory = describe.build(said["memory"], "memory", allowed.find)
        memory = tuple(np.asarray(x) for x in memory)
        exported = _package().deserialize(bytearray(body))
        wanted = [(x.shape[1:], x.dtype) for x in jax.tree.leaves(_shaped(obs_space, 1))]
        wanted += [(x.shape, x.dtype) for x in memory]
        given = [(x.shape[1:], x.dtype) for x in exported.in_avals]
    except Exception as error:  # whatever lies below jax.export raises all kinds
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        tensors.refuse(where, f"its program cannot be read ({text})")
    if given != wanted:
        tensors.refuse(where, "its program takes other arrays than its spaces say")
    return ExportedPolicy(exported, obs_space, action_space, memory)


def _checked(content: bytes, where: object) -> tuple[bytes, bytes]:
    """-> program, about, of a file that is as it was written."""
    if len(content) < TAIL.size or content[-len(MARK) :] != MARK:
        tensors.refuse(where, "its end is not that of an export of jaxrl: truncated or foreign")
    program, about, digest, _ = TAIL.unpack(content[-TAIL.size :])
    if program + about + TAIL.size != len(content):
        tensors.refuse(where, f"it has {len(content):,} bytes, and says otherwise: it was damaged")
    covered = content[: -(len(MARK) + len(digest))]
    if hashlib.sha256(covered).digest() != digest:
        tensors.refuse(where, "it does not have its checksum: it was damaged or changed")
    return content[:program], content[program : program + about]


__all__ = ["ExportedPolicy", "load_exported", "pack", "unpack", "write"]
