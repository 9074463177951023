"""MuJoCo Playground (extra `envs`): `jaxrl.envs.make("playground/CartpoleBalance")`.

The raw environment is used, without Playground's training wrappers and their cached restarts. Its
episode length becomes a time limit. Playground simulates with Warp unless told otherwise, which on
a CPU is some fifty times slower: `impl="jax"` is the default here on every device without CUDA.
"""

from __future__ import annotations

import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks, spaces
from jaxrl.drawing import Picture
from jaxrl.envs.adapters import camera, settled
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Step


@struct
class Playground:
    """A Playground environment as it is."""

    env: Any = static("the Playground environment, compared by identity")

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        for (name, impl), (made, _) in _made.items():
            if made.env is self.env:
                return f"playground/{name}", {"impl": impl}
        return None

    @property
    def obs_space(self) -> spaces.Space:
        def box(size: Any) -> spaces.Box:
            shape = (int(size),) if isinstance(size, int | np.integer) else tuple(size)
            return spaces.Box(-np.inf, np.inf, shape)

        size = self.env.observation_size
        if isinstance(size, dict):
            return spaces.Dict({name: box(part) for name, part in size.items()})
        return box(size)

    @property
    def action_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (int(self.env.action_size),))

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        state = settled(self.env.reset(jax.random.key_data(key)))
        return state, _floats(state.obs)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        del key
        state = settled(self.env.step(state, action))
        over = jnp.asarray(state.done) > 0
        reward = jnp.asarray(state.reward, jnp.float32)
        return state, Step(_floats(state.obs), reward, over, jnp.zeros((), bool))

    @property
    def fps(self) -> int:
        return max(1, round(1 / float(self.env.dt)))

    def render(self, state: PyTree) -> Picture:
        return camera.draw(self.env.mj_model, state.data)


def _floats(obs: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), obs)


def _registry() -> Any:
    try:
        from mujoco_playground import registry  # pyright: ignore
    except ImportError as error:
        raise ImportError(
            "playground/... needs MuJoCo Playground: pip install 'jaxrl[envs]'."
        ) from error
    return registry


def names() -> list[str]:
    """What `make` accepts after "playground/"."""
    return sorted(_registry().ALL_ENVS)


_made: dict[tuple[Any, ...], tuple[Playground, int]] = {}


def make(name: str, max_steps: int | None = None, impl: str | None = None) -> TimeLimit:
    """A Playground environment by its name there."""
    registry = _registry()
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3) or names()[:5]
        raise ValueError(
            f"name='playground/{name}' is unknown to Playground. There are {', '.join(near)}; "
            "jaxrl.envs.adapters.playground.names() lists all."
        )
    if impl is None:
        impl = "warp" if jax.default_backend() == "gpu" else "jax"
    if (name, impl) not in _made:
        config = registry.get_default_config(name)
        env = registry.load(name, config=config, config_overrides={"impl": impl})
        _made[name, impl] = (Playground(env), int(config.episode_length))
    env, length = _made[name, impl]
    max_steps = length if max_steps is None else max_steps
    checks.positive_int(max_steps, "max_steps")
    return TimeLimit(env, max_steps)
