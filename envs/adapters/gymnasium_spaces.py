"""Gymnasium's spaces and ours, and what is sent between them.

Observations become arrays whose types the device has: floats are float32, integers that need more
than 32 bits are refused. A Discrete that starts elsewhere is counted from 0 here and shifted on its
way. MultiBinary is a bool Box, and a MultiDiscrete as an action; a Tuple is a Dict with the names
"0", "1", ...
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces as theirs

from jaxrl import spaces as ours
from jaxrl.types import PyTree

Array: TypeAlias = np.ndarray[Any, Any]

HUGE = 3e38
"""Bounds beyond are infinite in float32, and meant so."""

INT32 = np.iinfo(np.int32)


def _refuse(space: Any, why: str) -> TypeError:
    return TypeError(
        f"the Gymnasium space {space} {why}: wrap the environment first, for instance in "
        "gymnasium.wrappers.TransformObservation, TransformAction or FlattenObservation."
    )


def convert(space: Any) -> ours.Space:
    """The space of an observation, as one of ours."""
    match space:
        case theirs.Discrete():
            return ours.Discrete(int(space.n))
        case theirs.MultiDiscrete():
            return ours.MultiDiscrete(tuple(int(n) for n in np.ravel(space.nvec)))
        case theirs.MultiBinary():
            return ours.Box(0, 1, space.shape, np.bool_)
        case theirs.Box():
            return _convert_box(space)
        case theirs.Dict():
            return ours.Dict({name: convert(part) for name, part in space.spaces.items()})
        case theirs.Tuple():
            return ours.Dict({str(i): convert(part) for i, part in enumerate(space.spaces)})
        case _:
            raise _refuse(space, "has no counterpart here")


def _convert_box(space: theirs.Box) -> ours.Box:
    kind: Any = np.dtype(space.dtype)
    if kind.kind == "f":
        low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
        low = np.where(low <= -HUGE, -np.inf, low)
        high = np.where(high >= HUGE, np.inf, high)
        return ours.Box(low, high, space.shape, np.float32)
    if kind.kind in "iu" and kind.itemsize > 4 or kind == np.uint32:
        if np.any(space.low < INT32.min) or np.any(space.high > INT32.max):
            raise _refuse(space, "holds integers of more than 32 bits")
        kind = np.dtype(np.int32)
    if kind.kind not in "iub":
        raise _refuse(space, f"holds {kind}")
    return ours.Box(space.low, space.high, space.shape, kind)


def convert_action(space: Any) -> ours.Space:
    """The space of an action."""
    match space:
        case theirs.MultiBinary():
            return ours.MultiDiscrete((2,) * int(np.prod(space.shape)))
        case theirs.Box() if np.dtype(space.dtype).kind != "f":
            raise _refuse(space, "is a Box of integers as an action, which no agent chooses")
        case theirs.Discrete() | theirs.MultiDiscrete() | theirs.Box():
            return convert(space)
        case _:
            raise _refuse(space, "is no action that an agent here chooses")


def back(space: ours.Space, action: bool = False) -> Any:
    """One of our spaces as Gymnasium's."""
    match space:
        case ours.Discrete(n):
            return theirs.Discrete(n)
        case ours.MultiDiscrete(nvec):
            return theirs.MultiDiscrete(list(nvec))
        case ours.Box() if space.dtype == np.bool_:
            return theirs.MultiBinary(list(space.shape))
        case ours.Box():
            low, high = (
                np.broadcast_to(np.asarray(x, np.float64), space.shape)
                for x in (space.low, space.high)
            )
            kind: Any = space.dtype
            return theirs.Box(low.astype(kind), high.astype(kind), space.shape, kind)
        case ours.Dict():
            return theirs.Dict({name: back(part) for name, part in space.items})


def sent(space: ours.Space, obs: PyTree) -> PyTree:
    """An observation of ours as an element of `back(space)`; leading axes are kept."""
    match space:
        case ours.Dict():
            return {name: sent(part, obs[name]) for name, part in space.items}
        case ours.Discrete() | ours.MultiDiscrete():
            return np.asarray(obs, np.int64)
        case _:
            kind = np.int8 if space.dtype == np.bool_ else space.dtype
            return np.array(obs, kind)  # a copy: what lies on the device is read-only


# ----------------------------------------------------------------------------------- observations


def blank(space: Any, count: int) -> PyTree:
    """Room for the observations of `count` environments, all zero."""
    return _zeros(convert(space), count)


def _zeros(space: ours.Space, count: int) -> PyTree:
    if isinstance(space, ours.Dict):
        return {name: _zeros(part, count) for name, part in space.items}
    return np.zeros((count, *space.shape), space.dtype)


def write(space: Any, rows: PyTree, i: int, obs: Any) -> None:
    """Put the observation of one environment into row `i`."""
    match space:
        case theirs.Box() | theirs.MultiBinary():
            rows[i] = obs
        case theirs.Discrete():
            rows[i] = obs - space.start
        case theirs.MultiDiscrete():
            rows[i] = np.ravel(obs - space.start)
        case theirs.Dict():
            for name, part in space.spaces.items():
                write(part, rows[name], i, obs[name])
        case _:
            for j, part in enumerate(space.spaces):
                write(part, rows[str(j)], i, obs[j])


def received(space: Any, obs: Any) -> PyTree:
    """A batch of observations [N, ...] as ours; always a copy. `space` is that of one."""
    match space:
        case theirs.Dict():
            return {name: received(part, obs[name]) for name, part in space.spaces.items()}
        case theirs.Tuple():
            return {str(i): received(part, obs[i]) for i, part in enumerate(space.spaces)}
        case theirs.Discrete():
            return np.array(obs - space.start, np.int32)
        case theirs.MultiDiscrete():
            return np.array(obs - space.start, np.int32).reshape(len(obs), -1)
        case _:
            kind = convert(space).dtype  # pyright: ignore
            return np.array(obs, kind)


# ---------------------------------------------------------------------------------------- actions


def actions(space: Any, action: Array) -> Any:
    """Actions [N, ...] of ours as a batch for a vector environment; `space` is that of one."""
    match space:
        case theirs.Discrete():
            return action.astype(space.dtype) + space.start
        case theirs.MultiDiscrete():
            shaped = action.astype(space.dtype).reshape(len(action), *space.nvec.shape)
            return shaped + space.start
        case theirs.MultiBinary():
            return action.astype(np.int8).reshape(len(action), *space.shape)
        case _:
            return action.astype(space.dtype)


def one_by_one(space: Any, action: Array) -> list[Any]:
    """The same for environments that are stepped one after another."""
    batch = actions(space, action)
    # A Python number is what such an environment is given by hand, and the cheapest to step with.
    return batch.tolist() if isinstance(space, theirs.Discrete) else list(batch)
