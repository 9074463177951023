"""Thompson sampling: an arm is pulled as often as it is likely to be the best (Thompson 1933).

A mean is drawn for every arm from what is believed of it, and the arm with the highest is pulled.
`BernoulliThompson` is for rewards of 0 or 1 with beta beliefs, `GaussianThompson` for rewards with
a known spread with normal ones; with `drift` the belief of every arm widens at every pull, as it
must where the means walk.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl import tables
from jaxrl.arms import Arms, State
from jaxrl.struct import Float, param, struct
from jaxrl.types import Key, PyTree


@struct
class Beta:
    ones: jax.Array  # [A]
    zeros: jax.Array  # [A]


@struct
class BernoulliThompson(Arms):
    """Thompson sampling with beta beliefs."""

    ones: Float = param("successes of every arm believed in at the start", default=1.0, above=0)
    zeros: Float = param("failures of every arm believed in at the start", default=1.0, above=0)

    def begin(self, count: int) -> PyTree:
        return Beta(jnp.zeros(count) + self.ones, jnp.zeros(count) + self.zeros)

    def best(self, known: Beta) -> jax.Array:
        return known.ones / (known.ones + known.zeros)

    def choose(self, state: State, key: Key, num_envs: int) -> jax.Array:
        known = state.known
        shape = (num_envs, *known.ones.shape)
        drawn = jax.random.beta(key, known.ones, known.zeros, shape)
        return jnp.argmax(drawn, axis=-1).astype(jnp.int32)

    def learn_from(
        self, known: Beta, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        error = reward - self.best(known)[action]
        ones = tables.add(known.ones, (action,), reward)
        return Beta(ones, tables.add(known.zeros, (action,), 1.0 - reward)), error


@struct
class Normal:
    mean: jax.Array  # [A]
    precision: jax.Array  # [A]: 1 / variance


@struct
class GaussianThompson(Arms):
    """Thompson sampling with normal beliefs."""

    mean: Float = param("mean of every arm believed in at the start", default=0.0)
    spread: Float = param("standard deviation of that belief", default=1.0, above=0)
    noise: Float = param("standard deviation of the rewards of an arm", default=1.0, above=0)
    drift: Float = param("standard deviation of the walk of the means", default=0.0, low=0)

    def begin(self, count: int) -> PyTree:
        return Normal(jnp.zeros(count) + self.mean, jnp.zeros(count) + self.spread**-2.0)

    def best(self, known: Normal) -> jax.Array:
        return known.mean

    def choose(self, state: State, key: Key, num_envs: int) -> jax.Array:
        known = state.known
        noise = jax.random.normal(key, (num_envs, *known.mean.shape))
        return jnp.argmax(known.mean + noise * known.precision**-0.5, axis=-1).astype(jnp.int32)

    def learn_from(
        self, known: Normal, action: jax.Array, reward: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        error = reward - known.mean[action]
        precision = known.precision[action] + self.noise**-2.0
        gain = self.noise**-2.0 / precision
        mean = tables.add(known.mean, (action,), gain * error)
        sure = tables.add(known.precision, (action,), jnp.asarray(self.noise**-2.0))
        return Normal(mean, 1.0 / (1.0 / sure + self.drift**2)), error
