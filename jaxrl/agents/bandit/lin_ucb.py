"""LinUCB and linear Thompson sampling: arms whose worth is linear in the features of a context.

Each arm has its own ridge regression, A = ridge I + sum x x^T and theta = A^-1 sum r x; A^-1 is
changed by Sherman and Morrison's formula. LinUCB (Li et al. 2010, algorithm 1) pulls the arm with
the highest theta . x + width sqrt(x A^-1 x); linear Thompson sampling (Agrawal and Goyal 2013)
draws theta from N(theta, width^2 A^-1) for every arm.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl import behaviour
from jaxrl.arms import Contextual
from jaxrl.least_squares import HIGHEST, sherman_morrison
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, PyTree


@struct
class Regressions:
    inverse: jax.Array  # [A, n, n]
    b: jax.Array  # [A, n]
    theta: jax.Array  # [A, n]


@struct
class LinUCB(Contextual):
    """LinUCB with a regression for every arm."""

    width: Float = param("width of the confidence bound", default=1.0, low=0)
    ridge: Float = param("pull of the weights to 0", default=1.0, above=0)

    def begin(self, count: int, size: int) -> PyTree:
        inverse = jnp.broadcast_to(jnp.eye(size) / self.ridge, (count, size, size))
        return Regressions(inverse, jnp.zeros((count, size)), jnp.zeros((count, size)))

    def best(self, known: Regressions, x: jax.Array) -> jax.Array:
        return jnp.matmul(x, known.theta.T, precision=HIGHEST)

    def choose(self, known: Regressions, x: jax.Array, key: Key) -> jax.Array:
        near = jnp.einsum("ni,aij,nj->na", x, known.inverse, x, precision=HIGHEST)
        bound = self.best(known, x) + self.width * jnp.sqrt(jnp.maximum(near, 0.0))
        return behaviour.sample(key, behaviour.greedy(bound))

    def learn_from(
        self, known: Regressions, x: jax.Array, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        error = reward - jnp.dot(known.theta[action], x, precision=HIGHEST)
        inverse = sherman_morrison(known.inverse[action], x, x)
        b = known.b[action] + reward * x
        theta = jnp.matmul(inverse, b, precision=HIGHEST)
        known = Regressions(
            known.inverse.at[action].set(inverse),
            known.b.at[action].set(b),
            known.theta.at[action].set(theta),
        )
        return known, error


@struct
class LinearThompson(LinUCB):
    """Thompson sampling with linear arms."""

    width: Float = param("spread of the draws", default=1.0, low=0)

    def choose(self, known: Regressions, x: jax.Array, key: Key) -> jax.Array:
        root = jnp.linalg.cholesky(known.inverse)  # [A, n, n]
        noise = jax.random.normal(key, (x.shape[0], *known.theta.shape))  # [N, A, n]
        drawn = jnp.einsum("aij,naj->nai", root, noise, precision=HIGHEST)
        theta = known.theta + self.width * drawn
        value = jnp.einsum("nai,ni->na", theta, x, precision=HIGHEST)
        return jnp.argmax(value, axis=-1).astype(jnp.int32)
