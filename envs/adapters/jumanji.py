"""Jumanji (extra `suites`): `jaxrl.envs.make("jumanji/Snake-v1")`.

*Ends.* Jumanji reports most of its time limits as terminations (discount 0). Here the library's own
limit is put one step out of reach, and `max_steps`, by default the same number, truncates. Only
SearchAndRescue keeps its own: its rewards count down to the limit and it shows the time, so the
limit is part of that task.

*Observations* are named parts. One part is a Box; several are a Dict, nested names with a dot
("ems.x1"). The action mask stands beside them as `action_mask`. `observe=("grid", ...)` selects
parts; by default all but `step_count`, which tells only how far the time limit is.

*Actions* of several parts are a MultiDiscrete, with one mask for each part. Where Jumanji masks
whole combinations (BinPack, FlatPack, Minesweeper, Sudoku, Tetris) they are one Discrete with as
many actions as combinations, in row-major order. Arrays of real numbers are one vector.

*Several agents* (Cleaner, Connector, LevelBasedForaging, MMST, MultiCVRP, RobotWarehouse,
SearchAndRescue) are played by one controller. Rewards per agent become one number by `team`, a sum.
Other options go to the constructor: `num_rows`, `generator`, `reward_fn`, ...
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks, spaces
from jaxrl.envs.adapters import box, check_name, library, once, settled
from jaxrl.envs.adapters import recipe as recall
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step

MASK, TIME = "action_mask", "step_count"

COUNT_DOWN = ("SearchAndRescue-v0",)
"""Tasks whose rewards depend on the time that is left."""


@struct
class Jumanji:
    """A Jumanji environment. The state holds its own random key."""

    env: Any = static("the Jumanji environment, compared by identity")
    observe: tuple[str, ...] = static("parts of the observation that are shown")
    obs_space: spaces.Space = static("what it shows")
    action_space: spaces.Space = static("what it takes")
    team: Callable[[jax.Array], jax.Array] = static("rewards of all agents -> one", default=jnp.sum)

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        found = recall(_made, self.env, "jumanji")
        return found and (found[0], found[1] | {"observe": self.observe, "team": self.team})

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        state, timestep = self.env.reset(jax.random.key_data(key))
        return settled(state), self._seen(timestep.observation)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        del key
        state, timestep = self.env.step(state, self._theirs(action))
        reward = self.team(jnp.asarray(timestep.reward, jnp.float32)).reshape(())
        goes_on = jnp.any(jnp.asarray(timestep.discount) > 0)
        last = jnp.asarray(timestep.last(), bool)
        return settled(state), Step(
            self._seen(timestep.observation), reward, last & ~goes_on, last & goes_on
        )

    def _theirs(self, action: jax.Array) -> jax.Array:
        """The action as Jumanji takes it."""
        spec = self.env.action_spec
        if isinstance(self.action_space, spaces.Discrete) and spec.shape:
            action = jnp.stack(jnp.unravel_index(action, _counts(spec)))
        return jnp.asarray(action, spec.dtype).reshape(spec.shape)

    def _seen(self, observation: Any) -> PyTree:
        found = parts(observation)
        space: Any = self.obs_space
        shown = space
        if isinstance(space, spaces.Dict) and MASK in space:
            shown = space["observation"]
        if isinstance(shown, spaces.Dict):
            kinds: Any = dict(shown.items)
            seen = {name: settled(found[name]).astype(kinds[name].dtype) for name in self.observe}
        else:
            seen = settled(found[self.observe[0]]).astype(shown.dtype)
        if shown is space:
            return seen
        return {"observation": seen, MASK: jnp.asarray(found[MASK], bool).reshape(-1)}


def parts(x: Any, name: str = "") -> dict[str, Any]:
    """The arrays of a nested observation, or the specs of one, by dotted name."""
    if hasattr(x, "_asdict"):
        inner = x._asdict()
    elif dataclasses.is_dataclass(x):
        inner = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    elif hasattr(x, "validate") and not hasattr(x, "shape"):  # a nested spec
        inner = {k: spec for k, spec in vars(x).items() if hasattr(spec, "validate")}
    else:
        return {name: x}
    found: dict[str, Any] = {}
    for part, value in inner.items():
        found |= parts(value, f"{name}.{part}" if name else part)
    return found


def _counts(spec: Any) -> tuple[int, ...]:
    """How many choices each part of an action has."""
    return tuple(int(n) for n in np.broadcast_to(np.asarray(spec.maximum) + 1, spec.shape))


def _part_space(name: str, spec: Any, array: Any) -> spaces.Space:
    """`array` says the shape and the type, which specs do not always state. The time stays a
    number: as a choice it would be thousands of flags."""
    if hasattr(spec, "num_values") and not spec.shape and name != TIME:
        return spaces.Discrete(int(spec.num_values))
    if not hasattr(spec, "minimum"):
        return box(array)
    return box(array, np.asarray(spec.minimum), np.asarray(spec.maximum))


def _action_space(spec: Any, mask: Any, name: str) -> spaces.Space:
    if not jnp.issubdtype(spec.dtype, jnp.integer):
        low, high = (np.broadcast_to(x, spec.shape) for x in (spec.minimum, spec.maximum))
        return spaces.Box(low.reshape(-1), high.reshape(-1))
    if not spec.shape:
        return spaces.Discrete(int(np.asarray(spec.maximum)) + 1)
    counts = _counts(spec)
    if mask is None or (len(set(counts)) == 1 and mask.shape == (len(counts), counts[0])):
        return spaces.MultiDiscrete(counts)
    if mask.shape == counts:
        return spaces.Discrete(math.prod(counts))
    raise TypeError(
        f"jumanji/{name}: its mask has shape {mask.shape}, which fits neither each part of an "
        f"action of {counts} nor all combinations."
    )


def names() -> list[str]:
    """What `make` accepts after "jumanji/"."""
    return sorted(library("jumanji", "jumanji").registered_environments())


_made: dict[Any, Any] = {}


def _build(name: str, options: dict[str, Any], max_steps: int | None) -> Any:
    """The environment, its own limit one step out of reach."""
    jumanji = library("jumanji", "jumanji")
    try:
        env = jumanji.make(name, **options)
    except TypeError as error:
        known = [p for p in inspect.signature(_class(name)).parameters if p != "viewer"]
        raise ValueError(f"jumanji/{name}: {error}. It has: {', '.join(known)}.") from error
    if not _timed(env, name):
        return env
    limit = int(env.time_limit) if max_steps is None else max_steps
    return jumanji.make(name, **(options | {"time_limit": limit + 1}))


def _timed(env: Any, name: str) -> bool:
    return getattr(env, "time_limit", None) is not None and name not in COUNT_DOWN


def _class(name: str) -> Any:
    registration = library("jumanji.registration", "jumanji")
    return registration.load(registration._REGISTRY[name].entry_point)


def make(
    name: str,
    max_steps: int | None = None,
    observe: tuple[str, ...] | None = None,
    team: Callable[[jax.Array], jax.Array] = jnp.sum,
    **options: Any,
) -> Env:
    """A Jumanji environment by its name there."""
    check_name(name, "jumanji", names())
    if max_steps is not None:
        checks.positive_int(max_steps, "max_steps")
    key = (name, *sorted({"max_steps": max_steps, **options}.items()))
    env = once(_made, key, lambda: _build(name, options, max_steps))
    limit = int(env.time_limit) - 1 if _timed(env, name) else max_steps

    arrays = parts(jax.eval_shape(lambda: env.reset(jax.random.PRNGKey(0))[1].observation))
    specs = parts(env.observation_spec)
    mask = arrays.get(MASK)
    known = [part for part in arrays if part != MASK]
    if observe is None:
        observe = tuple(part for part in known if part != TIME)
    for part in observe:
        if part not in known:
            raise ValueError(
                f"observe={observe!r}: jumanji/{name} shows {', '.join(known)}, and no {part!r}."
            )
    shown = {part: _part_space(part, specs[part], arrays[part]) for part in observe}
    obs_space: spaces.Space = spaces.Dict(shown) if len(shown) != 1 else shown[observe[0]]
    if mask is not None:
        bits = spaces.Box(0, 1, (math.prod(mask.shape),), np.bool_)
        obs_space = spaces.Dict({"observation": obs_space, MASK: bits})
    action_space = _action_space(env.action_spec, mask, name)
    adapted = Jumanji(env, tuple(observe), obs_space, action_space, team)
    return cast(Env, adapted if limit is None else TimeLimit(adapted, limit))
