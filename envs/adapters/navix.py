"""Navix (extra `suites`): `jaxrl.envs.make("navix/Navix-Empty-5x5-v0")`.

Navix 0.7 (Python 3.11) and 4.0 (3.12 and newer) both work. Navix tells truncation apart from
termination itself and knows its time limit: 100 steps in 0.7, four times the area in 4.0;
`max_steps` sets it. Observations are symbols (uint8) unless `observation_fn` is another function of
`navix.observations`, or the name of one: "symbolic", "symbolic_first_person", "categorical",
"categorical_first_person", "rgb", "rgb_first_person". Other options go to Navix.
"""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxrl import checks, spaces
from jaxrl.envs.adapters import box, check_name, library, once, settled
from jaxrl.envs.adapters import recipe as recall
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step

SYMBOLS = ("symbolic", "symbolic_first_person", "categorical", "categorical_first_person")
VIEWS = (*SYMBOLS, "rgb", "rgb_first_person")


@struct
class Navix:
    """A Navix environment. The state is Navix's timestep, which holds its own random key."""

    env: Any = static("the Navix environment, compared by identity")

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        return recall(_made, self.env, "navix")

    @property
    def obs_space(self) -> spaces.Box:
        return box(jax.eval_shape(self.reset, jax.random.key(0))[1])

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(len(self.env.value.action_set))

    @property
    def time_limit(self) -> int | None:
        return int(self.env.value.max_steps)

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        return self._kept(self.env.value.reset(jax.random.key_data(key)))

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        del key
        # Not `step`: that begins the next episode, and under vmap computes a reset every time.
        state = self.env.value._step(state, jnp.asarray(action, jnp.int32))
        reward = jnp.asarray(state.reward, jnp.float32)
        terminated = jnp.asarray(state.is_termination(), bool)
        truncated = jnp.asarray(state.is_truncation(), bool)
        state, obs = self._kept(state)
        return state, Step(obs, reward, terminated, truncated)

    def _kept(self, timestep: Any) -> tuple[PyTree, jax.Array]:
        """What is carried on: without the pictures of all tiles where no one looks at them, some
        80 kB per environment at 5 x 5."""
        obs = jnp.asarray(timestep.observation)
        if getattr(self.env.value.observation_fn, "__name__", "") in SYMBOLS:
            timestep = timestep.replace(state=timestep.state.replace(cache=None))
        timestep = timestep.replace(observation=jnp.zeros(()))  # computed anew, not used again
        return settled(timestep), settled(obs)


class _Same:
    """A Navix environment holds arrays, and cannot be hashed: it is compared by identity."""

    def __init__(self, value: Any) -> None:
        self.value = value


def names() -> list[str]:
    """What `make` accepts after "navix/"."""
    return sorted(library("navix", "navix").registry())


_made: dict[Any, _Same] = {}


def make(name: str, observation_fn: Any = "symbolic", **options: Any) -> Env:
    """A Navix environment by its name there."""
    navix = library("navix", "navix")
    check_name(name, "navix", names())
    if "max_steps" in options:
        checks.positive_int(options["max_steps"], "max_steps")
    if isinstance(observation_fn, str):
        known = [n for n in VIEWS if hasattr(navix.observations, n)]
        if observation_fn not in known:
            raise ValueError(
                f"observation_fn={observation_fn!r} must be one of {', '.join(known)}, or a "
                "function of the state."
            )

    def build() -> _Same:
        view = observation_fn
        view = getattr(navix.observations, view) if isinstance(view, str) else view
        return _Same(navix.make(name, observation_fn=view, **options))

    key = (name, *sorted({"observation_fn": observation_fn, **options}.items()))
    return cast(Env, Navix(once(_made, key, build)))
