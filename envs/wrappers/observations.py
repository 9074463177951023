"""Other observations than those of the environment: flat, stacked, in part, with last actions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.drawing import Picture, render
from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.rollout import inherit
from jaxrl.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Step

MASK = "action_mask"


def _full(bound: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(bound, np.float64), shape)


def _flat_bounds(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """-> low, high of `spaces.flatten`, each [D]"""
    match space:
        case Box():
            return _full(space.low, space.shape).ravel(), _full(space.high, space.shape).ravel()
        case Discrete() | MultiDiscrete():
            return np.zeros(spaces.size(space)), np.ones(spaces.size(space))
        case Dict():
            low, high = zip(*(_flat_bounds(part) for _, part in space.items))
            return np.concatenate(low), np.concatenate(high)


@struct
class Flatten(Wrapper):
    """Observations as one float32 vector, discrete parts one-hot. A mask of allowed actions stays
    beside it, where agents look for it."""

    keeps_model = True

    def _parts(self) -> tuple[Space, Space | None]:
        """-> what is flattened, the space of the action mask if there is one"""
        space = self.env.obs_space
        if not isinstance(space, Dict) or MASK not in space:
            return space, None
        return Dict({name: part for name, part in space.items if name != MASK}), space[MASK]

    @property
    def obs_space(self) -> Space:
        space, mask = self._parts()
        flat = Box(*_flat_bounds(space))
        return flat if mask is None else Dict({"observation": flat, MASK: mask})

    def _flat(self, obs: PyTree) -> PyTree:
        space, mask = self._parts()
        flat = spaces.flatten(space, obs)
        return flat if mask is None else {"observation": flat, MASK: obs[MASK]}

    def reset(self, key: Key) -> tuple[Any, PyTree]:
        state, obs = self.env.reset(key)
        return state, self._flat(obs)

    def step(self, state: Any, action: jax.Array, key: Key) -> tuple[Any, Step]:
        state, step = self.env.step(state, action, key)
        return state, dataclasses.replace(step, obs=self._flat(step.obs))


@struct
class Stacked:
    """The last k observations, oldest first along the last axis."""

    inner: PyTree
    frames: jax.Array  # [..., k * C]


@struct
class FrameStack(Wrapper):
    """The last `k` observations joined along the last axis, oldest first. An episode starts with
    its first observation repeated.

    Off-policy agents need no wrapper: replay stacks on read and stores every frame once.
    """

    k: int = static("observations in a stack", default=4, low=1)

    def _inner_space(self) -> Box:
        space = self.env.obs_space
        if not isinstance(space, Box) or not space.shape:
            raise TypeError(
                f"FrameStack needs a Box of observations with an axis to join, not "
                f"{spaces.describe(space)}; write FrameStack(Flatten(env), {self.k})."
            )
        return space

    @property
    def obs_space(self) -> Box:
        space = self._inner_space()
        low, high = (_full(b, space.shape) for b in (space.low, space.high))
        low, high = (np.concatenate([b] * self.k, -1) for b in (low, high))
        return Box(low, high, dtype=space.dtype)

    def reset(self, key: Key) -> tuple[Stacked, jax.Array]:
        self._inner_space()
        state, obs = self.env.reset(key)
        frames = jnp.concatenate([obs] * self.k, -1)
        return Stacked(state, frames), frames

    def step(self, state: Stacked, action: jax.Array, key: Key) -> tuple[Stacked, Step]:
        inner, step = self.env.step(state.inner, action, key)
        kept = state.frames[..., step.obs.shape[-1] :]
        frames = jnp.concatenate([kept, step.obs], -1)
        return Stacked(inner, frames), dataclasses.replace(step, obs=frames)

    def render(self, state: Stacked) -> Picture:
        return render(self.env, state.inner)

    def inherit(self, state: Stacked, fresh: Stacked) -> Stacked:
        return dataclasses.replace(fresh, inner=inherit(self.env, state.inner, fresh.inner))


@struct
class LastActionReward(Wrapper):
    """Vectors of observations with the last action (one-hot if discrete) and the last reward
    appended, both zero at the start: what an agent with memory needs to learn within an episode
    (Duan et al., "RL^2", 2016)."""

    @property
    def obs_space(self) -> Box:
        space = self.env.obs_space
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise TypeError(
                f"LastActionReward needs a Box with one axis, not {spaces.describe(space)}; "
                "write LastActionReward(Flatten(env))."
            )
        action_low, action_high = _flat_bounds(self.action_space)
        low = [*_flat_bounds(space)[0], *np.minimum(action_low, 0), -np.inf]
        high = [*_flat_bounds(space)[1], *np.maximum(action_high, 0), np.inf]
        return Box(low, high)

    def reset(self, key: Key) -> tuple[Any, jax.Array]:
        state, obs = self.env.reset(key)
        nothing = jnp.zeros(spaces.size(self.action_space) + 1, jnp.float32)
        return state, jnp.concatenate([obs.astype(jnp.float32), nothing])

    def step(self, state: Any, action: jax.Array, key: Key) -> tuple[Any, Step]:
        state, step = self.env.step(state, action, key)
        last = spaces.flatten(self.action_space, action)
        obs = jnp.concatenate([step.obs.astype(jnp.float32), last, step.reward[None]])
        return state, dataclasses.replace(step, obs=obs)


@struct
class SelectObs(Wrapper):
    """Only some entries of a vector of observations: `SelectObs(env, (0, 2))` hides CartPole's
    velocities, so that one observation no longer says what comes next."""

    keep: tuple[int, ...] = static("which entries are seen", default=(0,))

    @property
    def obs_space(self) -> Box:
        space = self.env.obs_space
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise TypeError(
                f"SelectObs needs a Box with one axis, not {spaces.describe(space)}; "
                f"write SelectObs(Flatten(env), {self.keep})."
            )
        wrong = [i for i in self.keep if not 0 <= i < space.shape[0]]
        if wrong or not self.keep:
            raise ValueError(
                f"keep={self.keep} must name entries from 0 to {space.shape[0] - 1} of the "
                "observation, at least one."
            )
        index = list(self.keep)
        low, high = (_full(b, space.shape)[index] for b in (space.low, space.high))
        return Box(low, high, dtype=space.dtype)

    def _seen(self, obs: jax.Array) -> jax.Array:
        return obs[jnp.array(self.keep)]

    def reset(self, key: Key) -> tuple[Any, jax.Array]:
        state, obs = self.env.reset(key)
        return state, self._seen(obs)

    def step(self, state: Any, action: jax.Array, key: Key) -> tuple[Any, Step]:
        state, step = self.env.step(state, action, key)
        return state, dataclasses.replace(step, obs=self._seen(step.obs))
