"""GTD2 and TDC: off-policy prediction that converges with any features.

Both descend the projected Bellman error with second weights v that learn the least-squares answer
to what error the features predict (Sutton et al. 2009; Sutton and Barto 2018, section 11.7):

    v <- v + lr_second rho (delta - v . x) x
    GTD2:  w <- w + lr rho (x - gamma x') (v . x)
    TDC:   w <- w + lr rho (delta x - gamma x' (v . x))
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl import features
from jaxrl.features import Vector
from jaxrl.linear import Move, Prediction, Weights, part
from jaxrl.struct import Float, param, struct
from jaxrl.types import PyTree, Spec


def gtd2(
    w: jax.Array,
    v: jax.Array,
    x: Vector,
    next_x: Vector,
    delta: jax.Array,
    discount: jax.Array,
    step: jax.Array,
    rates: jax.Array | None = None,
) -> jax.Array:
    """w [n] after `step` = lr rho; `discount` is gamma, or 0 after a termination."""
    del delta
    predicted = features.dot(v, x)
    w = features.add(w, x, step * predicted, rates)
    return features.add(w, next_x, -step * discount * predicted, rates)


def tdc(
    w: jax.Array,
    v: jax.Array,
    x: Vector,
    next_x: Vector,
    delta: jax.Array,
    discount: jax.Array,
    step: jax.Array,
    rates: jax.Array | None = None,
) -> jax.Array:
    """As `gtd2`: the semi-gradient step, and a correction."""
    w = features.add(w, x, step * delta, rates)
    return features.add(w, next_x, -step * discount * features.dot(v, x), rates)


def second(
    v: jax.Array, x: Vector, delta: jax.Array, step: jax.Array, rates: jax.Array | None = None
) -> jax.Array:
    """v [n] after `step` = lr_second rho."""
    return features.add(v, x, step * (delta - features.dot(v, x)), rates)


@struct
class GTD2(Prediction):
    """GTD2, or with another `descend` TDC."""

    lr_second: Float = param("step size of the second weights", default=0.1, above=0)

    def extra(self, spec: Spec) -> PyTree:
        """The second weights."""
        return jnp.zeros(self.features.size(part(spec.obs_space)))

    def learn_from(
        self, weights: Weights, memory: PyTree, move: Move, spec: Spec
    ) -> tuple[Weights, PyTree, jax.Array]:
        assert move.rho is not None
        delta, rates, rho = self.error(weights.w, move), self.rates(spec), move.rho
        discount = jnp.where(move.terminated, 0.0, self.gamma)
        share = self.alpha(spec) / self.lr
        w = self.descend(
            weights.w, weights.extra, move.x, move.next_x, delta, discount,
            self.alpha(spec) * rho, rates,
        )  # fmt: skip
        v = second(weights.extra, move.x, delta, self.lr_second * share * rho, rates)
        return Weights(w, v), memory, delta

    descend = staticmethod(gtd2)


@struct
class TDC(GTD2):
    """TDC: TD with gradient correction."""

    descend = staticmethod(tdc)
