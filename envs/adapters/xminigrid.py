"""XLand-MiniGrid (extra `suites`): `jaxrl.envs.make("xminigrid/MiniGrid-Empty-5x5")`.

The raw environment is used, without the library's auto-reset wrappers. It reports a time limit as a
last step with discount 1, a goal as one with discount 0. Options are fields of its parameters:
`max_steps`, `view_size`, `height`, ..., and for the XLand ids `ruleset`, whose arrays are traced:
rule sets may differ between the lanes of a `vmap`. Observations are symbols (uint8) in the agent's
view; `wrap` puts the library's observation wrappers round the environment:

    from xminigrid.wrappers import DirectionObservationWrapper

    env = jaxrl.envs.make("xminigrid/MiniGrid-DoorKey-5x5", wrap=(DirectionObservationWrapper,))
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxrl import checks, spaces
from jaxrl.envs.adapters import box, check_name, library, once, settled
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step


@struct
class XMiniGrid:
    """An XLand-MiniGrid environment. The state is its timestep, which holds its own random key."""

    params: Any  # the library's: sizes are static in it, the arrays of a rule set are leaves
    env: Any = static("the environment, compared by identity")

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        for (name, wrap), env in _made.items():
            if env is self.env:
                fields = dataclasses.fields(self.params)
                values = {f.name: getattr(self.params, f.name) for f in fields}
                # A rule set is a node of the library's, which a file cannot name.
                if any(not isinstance(x, int | str | None) for x in values.values()):
                    return None
                return f"xminigrid/{name}", values | {"wrap": wrap}
        return None

    @property
    def obs_space(self) -> spaces.Space:
        obs = jax.eval_shape(self.reset, jax.random.key(0))[1]
        if isinstance(obs, dict):
            return spaces.Dict({name: box(part) for name, part in obs.items()})
        return box(obs)

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(int(self.env.num_actions(self.params)))

    @property
    def time_limit(self) -> int | None:
        return int(self.params.max_steps)

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        timestep = settled(self.env.reset(self.params, jax.random.key_data(key)))
        return timestep, timestep.observation

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        del key
        timestep = settled(self.env.step(self.params, state, action))
        terminated = timestep.last() & (timestep.discount == 0)
        truncated = timestep.last() & ~terminated
        reward = jnp.asarray(timestep.reward, jnp.float32)
        return timestep, Step(timestep.observation, reward, terminated, truncated)


def names() -> list[str]:
    """What `make` accepts after "xminigrid/"."""
    return sorted(library("xminigrid", "xminigrid").registered_environments())


_made: dict[Any, Any] = {}


def make(name: str, wrap: tuple[Callable[[Any], Any], ...] = (), **options: Any) -> Env:
    """An XLand-MiniGrid environment by its name there, inside the wrappers of `wrap`."""
    xminigrid = library("xminigrid", "xminigrid")
    check_name(name, "xminigrid", names())
    _, params = xminigrid.make(name)
    known = [f.name for f in dataclasses.fields(params)]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 3) or known
            raise ValueError(
                f"xminigrid/{name} has no option {option!r}. Did you mean {', '.join(near)}?"
            )
    if "max_steps" in options:
        checks.positive_int(options["max_steps"], "max_steps")

    def build() -> Any:
        env, _ = xminigrid.make(name)
        for wrapper in wrap:
            env = wrapper(env)
            if "AutoReset" in type(env).__name__:
                raise ValueError(f"wrap={wrapper.__name__}: the driver resets; leave it out.")
        return env

    env = once(_made, (name, tuple(wrap)), build)
    return cast(Env, XMiniGrid(params.replace(**options), env))
