"""Craftax (extra `suites`): `jaxrl.envs.make("craftax/Craftax-Symbolic-v1")`.

The variants without auto-reset are used. Craftax reports its time limit (100,000 steps, 10,000 in
Classic) and death alike, as an end; here its own limit is put out of reach, and `max_steps`, by
default the same number, truncates. Options are fields of its parameters (`always_diamond`,
`god_mode`, ...) and of its static ones (`map_size`, ...); those that are floats are traced.
Expect a minute of compiling and few hundred steps/s on a CPU: this suite is for GPUs.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxrl import checks, spaces
from jaxrl.envs.adapters import box, check_name, library, once, settled
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step

NAMES = {
    "Craftax-Classic-Pixels-v1": "craftax_classic.envs.craftax_pixels_env:CraftaxClassicPixelsEnv",
    "Craftax-Classic-Symbolic-v1": (
        "craftax_classic.envs.craftax_symbolic_env:CraftaxClassicSymbolicEnv"
    ),
    "Craftax-Pixels-v1": "craftax.envs.craftax_pixels_env:CraftaxPixelsEnv",
    "Craftax-Symbolic-v1": "craftax.envs.craftax_symbolic_env:CraftaxSymbolicEnv",
}

NEVER = 2**31 - 1


@struct
class Craftax:
    """A Craftax world. `constants` are its float parameters, `settings` all others."""

    constants: dict[str, Any]
    env: Any = static("the Craftax environment, compared by identity")
    settings: tuple[tuple[str, Any], ...] = static("its parameters that are not floats")

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        for (name, *options), env in _made.items():
            if env is self.env:
                settings = {k: v for k, v in self.settings if k != LIMIT}
                return f"craftax/{name}", dict(options) | settings | self.constants
        return None

    @property
    def params(self) -> Any:
        return self.env.default_params.replace(**dict(self.settings), **self.constants)

    @property
    def obs_space(self) -> spaces.Box:
        return box(jax.eval_shape(self.reset, jax.random.key(0))[1])

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(int(self.env.num_actions))

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        obs, state = self.env.reset_env(jax.random.key_data(key), self.params)
        return settled(state), jnp.asarray(obs, jnp.float32)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        obs, state, reward, over, _ = self.env.step_env(
            jax.random.key_data(key), state, action, self.params
        )
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        over = jnp.asarray(over, bool).reshape(())
        obs = jnp.asarray(obs, jnp.float32)
        return settled(state), Step(obs, reward, over, jnp.zeros((), bool))


LIMIT = "max_timesteps"


def names() -> list[str]:
    """What `make` accepts after "craftax/"."""
    return sorted(NAMES)


_made: dict[Any, Any] = {}


def _kind(name: str) -> Any:
    """The class, which is imported only now: Craftax loads all its pictures with it."""
    module, cls = NAMES[name].split(":")
    return getattr(importlib.import_module(f"craftax.{module}"), f"{cls}NoAutoReset")


def make(name: str, max_steps: int | None = None, **options: Any) -> Env:
    """A Craftax environment by its name there."""
    library("craftax", "craftax")
    check_name(name, "craftax", names())
    kind = _kind(name)
    sizes = {f.name for f in dataclasses.fields(kind.default_static_params())}
    chosen = {k: v for k, v in options.items() if k in sizes}

    def build() -> Any:
        return kind(kind.default_static_params().replace(**chosen))

    env = once(_made, (name, *sorted(chosen.items())), build)
    defaults = {
        f.name: getattr(env.default_params, f.name) for f in dataclasses.fields(env.default_params)
    }
    known = [*(set(defaults) - {LIMIT}), *sizes]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 3) or sorted(known)
            raise ValueError(
                f"craftax/{name} has no option {option!r}. Did you mean {', '.join(near)}?"
            )
    values = defaults | {k: v for k, v in options.items() if k in defaults}
    floats = {k: float(values[k]) for k, v in defaults.items() if isinstance(v, float)}
    settings = tuple(
        sorted((k, v) for k, v in (values | {LIMIT: NEVER}).items() if k not in floats)
    )
    max_steps = int(defaults[LIMIT]) if max_steps is None else max_steps
    checks.positive_int(max_steps, "max_steps")
    return cast(Env, TimeLimit(Craftax(floats, env, settings), max_steps))
