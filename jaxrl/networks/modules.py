"""Torsos and the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.networks.orthogonal import orthogonal
from jaxrl.networks.product import dot_general
from jaxrl.networks.recurrent import Recurrent
from jaxrl.types import PyTree

Activation = Callable[[jax.Array], jax.Array]

SQRT2 = float(np.sqrt(2.0))


def dense(features: int, scale: float) -> nn.Dense:
    """Orthogonal weights of the given gain, zero bias (details 2 of PPO's 37)."""
    return nn.Dense(features, kernel_init=orthogonal(scale), dot_general=dot_general)


class MLP(nn.Module):
    """Fully connected layers, each followed by the activation."""

    hidden: Sequence[int] = (64, 64)
    activation: Activation = nn.tanh
    scale: float = SQRT2

    input_rank = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = self.activation(dense(width, self.scale)(x))
        return x


class MinAtarCNN(nn.Module):
    """One 3x3 convolution and a dense layer, the network of Young & Tian (2019) for 10x10 games."""

    channels: int = 16
    hidden: Sequence[int] = (128,)
    activation: Activation = nn.relu

    input_rank = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = orthogonal(SQRT2)
        x = nn.Conv(self.channels, (3, 3), padding="VALID", kernel_init=init)(x)
        x = self.activation(x)
        x = x.reshape(*x.shape[:-3], -1)
        return MLP(self.hidden, self.activation)(x)


class NatureCNN(nn.Module):
    """Three convolutions for 84x84 frames (Mnih et al. 2015); pixels are divided by 255."""

    hidden: int = 512
    activation: Activation = nn.relu

    input_rank = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = orthogonal(SQRT2)
        x = x / 255.0
        for channels, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.Conv(channels, (size, size), stride, padding="VALID", kernel_init=init)(x)
            x = self.activation(x)
        x = x.reshape(*x.shape[:-3], -1)
        return MLP((self.hidden,), self.activation)(x)


class Headed(nn.Module):
    """A torso and a linear output layer with its own gain. `carry` is for a torso that remembers
    (networks.Recurrent): the memory, and for a sequence the first-step flags. The memory is then
    returned beside the outputs."""

    torso: nn.Module
    outputs: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *carry: PyTree) -> Any:
        if not carry:
            return dense(self.outputs, self.scale)(self.torso(x))
        features, memory = self.torso(x, *carry)
        return dense(self.outputs, self.scale)(features), memory


def prepare(space: spaces.Space, obs: PyTree) -> jax.Array:
    """An observation as the float32 array a torso takes; leading axes are kept.

    Vectors and images keep their shape, discrete observations become one-hot, and of a masked
    observation only the "observation" part is seen by the network.
    """
    if isinstance(space, spaces.Dict):
        if "action_mask" in space:
            return prepare(space["observation"], obs["observation"])
        return spaces.flatten(space, obs)
    if isinstance(space, spaces.Box) and len(space.shape) > 1:
        return jnp.asarray(obs, jnp.float32)
    return spaces.flatten(space, obs)


def example(space: spaces.Space) -> jax.Array:
    """A batch of one all-zero input, to initialise a network with."""
    return prepare(space, spaces.zeros(space, (1,)))


def check_torso(
    torso: nn.Module, space: spaces.Space, argument: str, remembers: bool = False
) -> None:
    """Refuse a torso that cannot take observations of this space, or that remembers where the
    agent does not carry memories (`remembers`)."""
    if isinstance(torso, Recurrent) and not remembers:
        raise TypeError(
            f"{argument}={type(torso).__name__} remembers, but this agent carries no memory: use "
            "jaxrl.PPO or jaxrl.R2D2, or a torso without memory (jaxrl.networks.MLP())."
        )
    needed = getattr(torso, "input_rank", None)
    if needed is None:
        return
    sample = jax.eval_shape(lambda: prepare(space, spaces.zeros(space)))
    if len(sample.shape) != needed:
        remedy = (
            "wrap the environment in jaxrl.envs.Flatten, or give a convolutional torso "
            "(jaxrl.networks.MinAtarCNN())"
            if needed == 1
            else "give a fully connected torso (jaxrl.networks.MLP())"
        )
        raise ValueError(
            f"{argument}={type(torso).__name__} takes observations of rank {needed}, but this "
            f"environment gives {spaces.describe(space)}: {remedy}."
        )
