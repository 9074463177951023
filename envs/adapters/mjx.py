"""MuJoCo models on MJX: a task is a model and three functions.

    from jaxrl.envs.adapters import mjx

    env = mjx.task(
        "cartpole.xml",  # or the XML itself, or a mujoco.MjModel
        observe=lambda data: jnp.concatenate([data.qpos, data.qvel]),
        reward=lambda data, action: 1.0 - data.qpos[1] ** 2,
        terminate=lambda data: jnp.abs(data.qpos[1]) > 0.5,
        frame_skip=2, noise=0.01, max_steps=500,
    )

Actions span the model's control ranges (-1 .. 1 where it states none).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks, spaces
from jaxrl.drawing import NoPicture, Picture
from jaxrl.envs.adapters import camera
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, PyTree, Step


def never(data: Any) -> jax.Array:
    del data
    return jnp.zeros((), bool)


@struct
class Mjx:
    """The state is MJX's data. Starts are the model's own plus uniform noise."""

    model: Any  # mjx.Model: its arrays (masses, lengths, ...) are traced
    noise: Float = param("half width of the noise on starting positions and velocities", low=0)
    observe: Callable[[Any], jax.Array] = static("data -> observation")
    reward: Callable[[Any, jax.Array], jax.Array] = static("data after the step, action -> reward")
    terminate: Callable[[Any], jax.Array] = static("data -> whether the episode is over")
    frame_skip: int = static("physics steps per action", default=1, low=1)
    obs_shape: tuple[int, ...] = static("shape of observations", default=())
    bounds: tuple[tuple[float, ...], tuple[float, ...]] = static("of actions", default=((), ()))

    @property
    def obs_space(self) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, self.obs_shape)

    @property
    def action_space(self) -> spaces.Box:
        return spaces.Box(*self.bounds)

    @property
    def time_limit(self) -> int | None:
        return None

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        from mujoco import mjx

        data = mjx.make_data(self.model)
        position, velocity = jax.random.split(key)
        qpos = self.model.qpos0
        qpos = qpos + self.noise * jax.random.uniform(position, qpos.shape, minval=-1)
        qvel = self.noise * jax.random.uniform(velocity, data.qvel.shape, minval=-1)
        data = mjx.forward(self.model, data.replace(qpos=qpos, qvel=qvel))
        return data, self._seen(data)

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        from mujoco import mjx

        del key
        data = state.replace(ctrl=action)
        data = jax.lax.fori_loop(0, self.frame_skip, lambda _, d: mjx.step(self.model, d), data)
        reward = jnp.asarray(self.reward(data, action), jnp.float32)
        over = jnp.asarray(self.terminate(data), bool)
        return data, Step(self._seen(data), reward, over, jnp.zeros((), bool))

    @property
    def fps(self) -> int:
        return max(1, round(1 / (float(self.model.opt.timestep) * self.frame_skip)))

    def render(self, state: PyTree) -> Picture:
        """Sizes and places of bodies are those of this environment's model, which may be swept."""
        host = _hosts.get(_kind(self.model))
        if host is None:
            raise NoPicture(
                "the MuJoCo model of this environment is not known here: build the environment "
                "with jaxrl.envs.adapters.mjx.task, and give it as env=."
            )
        for name in DRAWN:
            getattr(host, name)[:] = np.asarray(getattr(self.model, name))
        return camera.draw(host, state)

    def _seen(self, data: Any) -> jax.Array:
        return jnp.asarray(self.observe(data), jnp.float32)


DRAWN = ("geom_size", "geom_pos", "geom_quat", "body_pos", "body_quat")
"""What of a model changes its picture."""

_hosts: dict[tuple[Any, ...], Any] = {}
"""The models of `task` as MuJoCo has them, which alone can draw them."""


def _kind(model: Any) -> tuple[Any, ...]:
    return bytes(model.names), model.nq, model.nv, model.nbody, model.ngeom


def load(model: Any) -> Any:
    """A `mujoco.MjModel` from one, from XML text or from the path of a file."""
    import mujoco

    if isinstance(model, mujoco.MjModel):  # pyright: ignore
        return model
    if isinstance(model, str) and model.lstrip().startswith("<"):
        return mujoco.MjModel.from_xml_string(model)  # pyright: ignore
    if isinstance(model, str | Path):
        if not Path(model).exists():
            raise ValueError(f"model={str(model)!r}: there is no such file, and it is not XML.")
        return mujoco.MjModel.from_xml_path(str(model))  # pyright: ignore
    raise TypeError(
        f"model is {type(model).__name__}; give MJCF as text, the path of a file, or a "
        "mujoco.MjModel."
    )


def task(
    model: Any,
    *,
    observe: Callable[[Any], jax.Array],
    reward: Callable[[Any, jax.Array], jax.Array],
    terminate: Callable[[Any], jax.Array] = never,
    frame_skip: int = 1,
    noise: float = 0.01,
    max_steps: int = 1000,
) -> TimeLimit:
    """An environment from a MuJoCo model. `impl` is JAX's own, which runs everywhere."""
    from mujoco import mjx

    checks.positive_int(max_steps, "max_steps")
    host = load(model)
    if host.nu == 0:
        raise ValueError("model has no actuators, so there is nothing to act on: add <actuator>.")
    limited = np.asarray(host.actuator_ctrllimited, bool)
    low = np.where(limited, host.actuator_ctrlrange[:, 0], -1.0)
    high = np.where(limited, host.actuator_ctrlrange[:, 1], 1.0)
    device_model = mjx.put_model(host, impl="jax")
    _hosts[_kind(host)] = copy.copy(host)
    shape = jax.eval_shape(lambda: jnp.asarray(observe(mjx.make_data(device_model)))).shape
    env = Mjx(
        model=device_model,
        noise=noise,
        observe=observe,
        reward=reward,
        terminate=terminate,
        frame_skip=frame_skip,
        obs_shape=tuple(shape),
        bounds=(tuple(map(float, low)), tuple(map(float, high))),
    )
    checks.hyperparameters(env)
    return TimeLimit(env, max_steps)


def make(name: str, **options: Any) -> TimeLimit:
    """`make("mjx/path/to/model.xml", observe=..., reward=...)` is `task`."""
    return task(name, **options)
