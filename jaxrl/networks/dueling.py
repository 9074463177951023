"""The dueling head."""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxrl.losses.value import dueling
from jaxrl.networks.modules import dense


class Dueling(nn.Module):
    """A torso and two linear outputs, state value and advantages, joined to action values."""

    torso: nn.Module
    outputs: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.torso(x)
        value = dense(1, self.scale)(features)
        return dueling(value, dense(self.outputs, self.scale)(features))
