"""Running moments, and agents that see normalised observations or rewards.

Normalisation is a wrapper around an agent, not around an environment: the moments then belong to
the agent's state, are shared by all its environments, are saved and restored with it, and cannot
change during evaluation, because only `update` changes state. A rollout is learned from with the
same moments it was played with.

    agent = jaxrl.NormalizeObs(jaxrl.NormalizeReward(jaxrl.PPO()))
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import rollout as rollouts
from jaxrl import spaces
from jaxrl.struct import Float, param, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Rollout, Spec


@struct
class Moments:
    mean: jax.Array
    var: jax.Array
    count: jax.Array  # float32; after 2**24 samples the moments move ever more slowly, not wrongly

    @classmethod
    def unit(cls, shape: tuple[int, ...]) -> Moments:
        return cls(jnp.zeros(shape), jnp.ones(shape), jnp.array(1e-4))


def merge(moments: Moments, x: jax.Array) -> Moments:
    """The moments after seeing `x`, with one leading axis of samples (Chan et al. 1983).

    Deviations are squared after the mean is taken out: E[x^2] - E[x]^2 would lose all digits.
    """
    mean, var, count = x.mean(0), x.var(0), x.shape[0]
    total = moments.count + count
    delta = mean - moments.mean
    m2 = moments.var * moments.count + var * count
    m2 += jnp.square(delta) * moments.count * count / total
    return Moments(moments.mean + delta * count / total, m2 / total, total)


def _check_inner(agent: Any, name: str) -> None:
    if hasattr(agent, "capacity"):
        raise TypeError(
            f"{name}({type(agent).__name__}) would fill a replay with values normalised by moments "
            "that later change; normalise on-policy agents only, or scale in an environment "
            "wrapper with fixed constants."
        )


@struct
class _Wrapper:
    """What every wrapping agent passes on."""

    agent: Any

    @property
    def num_envs(self) -> int:
        return self.agent.num_envs

    @property
    def num_steps(self) -> int:
        return self.agent.num_steps

    def initial_memory(self, num_envs: int) -> PyTree:
        return rollouts.initial_memory(self.agent, num_envs)


@struct
class ObsState:
    moments: Moments
    inner: Any


@struct
class NormalizeObs(_Wrapper):
    """Observations to zero mean, unit variance and clipped (continuous details 5 and 6)."""

    clip: Float = param("bound on normalised observations", default=10.0, above=0)
    eps: Float = param("added to the variance", default=1e-8, low=0)

    def init(self, key: Key, spec: Spec) -> ObsState:
        _check_inner(self.agent, "NormalizeObs")
        space = spec.obs_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"NormalizeObs needs observations that are a float Box, not "
                f"{spaces.describe(space)}; drop the wrapper, or flatten the environment "
                "(jaxrl.envs.Flatten)."
            )
        inner = dataclasses.replace(spec, obs_space=spaces.Box(-np.inf, np.inf, space.shape))
        return ObsState(Moments.unit(space.shape), self.agent.init(key, inner))

    def _normalized(self, moments: Moments, obs: jax.Array) -> jax.Array:
        scaled = (obs - moments.mean) * jax.lax.rsqrt(moments.var + self.eps)
        return jnp.clip(scaled, -self.clip, self.clip)

    def act(
        self, state: ObsState, obs: PyTree, key: Key, explore: bool = True, *memory: PyTree
    ) -> ActOut:
        seen = self._normalized(state.moments, obs)
        return self.agent.act(state.inner, seen, key, explore, *memory)

    def update(self, state: ObsState, rollout: Rollout, key: Key) -> tuple[ObsState, Metrics]:
        seen = dataclasses.replace(
            rollout,
            obs=self._normalized(state.moments, rollout.obs),
            last_obs=self._normalized(state.moments, rollout.last_obs),
            final_obs=self._normalized(state.moments, rollout.final_obs),
        )
        inner, metrics = self.agent.update(state.inner, seen, key)
        samples = rollout.obs.reshape(-1, *rollout.obs.shape[2:])
        return ObsState(merge(state.moments, samples), inner), metrics


@struct
class RewardState:
    moments: Moments
    discounted: jax.Array  # [N] running discounted return of each environment
    inner: Any


def running_returns(
    start: jax.Array, reward: jax.Array, ended: jax.Array, gamma: Float
) -> tuple[jax.Array, jax.Array]:
    """G_t = gamma G_{t-1} + r_t within episodes, over [T, N]; -> what is carried on, all G_t.

    The reset comes after the value at the end of an episode was used.
    """

    def step(g: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward, ended = x
        g = gamma * g + reward
        return jnp.where(ended, 0.0, g), g

    return jax.lax.scan(step, start, (reward, ended))


@struct
class NormalizeReward(_Wrapper):
    """Rewards divided by the standard deviation of the discounted return, and clipped (details of
    PPO's 37: continuous 7, 8). The mean is left in place: shifting rewards changes the task."""

    gamma: Float = param(
        "discount of the return whose spread is measured", default=0.99, low=0, high=1
    )
    clip: Float = param("bound on scaled rewards", default=10.0, above=0)
    eps: Float = param("added to the variance", default=1e-8, low=0)

    def init(self, key: Key, spec: Spec) -> RewardState:
        _check_inner(self.agent, "NormalizeReward")
        inner = self.agent.init(key, spec)
        return RewardState(Moments.unit(()), jnp.zeros(self.num_envs), inner)

    def act(
        self, state: RewardState, obs: PyTree, key: Key, explore: bool = True, *memory: PyTree
    ) -> ActOut:
        return self.agent.act(state.inner, obs, key, explore, *memory)

    def update(self, state: RewardState, rollout: Rollout, key: Key) -> tuple[Any, Metrics]:
        ended = rollout.terminated | rollout.truncated
        carried, returns = running_returns(state.discounted, rollout.reward, ended, self.gamma)
        moments = merge(state.moments, returns.ravel())
        scaled = rollout.reward * jax.lax.rsqrt(moments.var + self.eps)
        scaled = jnp.clip(scaled, -self.clip, self.clip)
        inner, metrics = self.agent.update(
            state.inner, dataclasses.replace(rollout, reward=scaled), key
        )
        return RewardState(moments, carried, inner), metrics


__all__ = ["Moments", "NormalizeObs", "NormalizeReward", "merge", "running_returns"]
