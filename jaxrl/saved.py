"""A policy as one file: what acting needs, and nothing else.

The file has the safetensors format (see `jaxrl.tensors`): the parameters that `act` reads, under
their names, and in the metadata under "jaxrl" a JSON text with the agent's configuration and the
spaces. One file, because two beside one another get separated, or paired with those of another
run. Replay, optimiser, targets and critics are left out.

Reading a file from a stranger is safe: it is arrays and JSON with a checksum, it may name only
what `jaxrl.allowed` lists, and what does not fit together is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import __version__, acting, allowed, checks, describe, lanes, spaces, tensors
from jaxrl.result import Policy
from jaxrl.tensors import Array, FileRefused
from jaxrl.types import MAX_COUNT, Agent, Counter, Spec

KIND, FORMAT = "jaxrl policy", 1

Content = dict[str, Any]


# -------------------------------------------------------------------------------------- writing


def save(policy: Policy, path: str | Path) -> Path:
    """Write `policy` to the file `path`, which `load_policy` reads. -> the path"""
    return tensors.put(path, packed(policy))


def packed(policy: Policy) -> bytes:
    """The file's bytes."""
    stripped = acting.strip(policy.agent, policy.state, policy.spec)
    content = {
        "kind": KIND,
        "format": FORMAT,
        "agent": describe.describe(policy.agent),
        "spec": describe.describe(policy.spec),
        "versions": {"jaxrl": __version__, "jax": jax.__version__},
    }
    arrays = {name: np.asarray(x) for name, x in _named(stripped)}
    return tensors.pack(arrays, {"format": "jax", "jaxrl": json.dumps(content, allow_nan=False)})


def _named(state: Any) -> list[tuple[str, Any]]:
    """The arrays of a state by their names: `inner.params.actor.params.Dense_0.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in leaves]


# -------------------------------------------------------------------------------------- reading


def load_policy(path: str | Path, *, agent: Agent | None = None) -> Policy:
    """The policy that `save_policy` wrote to `path`: it acts as the one that was saved.

    `agent` is needed only where the agent cannot be built by the names in the file: classes and
    functions of your own. It must have the settings that the policy was trained with.
    `jaxrl.FileRefused` says what is wrong with a file that is damaged or foreign.
    """
    path = Path(path)
    return unpacked(path.read_bytes(), path, agent)


def unpacked(file: bytes, path: Path, agent: Any = None) -> Policy:
    """The policy in a file's bytes; `path` is what errors call the file."""
    arrays, metadata = tensors.unpack(file, path)
    content = _content(metadata, path)
    try:
        spec = describe.build(content["spec"], "spec", allowed.find)
        check_spec(spec)
    except ValueError as error:
        tensors.refuse(path, f"what it says of its spaces is wrong ({_short(error)})")
    agent = _agent(content["agent"], agent, path)
    try:
        shapes = jax.eval_shape(lambda key: agent.init(key, spec), jax.random.key(0))
        wanted = acting.strip(agent, shapes, spec)
    except Exception as error:  # an agent may refuse its settings in any way
        tensors.refuse(path, f"its agent and spaces do not fit together ({_short(error)})")
    return Policy(agent, _filled(wanted, arrays, path), spec)


def _content(metadata: dict[str, str], path: Path) -> Content:
    if "jaxrl" not in metadata:
        tensors.refuse(path, 'it has no "jaxrl" in its metadata: it is no policy of jaxrl')
    content = tensors.strict_json(metadata["jaxrl"], path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        tensors.refuse(path, "it is no policy of jaxrl")
    if content.get("format") != FORMAT:
        tensors.refuse(
            path,
            f"it has format {str(content.get('format'))[:20]}, and this jaxrl ({__version__}) "
            f"reads format {FORMAT}",
        )
    missing = [name for name in ("agent", "spec") if name not in content]
    if missing:
        tensors.refuse(path, f"it does not say its {missing[0]}")
    return content


def _agent(said: Any, given: Any, path: Path) -> Any:
    if given is not None:
        other = list(describe.differences(said, _plain(given), "agent"))
        if other:
            at, saved, now = other[0]
            raise ValueError(
                f"{path} is the policy of another agent: {at} was {saved}, given is {now}. Give "
                "the settings it was trained with."
            )
        return given
    try:
        agent = describe.build(said, "agent", allowed.find)
    except describe.NotDescribed as error:
        raise FileRefused(
            f"{path} cannot be used: its agent cannot be built ({_short(error)}). If it is yours, "
            "give the agent with the settings it was trained with: load_policy(path, agent=...)."
        ) from error
    if not dataclasses.is_dataclass(agent) or not hasattr(agent, "act"):
        tensors.refuse(path, f"its agent is {type(agent).__name__}, which does not act")
    try:
        checks.hyperparameters(agent)
    except (ValueError, TypeError) as error:
        tensors.refuse(path, f"its agent has impossible settings ({_short(error)})")
    return agent


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(describe.describe(value)))


def _filled(wanted: Any, arrays: dict[str, Array], path: Path) -> Any:
    """`wanted` with the arrays in the place of their shapes."""
    named = _named(wanted)
    names = {name for name, _ in named}
    for what, odd in (("lacks", names - set(arrays)), ("has also", set(arrays) - names)):
        if odd:
            tensors.refuse(
                path, f"its agent needs other tensors: it {what} {', '.join(sorted(odd)[:4])}"
            )
    for name, leaf in named:
        x = arrays[name]
        if x.shape != leaf.shape or x.dtype != leaf.dtype:
            tensors.refuse(
                path,
                f"tensor {name!r} is {x.dtype}{list(x.shape)}, its agent needs "
                f"{leaf.dtype}{list(leaf.shape)}",
            )
    state = jax.tree.unflatten(
        jax.tree.structure(wanted), [jnp.asarray(arrays[n]) for n, _ in named]
    )
    for node in jax.tree.leaves(state, is_leaf=lanes.is_counter):
        if isinstance(node, Counter) and not 0 <= int(node.value) <= MAX_COUNT:
            tensors.refuse(path, f"it counts {int(node.value)} steps")
    return state


def check_spec(spec: Any) -> None:
    """Refuse what a file says of the spaces, where it cannot be."""
    if not isinstance(spec, Spec):
        raise FileRefused(f"{str(spec)[:40]!r} is no Spec")
    for name in ("obs_space", "action_space"):
        check_space(getattr(spec, name), name)
    if spec.time_limit is not None and not _count(spec.time_limit):
        raise FileRefused(f"time_limit={str(spec.time_limit)[:40]}")
    if spec.steps != 0 and not _count(spec.steps):
        raise FileRefused(f"steps={str(spec.steps)[:40]}")


def _count(x: Any) -> bool:
    return type(x) is int and 0 < x < 2**63


def check_space(space: Any, at: str) -> None:
    match space:
        case spaces.Discrete(n) if _count(n) and n < 2**31:
            return
        case spaces.MultiDiscrete(nvec) if isinstance(nvec, tuple):
            if nvec and all(_count(n) and n < 2**31 for n in nvec):
                return
        case spaces.Box():
            return _check_box(space, at)
        case spaces.Dict(items) if isinstance(items, tuple):
            for item in items:
                if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
                    raise FileRefused(f"{at} has {str(item)[:40]} among its parts")
                check_space(item[1], f"{at}.{item[0]}")
            if len(dict(items)) == len(items) > 0:
                return
        case _:
            pass
    raise FileRefused(f"{at} is {str(space)[:60]}")


def _check_box(space: spaces.Box, at: str) -> None:
    def bad(name: str) -> NoReturn:
        raise FileRefused(f"{at} has {name} {str(getattr(space, name))[:60]!r}")

    given: Any = space  # the file's words, not what the class promises
    if not isinstance(given.dtype, np.dtype) or given.dtype.kind not in "fiub":
        bad("dtype")
    shape = given.shape
    if (
        not isinstance(shape, tuple)
        or len(shape) > 8
        or not all(_count(n) or n == 0 for n in shape)
    ):
        bad("shape")
    if math.prod(shape) >= 2**31:
        bad("shape")
    for name in ("low", "high"):
        try:
            bound = np.asarray(getattr(given, name), np.float64)
            np.broadcast_to(bound, shape)
        except (ValueError, TypeError):
            bad(name)
        if np.isnan(bound).any():
            bad(name)


def _short(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
