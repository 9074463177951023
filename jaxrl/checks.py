"""Refusing bad input before anything is compiled: what was given, what was needed, what to type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrl import devices, random, spaces
from jaxrl.dataset import Dataset
from jaxrl.struct import Bounds, is_static
from jaxrl.types import MAX_COUNT, Env, Key, PyTree, Spec


def is_traced(tree: PyTree) -> bool:
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


def positive_int(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        hint = ""
        if isinstance(value, float) and value.is_integer():
            hint = f": write {name}={int(value):_}"
        raise TypeError(f"{name}={value!r} must be a whole number{hint}.")
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1.")


def hyperparameters(config: Any) -> None:
    """Check every field of a struct against the bounds it was declared with."""
    name = type(config).__name__
    for field in dataclasses.fields(config):
        bounds = field.metadata.get("bounds")
        value = getattr(config, field.name)
        where = f"{name}({field.name}={_short(value)})"
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and not is_static(field):
            hyperparameters(value)
        elif is_static(field):
            _static_value(value, field, bounds, where)
        elif bounds is not None:
            _float_value(value, bounds, where)


def _static_value(
    value: Any, field: dataclasses.Field[Any], bounds: Bounds | None, where: str
) -> None:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{where}: a static field must be hashable, not {type(value).__name__}; "
            "write a tuple instead of a list, and numbers instead of arrays."
        ) from None
    if field.type == "int" or field.type is int:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(
                f"{where} must be a whole number: {field.name} sets a shape or a count."
            )
        problem = bounds and bounds.problem(float(value))
        if bounds and problem:
            raise ValueError(f"{where} must be {problem}: it is {bounds.doc}.")


def _float_value(value: Any, bounds: Bounds, where: str) -> None:
    if value is None or isinstance(value, Tracer):
        return
    if not isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
        raise TypeError(f"{where} must be a number ({bounds.doc}), not {type(value).__name__}.")
    for number in np.asarray(value, np.float64).ravel():
        problem = bounds.problem(float(number))
        if problem:
            raise ValueError(f"{where} must be {problem}: it is {bounds.doc}.")


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array):
        return f"array{value.shape}"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def task(agent: Any, env: Any, steps: Any) -> Spec:
    """Check agent, environment and steps against one another; -> the Spec."""
    _is_agent(agent)
    if isinstance(env, type) or not isinstance(env, Env):
        given = "a class, to be called with ()" if isinstance(env, type) else type(env).__name__
        remedy = f'jaxrl.envs.make("{env}")' if isinstance(env, str) else 'jaxrl.envs.make("...")'
        raise TypeError(
            f"env is {given}, but needs reset, step, obs_space, action_space and time_limit; "
            f"write env={remedy}, or see docs/environments.md for your own."
        )
    hyperparameters(agent)
    positive_int(steps, "steps")
    per_iteration = agent.num_envs * agent.num_steps
    if steps < per_iteration:
        raise ValueError(
            f"steps={steps:_} is less than one iteration of {type(agent).__name__}: num_envs="
            f"{agent.num_envs} x num_steps={agent.num_steps} = {per_iteration:_}. Write "
            f"steps={per_iteration:_} or more, or a smaller num_envs or num_steps."
        )
    if steps // agent.num_envs > MAX_COUNT:
        raise ValueError(
            f"steps={steps:_} over num_envs={agent.num_envs} is more than 2**31 - 1 steps in one "
            "environment, where the counters end; use more environments or fewer steps."
        )
    if isinstance(env.action_space, spaces.Dict):
        raise TypeError(
            f"env.action_space is {spaces.describe(env.action_space)}; no agent chooses Dict "
            "actions yet: write a wrapper that takes a Box, Discrete or MultiDiscrete action."
        )
    spec = Spec(env.obs_space, env.action_space, env.time_limit, int(steps))
    _try(_begun, agent, None, spec)
    return spec


def fitting(agent: Any, data: Dataset, steps: Any) -> Spec:
    """Check agent, dataset and steps against one another; -> the Spec."""
    if isinstance(agent, type):
        raise TypeError(
            f"agent is the class {agent.__name__}; write agent={agent.__name__}() to use it."
        )
    if not hasattr(agent, "learn") or not hasattr(agent, "batch_size"):
        raise TypeError(
            f"{type(agent).__name__} has no learn and batch_size, which learning from a dataset "
            "needs; agents that learn from interaction are trained by jaxrl.train(agent, env, key)."
        )
    hyperparameters(agent)
    positive_int(steps, "steps")
    data.check()
    if agent.batch_size > data.size:
        raise ValueError(
            f"batch_size={agent.batch_size} is more than the {data.size} examples of the dataset: "
            f"write batch_size={data.size} or less."
        )
    spec = data.spec(int(steps))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((agent.batch_size, *np.shape(x)[1:]), jnp.result_type(x)),
        data.arrays,
    )
    _try(_learned, agent, batch, spec)
    return spec


def start(agent: Any, spec: Spec, given: PyTree) -> None:
    """`start=` of train and fit."""
    if given is None:
        return
    if not hasattr(agent, "start_from"):
        raise TypeError(
            f"{type(agent).__name__} has no start_from: it cannot begin with start=; leave it out."
        )
    _try(_begun, agent, given, spec)


def begun(agent: Any, spec: Spec) -> PyTree:
    """The state of one run as it begins, as shapes."""
    return _try(_begun, agent, None, spec)


_passed: dict[Any, PyTree] = {}
"""What was tried and went well: agents with their values and what they were given -> shapes"""


def _try(attempt: Callable[..., PyTree], agent: Any, given: PyTree, spec: Spec) -> PyTree:
    """Agents refuse in `init` what does not suit them. Running it abstractly costs no compilation,
    and what has gone well is not run again."""
    lane, key = _lane(agent), jax.random.key(0)
    values, form = jax.tree.flatten(lane)
    tried = None
    if not is_traced(values):
        shapes, tree = jax.tree.flatten(jax.eval_shape(lambda x: x, given))
        exact = tuple((x.dtype, x.tobytes()) for x in map(np.asarray, values))
        tried = attempt, form, exact, tuple(shapes), tree, spec
    if tried in _passed:
        return _passed[tried]
    shapes = jax.eval_shape(lambda given: attempt(lane, given, key, spec), given)
    if tried is not None:
        if len(_passed) >= 1024:  # of a sweep over values
            _passed.clear()
        _passed[tried] = shapes
    return shapes


def _begun(agent: Any, given: PyTree, key: Key, spec: Spec) -> PyTree:
    state = agent.init(key, spec)
    return state if given is None else agent.start_from(state, given)


def _learned(agent: Any, batch: PyTree, key: Key, spec: Spec) -> PyTree:
    return agent.learn(agent.init(key, spec), batch, key)


def _lane(agent: Any) -> Any:
    """One setting of a stack of them."""
    if not stacked(agent):
        return agent
    return jax.tree.map(lambda x: np.ravel(x)[0] if np.ndim(x) else x, agent)


def _is_agent(agent: Any) -> None:
    if isinstance(agent, type):
        raise TypeError(
            f"agent is the class {agent.__name__}; write agent={agent.__name__}() to use it."
        )
    missing = [name for name in ("init", "act", "update") if not hasattr(agent, name)]
    if "update" in missing and hasattr(agent, "learn"):
        raise TypeError(
            f"{type(agent).__name__} learns from a dataset and has no update; "
            "use jaxrl.fit(agent, dataset, key)."
        )
    if missing or not dataclasses.is_dataclass(agent):
        what = f"has no {', '.join(missing)}" if missing else "is not a jaxrl.struct"
        raise TypeError(
            f"agent is {type(agent).__name__}, which {what}; write for example "
            "agent=jaxrl.PPO(), or see CONTRIBUTING.md for your own."
        )


def keys(key: Any, agent: Any) -> tuple[Key, int | None]:
    """-> a typed key or a batch of them, and how many runs that makes (None for one without axis).

    A stack of k agents with one key gets k keys split from it.
    """
    if not hasattr(key, "dtype"):
        raise TypeError(
            f"key={_short(key)} must be a JAX key: write jax.random.key({key!r}) for one run, or "
            f"jax.random.split(jax.random.key({key!r}), 8) for eight."
            if isinstance(key, int)
            else f"key must be a JAX key such as jax.random.key(0), not {type(key).__name__}."
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.ndim == 0 or key.shape[-1] not in (2, 4):
            raise TypeError(
                f"key is an array {key.dtype}{key.shape}, not a JAX key: write jax.random.key(0)."
            )
        key = jax.random.wrap_key_data(key)
    if key.ndim > 1:
        raise ValueError(
            f"key has shape {key.shape}; one axis of runs is allowed: write key.ravel(), and "
            "reshape what comes back."
        )
    if key.ndim == 1 and key.shape[0] == 0:
        raise ValueError("key holds no keys: write jax.random.split(key, 8) for eight runs.")
    count = key.shape[0] if key.ndim else None
    key = random.unrolled(key)
    size = stack_size(agent)
    if size is not None:
        if count is None:
            key, count = jax.random.split(key, size), size
        elif count != size:
            raise ValueError(
                f"agent is a stack of {size} settings but key holds {count} keys; give one key per "
                f"setting: jax.random.split(key, {size})."
            )
    return key, count


def stack_size(agent: Any) -> int | None:
    """How many settings an agent holds; None for an ordinary agent."""
    sizes = {np.shape(x)[0] for x in jax.tree.leaves(agent) if np.ndim(x) == 1}
    if any(np.ndim(x) > 1 for x in jax.tree.leaves(agent)):
        raise ValueError(
            f"a hyperparameter of {type(agent).__name__} has more than one axis; a stack of "
            "agents has one value per run in each stacked field: use .ravel()."
        )
    if len(sizes) > 1:
        raise ValueError(
            f"the stacked hyperparameters of {type(agent).__name__} have different lengths "
            f"{sorted(sizes)}; give every stacked field one value per run."
        )
    return sizes.pop() if sizes else None


def stacked(agent: Any) -> bool:
    return stack_size(agent) is not None


def same_task(trained: Spec, given: Spec) -> None:
    """Refuse to play a policy in an environment of another shape."""
    for name in ("obs_space", "action_space"):
        ours, theirs = getattr(trained, name), getattr(given, name)
        if ours != theirs:
            raise ValueError(
                f"env has {name} {spaces.describe(theirs)}, but the policy was trained on "
                f"{spaces.describe(ours)}; give the environment (with its wrappers) it was trained "
                "on."
            )


def memory(agent: Any, spec: Spec, runs: int, copies: int = 1, processes: int = 1) -> int:
    """Bytes of replay that all runs together will hold, each on `copies` devices; refused when
    they do not fit `processes` processes like this one."""
    if not hasattr(agent, "memory"):
        return 0
    each = int(agent.memory(spec))
    total, free = each * runs * copies // processes, devices.memory_free()
    if free is not None and total > free:
        shared = f" x {copies} devices that share each" * (copies > 1)
        shared += f" / {processes} processes" * (processes > 1)
        raise ValueError(
            f"the replay does not fit: capacity={agent.capacity:_} transitions take "
            f"{each / 2**20:,.0f} MiB, x {runs} runs{shared} = {total / 2**30:,.1f} GiB, and "
            f"{free / 2**30:,.1f} GiB are free. Write a capacity of at most "
            f"{int(agent.capacity * free / total * 0.8):_}, or train fewer runs at a time."
        )
    return total


def observation(space: spaces.Space, obs: PyTree) -> tuple[PyTree, int]:
    """Check what is given to a policy; -> arrays, and how many leading axes they have."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or set(obs) != set(space):
            given = sorted(obs) if isinstance(obs, dict) else type(obs).__name__
            raise ValueError(f"obs must be a dict with {sorted(space)}, not {given}.")
        parts = {name: observation(part, obs[name]) for name, part in space.items}
        leading = {count for _, count in parts.values()}
        if len(leading) > 1:
            raise ValueError("the parts of obs have different numbers of leading axes.")
        return {name: part for name, (part, _) in parts.items()}, leading.pop()
    array = jnp.asarray(obs)
    extra = array.ndim - len(space.shape)
    if extra < 0 or array.shape[extra:] != space.shape:
        raise ValueError(
            f"obs has shape {array.shape}, but this policy was trained on "
            f"{spaces.describe(space)}: give {space.shape} for one observation or "
            f"(batch, *{space.shape}) for several."
        )
    if extra > 1:
        raise ValueError(
            f"obs has shape {array.shape}: one batch axis at most; reshape to "
            f"(batch, *{space.shape}) or use jax.vmap."
        )
    return array, extra
