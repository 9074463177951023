"""LSPI: policy iteration by least squares on all transitions seen (Lagoudakis and Parr 2003).

Each update keeps the new transitions and solves for the values of the greedy policy, again and
again until the policy stays. Any data will do, so every transition counts in every solve.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import features
from jaxrl.behaviour import EpsilonGreedy
from jaxrl.features import FeatureMap, TileCoding
from jaxrl.least_squares import HIGHEST, lspi
from jaxrl.linear import Control, State, actions, mask, part, seen
from jaxrl.struct import Float, param, static, struct
from jaxrl.tables import following
from jaxrl.types import Counter, Key, Metrics, PyTree, Rollout, Spec

MOST = 2048


@struct
class Data:
    """C transitions; `discount` is 0 after a termination, `weight` 0 where there is none yet."""

    x: jax.Array  # [C, n]
    action: jax.Array  # [C] int32
    reward: jax.Array  # [C]
    next_x: jax.Array  # [C, n]
    going_on: jax.Array  # [C]: 0 after a termination, else 1
    weight: jax.Array  # [C]
    allowed: jax.Array | None  # [C, A]: next actions
    blocks: Counter  # rollouts that were kept

    store = True  # for jaxrl.guard: too large to look through at every iteration


@struct
class LSPI(Control):
    """Least-squares policy iteration."""

    features: FeatureMap = static(
        "features of an observation", default=TileCoding(tilings=4, tiles=4)
    )
    lr: Float = param("not used: least squares has no step size", default=1.0, low=1, high=1)
    ridge: Float = param("pull of the weights to 0", default=1e-2, above=0)
    tolerance: Float = param("change of weights at which iteration stops", default=1e-3, above=0)
    exploration: Any = param("how actions are chosen", default=EpsilonGreedy(1.0, 0.1))
    iterations: int = static("rounds of policy iteration per update at most", default=10, low=1)
    capacity: int = static("transitions that are kept", default=4096, low=1)
    num_steps: int = static("steps per environment and update", default=256, low=1)

    together = 1  # the one that iterates longest would keep all of them waiting

    def check(self, spec: Spec) -> None:
        count = actions("LSPI", spec)
        size = count * self.features.size(part(spec.obs_space))
        if size > MOST:
            raise ValueError(
                f"LSPI solves {size:_} equations, one for each feature of each of {count} actions: "
                f"use fewer features, at most {MOST // count}, or jaxrl.LinearSARSALambda."
            )
        if self.capacity < self.num_envs * self.num_steps:
            raise ValueError(
                f"LSPI(capacity={self.capacity}) is less than one rollout of num_envs="
                f"{self.num_envs} x num_steps={self.num_steps}: write capacity="
                f"{self.num_envs * self.num_steps} or more."
            )

    def _blocks(self) -> int:
        return self.capacity // (self.num_envs * self.num_steps)

    def extra(self, spec: Spec) -> PyTree:
        rows = self._blocks() * self.num_envs * self.num_steps
        vectors = jnp.zeros((rows, self.features.size(part(spec.obs_space))))
        numbers, masked = jnp.zeros(rows), part(spec.obs_space) is not spec.obs_space
        return Data(
            x=vectors,
            action=jnp.zeros(rows, jnp.int32),
            reward=numbers,
            next_x=vectors,
            going_on=numbers,
            weight=numbers,
            allowed=jnp.ones((rows, actions("LSPI", spec)), bool) if masked else None,
            blocks=Counter.zero(),
        )

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        del key
        spec, w, data = state.spec, state.weights.w, state.weights.extra
        space, size, count = part(spec.obs_space), w.shape[1], rollout.reward.size
        after = following(rollout, spec)

        def vectors(obs: PyTree) -> jax.Array:
            x = self.features(space, seen(spec.obs_space, obs))
            return features.dense(x, size).reshape(count, size)

        allowed: Any = mask(spec.obs_space, after)
        new = Data(
            x=vectors(rollout.obs),
            action=rollout.action.reshape(count),
            reward=rollout.reward.reshape(count),
            next_x=vectors(after),
            going_on=1.0 - rollout.terminated.reshape(count).astype(jnp.float32),
            weight=jnp.ones(count),
            allowed=None if allowed is None else allowed.reshape(count, -1),
            blocks=data.blocks,
        )
        at = data.blocks.value % self._blocks() * count

        def write(x: Any, y: Any) -> Any:
            if isinstance(x, Counter):
                return x.add(1)
            return jax.lax.dynamic_update_slice_in_dim(x, y, at, 0)

        data = jax.tree.map(write, data, new, is_leaf=lambda x: isinstance(x, Counter))
        found = lspi(
            data.x, data.action, data.reward, data.next_x, self.gamma * data.going_on, len(w),
            ridge=self.ridge, start=w, allowed=data.allowed, weight=data.weight,
            iterations=self.iterations, tolerance=self.tolerance,
        )  # fmt: skip
        q = jnp.matmul(data.next_x, found.w.T, precision=HIGHEST)
        best = jnp.max(q if data.allowed is None else jnp.where(data.allowed, q, -jnp.inf), -1)
        value = jnp.sum(data.x * found.w[data.action], axis=-1)
        error = data.reward + self.gamma * data.going_on * best - value
        loss = jnp.sum(data.weight * jnp.square(error)) / jnp.sum(data.weight)
        weights = dataclasses.replace(state.weights, w=found.w, extra=data)
        state = dataclasses.replace(state, weights=weights, steps=state.steps.add(self.num_steps))
        return state, {"loss/td": loss, "policy/iterations": found.iterations.astype(jnp.float32)}
