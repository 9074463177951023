"""Gymnasium (1.1 or newer): `jaxrl.envs.from_gymnasium("LunarLander-v3", num_envs=8)`.

Environments given by name, as functions or as objects are stepped one after another in this
process, and each is reset in the step in which it ends: the rollout holds true transitions alone.

A vector environment resets itself, in one of three ways. With SAME_STEP the true final observation
comes in its `infos`. With DISABLED we reset what ended, by `reset(options={"reset_mask": ...})`.
With NEXT_STEP the call after an end would ignore the action and return a step that never was; we
reset what ended before that call can happen, in the same way. One that cannot be reset in part is
refused, unless `restart` says how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

try:
    import gymnasium
except ImportError as error:
    raise ImportError("from_gymnasium needs Gymnasium: pip install 'jaxrl[envs]'.") from error

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from jaxrl import checks
from jaxrl.envs.adapters import gymnasium_spaces as convert
from jaxrl.host import HostEnv, Moved, Pool
from jaxrl.types import PyTree

Array: TypeAlias = np.ndarray[Any, Any]
Restart: TypeAlias = Callable[[Any, Array], Any]
"""vector environment, mask [N] of those to begin anew -> observations [N, ...], new where masked"""


# ------------------------------------------------------------------------------------------ pools


class SubEnvs:
    """Environments stepped one after another."""

    def __init__(self, envs: list[Any], keep: bool) -> None:
        self.envs, self.keep = envs, keep
        self.obs_space, self.action_space = envs[0].observation_space, envs[0].action_space
        for env in envs:
            if (env.observation_space, env.action_space) != (self.obs_space, self.action_space):
                raise ValueError(
                    f"the environments differ: {env} has {env.observation_space} and "
                    f"{env.action_space}, {envs[0]} has {self.obs_space} and {self.action_space}."
                )

    def reset(self, seeds: Array) -> PyTree:
        obs = convert.blank(self.obs_space, len(self.envs))
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            convert.write(self.obs_space, obs, i, env.reset(seed=int(seed))[0])
        return obs

    def step(self, action: Array) -> Moved:
        space, count = self.obs_space, len(self.envs)
        obs, final = convert.blank(space, count), None
        reward = np.zeros(count, np.float32)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        chosen = convert.one_by_one(self.action_space, action)
        for i, (env, a) in enumerate(zip(self.envs, chosen, strict=True)):
            seen, reward[i], over, cut, _ = env.step(a)
            if over or cut:
                terminated[i], truncated[i] = over, cut and not over
                if not over:
                    final = convert.blank(space, count) if final is None else final
                    convert.write(space, final, i, seen)
                seen, _ = env.reset()
            convert.write(space, obs, i, seen)
        return Moved(obs, reward, terminated, truncated, final)

    def close(self) -> None:
        if not self.keep:
            for env in self.envs:
                env.close()


def by_mask(env: Any, mask: Array) -> Any:
    """Reset a part of a vector environment as Gymnasium's own are."""
    return env.reset(options={"reset_mask": mask})[0]


def _cartpole(env: Any, mask: Array) -> Any:
    """Gymnasium's vectorised CartPole resets only inside of its step; here is that part of it."""
    inner = env.unwrapped
    drawn = inner.np_random.uniform(low=inner.low, high=inner.high, size=(4, int(mask.sum())))
    inner.state[:, mask] = drawn
    inner.steps[mask] = 0
    inner.prev_done[mask] = False
    return inner.state.T.astype(np.float32)


def mode_of(env: Any) -> Any:
    """When a vector environment resets. Those of Gymnasium 1.3 write it into the metadata of the
    class of their environments, where the one that is made last has the last word; but they also
    remember it themselves."""
    own = getattr(env.unwrapped, "autoreset_mode", None)
    if isinstance(own, AutoresetMode) and env.metadata is env.unwrapped.metadata:
        return own
    return env.metadata.get("autoreset_mode")


def restart_of(env: Any) -> Restart:
    """How a part of `env` is reset before it does so itself."""
    inner = env.unwrapped
    if mode_of(env) == AutoresetMode.DISABLED:
        return by_mask  # there is no other way in which it could be used
    if isinstance(inner, SyncVectorEnv):
        return by_mask
    if isinstance(inner, AsyncVectorEnv) and inner.shared_memory:
        return by_mask  # without shared memory its processes would reset once more (1.3)
    if type(inner).__name__ == "CartPoleVectorEnv" and inner is env:
        return _cartpole
    raise ValueError(
        f"{env} resets in the step after an episode's end (AutoresetMode.NEXT_STEP), which is a "
        "step that never was. Make it with autoreset_mode=SAME_STEP or DISABLED, give "
        "from_gymnasium a name or a list of functions instead, or restart=jaxrl.envs.adapters."
        'gymnasium.by_mask if it can be reset in part by reset(options={"reset_mask": mask}).'
    )


class Vector:
    """A vector environment with whatever way of resetting."""

    def __init__(self, env: Any, restart: Restart | None, keep: bool) -> None:
        mode = mode_of(env)
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"{env} does not say when it resets: set env.metadata['autoreset_mode'] to one of "
                "gymnasium.vector.AutoresetMode."
            )
        self.env, self.keep = env, keep
        self.restart = None
        if mode != AutoresetMode.SAME_STEP:
            self.restart = restart or restart_of(env)
        self.obs_space, self.action_space = env.single_observation_space, env.single_action_space

    def reset(self, seeds: Array) -> PyTree:
        obs = self.env.reset(seed=int(seeds[0]))[0]  # the others get the numbers after it
        return convert.received(self.obs_space, obs)

    def step(self, action: Array) -> Moved:
        batch = convert.actions(self.action_space, action)
        seen, reward, terminated, truncated, infos = self.env.step(batch)
        terminated = np.array(terminated, np.bool_)
        truncated = np.array(truncated, np.bool_) & ~terminated
        ended = terminated | truncated
        obs, final = convert.received(self.obs_space, seen), None
        if ended.any():
            if self.restart is not None:
                final = obs if truncated.any() else None
                new = convert.received(self.obs_space, self.restart(self.env, ended))
                obs = _chosen(ended, new, obs)
            elif truncated.any():
                final = convert.blank(self.obs_space, len(ended))
                for i in np.flatnonzero(truncated):
                    convert.write(self.obs_space, final, int(i), _final(infos, int(i)))
        return Moved(obs, np.asarray(reward, np.float32), terminated, truncated, final)

    def close(self) -> None:
        if not self.keep:
            self.env.close()


def _chosen(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    if isinstance(new, dict):
        return {name: _chosen(mask, new[name], old[name]) for name in new}
    return np.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _final(infos: dict[str, Any], i: int) -> Any:
    """The final observation of one environment, which `infos` hold as an array, or a dict of
    them."""
    for name in ("final_obs", "final_observation"):
        if name in infos:
            return _pick(infos[name], i)
    raise ValueError(
        "the vector environment says that it resets in the step in which an episode ends "
        "(AutoresetMode.SAME_STEP), but its infos hold no final_obs, which the value of a "
        "truncated episode is taken from."
    )


def _pick(held: Any, i: int) -> Any:
    if isinstance(held, dict):
        return {name: _pick(part, i) for name, part in held.items() if not name.startswith("_")}
    return held[i]


# ------------------------------------------------------------------------------------ environment


class Gymnasium(HostEnv):
    """An environment of Gymnasium, which `from_gymnasium` makes."""

    def __init__(
        self,
        build: Callable[[int], Any],
        given: list[Any],
        *,
        num_envs: int | None,
        groups: int,
        vector: Callable[..., Any] | None,
        restart: Restart | None,
        name: tuple[str, dict[str, Any]] | None,
    ) -> None:
        self._build, self._vector, self._restart, self._name = build, vector, restart, name
        self.num_envs, self.groups = num_envs, groups
        self._given = given  # environments that the caller made, used first and left open
        self._in_use = False
        self._spare: list[Any] = []  # ours, made to look at its spaces
        example = given[0] if given else build(0)
        if not given:
            self._spare.append(example)
        batch = isinstance(example, VectorEnv)
        self._obs = example.single_observation_space if batch else example.observation_space
        self._action = example.single_action_space if batch else example.action_space
        self.obs_space = convert.convert(self._obs)
        self.action_space = convert.convert_action(self._action)

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        return self._name

    def open(self, count: int) -> Pool:
        given = self._given
        if given and isinstance(given[0], VectorEnv):
            if given[0].num_envs != count:
                raise ValueError(
                    f"the vector environment holds {given[0].num_envs}, needed are {count}: "
                    "evaluation while training and several runs take environments of their own. "
                    "Give from_gymnasium a name or a list of functions, which can be made again."
                )
            return Vector(given[0], self._restart, keep=True)
        if given and len(given) == count and not self._in_use:
            self._in_use = True
            return _Borrowed(given, self)
        if self._vector is not None:
            makers = [functools.partial(self._build, i) for i in range(count)]
            # A process must not be forked once JAX has threads.
            fresh = {"context": "spawn"} if self._vector is AsyncVectorEnv else {}
            env = self._vector(makers, autoreset_mode=AutoresetMode.SAME_STEP, **fresh)
            return Vector(env, self._restart, keep=False)
        spare, self._spare = self._spare[:count], []
        return SubEnvs([*spare, *(self._build(i) for i in range(len(spare), count))], keep=False)

    def release(self) -> None:
        self._in_use = False

    def __repr__(self) -> str:
        what = self._name[0] if self._name else f"{self._obs} -> {self._action}"
        return f"Gymnasium({what}, num_envs={self.num_envs})"


class _Borrowed(SubEnvs):
    """Environments that the caller made: one pool at a time plays in them."""

    def __init__(self, envs: list[Any], owner: Gymnasium) -> None:
        super().__init__(envs, keep=True)
        self._owner = owner

    def close(self) -> None:
        self._owner.release()


def _again(env: Any) -> Callable[[int], Any]:
    """How to make another environment like one that was given."""

    def build(i: int) -> Any:
        del i
        if env.spec is None:
            raise ValueError(
                f"{env} was made by hand, and another one is needed (for evaluation, or for "
                "several runs): give from_gymnasium a function that makes one."
            )
        return gymnasium.make(env.spec)

    return build


def _checked(env: Any) -> Any:
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            f"from_gymnasium was given a function that returns {type(env).__name__}, not a "
            "gymnasium.Env: environments of the older gym need shimmy.GymV21CompatibilityV0."
        )
    return env


def from_gymnasium(
    env: Any,
    num_envs: int | None = None,
    *,
    groups: int = 1,
    vector: Callable[..., Any] | None = None,
    restart: Restart | None = None,
    **options: Any,
) -> Gymnasium:
    """An environment of Gymnasium, for `jaxrl.train`, `stream` and `evaluate`.

    `env` is a name (with `options` for `gymnasium.make`), a function that makes an environment, an
    environment, a list of functions or environments, or a vector environment. `num_envs` must be
    that of the agent; left out, the agent decides.

    `groups=2` lets half of the environments step while the device chooses actions for the others.
    `vector=gymnasium.vector.AsyncVectorEnv` steps each in a process of its own. `restart` is for
    vector environments that cannot be reset in part as Gymnasium's own can.
    """
    checks.positive_int(groups, "groups")
    if num_envs is not None:
        checks.positive_int(num_envs, "num_envs")
    build, given, name = _parse(env, options)
    size = None
    if given:
        size = given[0].num_envs if isinstance(given[0], VectorEnv) else len(given)
    elif isinstance(env, Sequence) and not isinstance(env, str):
        size = len(env)
    if size is not None and num_envs not in (None, size):
        raise ValueError(f"num_envs={num_envs}, but env holds {size}: leave num_envs out.")
    if size is not None and groups > 1:
        raise ValueError(
            f"groups={groups} needs environments that can be made in any number: give a name or a "
            "function."
        )
    if vector is not None and given:
        raise ValueError("vector= makes the environments itself: give a name or functions.")
    if name is not None:
        own = {"num_envs": num_envs or size, "groups": groups}
        constants = {k: v for k, v in own.items() if v not in (None, 1) or k == "num_envs"}
        name = (name[0], {**{k: v for k, v in constants.items() if v is not None}, **name[1]})
        if vector is not None or restart is not None:
            name = None
    return Gymnasium(
        build, given, num_envs=size or num_envs, groups=groups, vector=vector, restart=restart,
        name=name,
    )  # fmt: skip


def _parse(
    env: Any, options: dict[str, Any]
) -> tuple[Callable[[int], Any], list[Any], tuple[str, dict[str, Any]] | None]:
    """-> how to make the i-th environment, those that exist, the name for files."""
    if isinstance(env, str):
        _known(env)
        return lambda i: gymnasium.make(env, **options), [], (f"gymnasium/{env}", options)
    if options:
        raise TypeError(
            f"{', '.join(options)}: options are for an environment that is made by name; give them "
            "to what makes yours."
        )
    if isinstance(env, VectorEnv | gymnasium.Env):
        return _again(env), [env], None
    if isinstance(env, Sequence) and len(env):
        several: list[Any] = list(env)
        if all(isinstance(e, gymnasium.Env) for e in several):
            return _again(several[0]), several, None
        if all(callable(e) for e in several):
            return lambda i: _checked(several[i % len(several)]()), [], None
    elif callable(env) and not isinstance(env, type):
        return lambda i: _checked(env()), [], None
    elif isinstance(env, type) and issubclass(env, gymnasium.Env):
        return lambda i: env(), [], None
    raise TypeError(
        f"env={env!r} must be a name such as 'CartPole-v1', a Gymnasium environment or vector "
        "environment, a function that makes an environment, or a list of functions."
    )


def _known(name: str) -> None:
    try:
        if ":" not in name:
            gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(f"name='gymnasium/{name}': {error}") from error


def names() -> list[str]:
    """What `make` accepts after "gymnasium/", of what is registered now."""
    return sorted(gymnasium.registry)


def make(name: str, num_envs: int | None = None, groups: int = 1, **options: Any) -> Gymnasium:
    """An environment by its name in Gymnasium."""
    return from_gymnasium(name, num_envs, groups=groups, **options)
