"""The dueling head."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxrl.losses.value import dueling
from jaxrl.networks.modules import dense
from jaxrl.types import PyTree


class Dueling(nn.Module):
    """A torso and two linear outputs, state value and advantages, joined to action values. As for
    `Headed`, a torso that remembers takes `carry` and its memory is returned beside them."""

    torso: nn.Module
    outputs: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *carry: PyTree) -> Any:
        features, memory = self.torso(x, *carry) if carry else (self.torso(x), None)
        value = dense(1, self.scale)(features)
        q = dueling(value, dense(self.outputs, self.scale)(features))
        return (q, memory) if carry else q
