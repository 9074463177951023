"""LSTD(lambda): the values of a policy by least squares, without a step size.

A = ridge I + sum z (x - gamma x')^T is kept as its inverse, which each transition changes by
Sherman and Morrison's formula, O(n^2); w = A^-1 b with b = sum r z (Sutton and Barto 2018, section
9.8). The trace z fades by gamma lam; with a `target` it is weighed with pi / mu.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl import features
from jaxrl.features import FeatureMap, TileCoding
from jaxrl.least_squares import HIGHEST, sherman_morrison
from jaxrl.linear import Move, Prediction, Weights, part
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import PyTree, Spec

MOST = 4096


@struct
class Sums:
    inverse: jax.Array  # [n, n]
    b: jax.Array  # [n]


@struct
class LSTD(Prediction):
    """LSTD(lambda)."""

    features: FeatureMap = static(
        "features of an observation", default=TileCoding(tilings=4, tiles=4)
    )
    lr: Float = param("not used: least squares has no step size", default=1.0, low=1, high=1)
    lam: Float = param("how slowly traces fade", default=0.0, low=0, high=1)
    ridge: Float = param("pull of the weights to 0; A begins as ridge I", default=1e-2, above=0)

    def check(self, spec: Spec) -> None:
        size = self.features.size(part(spec.obs_space))
        if size > MOST:
            raise ValueError(
                f"LSTD keeps a matrix of {size:_} x {size:_} numbers: use fewer features, at most "
                f"{MOST}, or jaxrl.LinearTDLambda."
            )

    def begin(self, spec: Spec) -> PyTree:
        return jnp.zeros(self.features.size(part(spec.obs_space)))

    def extra(self, spec: Spec) -> PyTree:
        size = self.features.size(part(spec.obs_space))
        return Sums(jnp.eye(size) / self.ridge, jnp.zeros(size))

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        assert move.rho is not None
        sums, size = weights.extra, weights.w.shape[0]
        delta = self.error(weights.w, move)
        x, next_x = features.dense(move.x, size), features.dense(move.next_x, size)
        z = move.rho * (self.gamma * self.lam * memory + x)
        discount = jnp.where(move.terminated, 0.0, self.gamma)
        inverse = sherman_morrison(sums.inverse, z, x - discount * next_x)
        b = sums.b + move.reward * z
        w = jnp.matmul(inverse, b, precision=HIGHEST)
        return Weights(w, Sums(inverse, b)), jnp.where(move.ended, 0.0, z), delta
