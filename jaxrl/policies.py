"""Stochastic policies for every action space, as the on-policy agents use them.

A policy separates the *raw* action, which has the log-probability, from the action the environment
takes. Storing the raw one keeps importance ratios exact where the environment's is clipped.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl import spaces
from jaxrl.distributions import Categorical, MultiCategorical, Normal, TanhNormal
from jaxrl.networks import Headed
from jaxrl.types import Key, PyTree

Outputs: TypeAlias = jax.Array | tuple[jax.Array, jax.Array]


class Policy(Protocol):
    """A distribution over raw actions, and the way from there to the environment."""

    def sample(self, key: Key) -> jax.Array: ...
    def mode(self) -> jax.Array: ...
    def log_prob(self, raw: jax.Array) -> jax.Array: ...
    def entropy(self) -> jax.Array: ...
    def action(self, raw: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Choice:
    """Discrete actions: the raw action is the action."""

    over: Categorical | MultiCategorical

    def sample(self, key: Key) -> jax.Array:
        return self.over.sample(key)

    def mode(self) -> jax.Array:
        return self.over.mode()

    def log_prob(self, raw: jax.Array) -> jax.Array:
        return self.over.log_prob(raw)

    def entropy(self) -> jax.Array:
        return self.over.entropy()

    def action(self, raw: jax.Array) -> jax.Array:
        return raw


def box(space: spaces.Box) -> tuple[jax.Array, jax.Array]:
    """Centre and half width; an unbounded box is centred at 0 with half width 1."""
    if not space.bounded:
        return jnp.zeros(space.shape), jnp.ones(space.shape)
    low = jnp.broadcast_to(jnp.asarray(space.low, jnp.float32), space.shape)
    high = jnp.broadcast_to(jnp.asarray(space.high, jnp.float32), space.shape)
    return (high + low) / 2, (high - low) / 2


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Normal raw actions in units of the box (-1 .. 1 spans it), clipped on their way out."""

    over: Normal
    space: spaces.Box

    @classmethod
    def of(cls, loc: jax.Array, log_std: jax.Array, space: spaces.Box) -> Gaussian:
        return cls(Normal(loc, log_std), space)

    def sample(self, key: Key) -> jax.Array:
        return self.over.sample(key)

    def mode(self) -> jax.Array:
        return self.over.mode()

    def log_prob(self, raw: jax.Array) -> jax.Array:
        return self.over.log_prob(raw)

    def entropy(self) -> jax.Array:
        return self.over.entropy()

    def action(self, raw: jax.Array) -> jax.Array:
        center, half_width = box(self.space)
        kept = jnp.clip(raw, -1.0, 1.0) if self.space.bounded else raw
        return center + half_width * kept


@dataclasses.dataclass(frozen=True)
class TanhGaussian:
    """Raw actions before a tanh. The density is that of the squashed action on -1 .. 1; its
    entropy is the first-order estimate of `TanhNormal.entropy`."""

    over: TanhNormal
    space: spaces.Box

    @classmethod
    def of(cls, loc: jax.Array, log_std: jax.Array, space: spaces.Box) -> TanhGaussian:
        return cls(TanhNormal(loc, log_std), space)

    def sample(self, key: Key) -> jax.Array:
        return self.over.sample_unsquashed(key)

    def mode(self) -> jax.Array:
        return self.over.loc

    def log_prob(self, raw: jax.Array) -> jax.Array:
        return self.over.log_prob_unsquashed(raw)

    def entropy(self) -> jax.Array:
        return self.over.entropy()

    def action(self, raw: jax.Array) -> jax.Array:
        center, half_width = box(self.space)
        return center + half_width * jnp.tanh(raw)


Continuous: TypeAlias = type[Gaussian] | type[TanhGaussian]


class Actor(nn.Module):
    """A torso and the outputs an action space needs: logits, or means with one free log-standard
    deviation per action dimension that does not depend on the observation."""

    torso: nn.Module
    space: spaces.Space
    scale: float = 0.01

    @nn.compact
    def __call__(self, x: jax.Array, *carry: PyTree) -> Any:
        """-> outputs, and with a `carry` (see `Headed`) the memory beside them."""
        outputs = Headed(self.torso, spaces.size(self.space), self.scale)(x, *carry)
        outputs, memory = outputs if carry else (outputs, None)
        if isinstance(self.space, spaces.Box):
            outputs = outputs, self.param("log_std", nn.initializers.zeros, self.space.shape)
        return (outputs, memory) if carry else outputs


def policy(
    outputs: Outputs, space: spaces.Space, continuous: Continuous, mask: jax.Array | None
) -> Policy:
    """The policy that an `Actor`'s outputs stand for."""
    match space:
        case spaces.Discrete():
            assert isinstance(outputs, jax.Array)
            return Choice(Categorical(outputs, mask))
        case spaces.MultiDiscrete(nvec):
            assert isinstance(outputs, jax.Array)
            return Choice(MultiCategorical(outputs, nvec, mask))
        case spaces.Box():
            assert isinstance(outputs, tuple)
            return continuous.of(*outputs, space)
        case spaces.Dict():
            raise TypeError("policies over Dict action spaces are not supported.")


def check(obs_space: spaces.Space, action_space: spaces.Space, continuous: Continuous) -> None:
    """Refuse what no policy here can do."""
    if isinstance(action_space, spaces.Box):
        if len(action_space.shape) != 1:
            raise ValueError(
                f"the action space is {spaces.describe(action_space)}; a continuous action must "
                "be a vector: flatten it in a wrapper."
            )
        if continuous is TanhGaussian and not action_space.bounded:
            raise ValueError(
                f"policy=TanhGaussian needs a bounded action space, not "
                f"{spaces.describe(action_space)} from {action_space.low} to {action_space.high}; "
                "use policy=jaxrl.policies.Gaussian."
            )
    if isinstance(obs_space, spaces.Dict) and "action_mask" in obs_space:
        if isinstance(action_space, spaces.Box):
            raise ValueError("action_mask is for discrete actions, but the action space is a Box.")
        given, needed = spaces.size(obs_space["action_mask"]), spaces.size(action_space)
        if given != needed:
            raise ValueError(
                f"action_mask has {given} entries for {needed} actions "
                f"({spaces.describe(action_space)})."
            )


def mask(space: spaces.Space, obs: PyTree) -> jax.Array | None:
    """The action mask of an observation, if its space has one."""
    if isinstance(space, spaces.Dict) and "action_mask" in space:
        return obs["action_mask"]
    return None
