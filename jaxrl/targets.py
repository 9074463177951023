"""How a target network follows the one that learns."""

from __future__ import annotations

import jax

from jaxrl.losses import value as losses
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Counter, PyTree


@struct
class Hard:
    """Copy the network every so many gradient steps."""

    every: int = static("gradient steps between two copies", default=50, low=1)

    def __call__(self, target: PyTree, online: PyTree, steps: Counter) -> PyTree:
        due = steps.value % self.every == 0
        return jax.lax.cond(due, lambda t, o: o, lambda t, o: t, target, online)


@struct
class Polyak:
    """Move the copy a little after every gradient step."""

    tau: Float = param("share of the online network", default=0.005, above=0, high=1)

    def __call__(self, target: PyTree, online: PyTree, steps: Counter) -> PyTree:
        del steps
        return jax.tree.map(lambda t, o: losses.polyak(t, o, self.tau), target, online)
