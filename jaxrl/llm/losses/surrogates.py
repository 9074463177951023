"""Policy losses of one token: what to do with a ratio that has moved far from 1.

All want r A large (r = pi / old at some level of `ratios`), which is a policy gradient when r = 1.
They differ in how they keep r near 1. The sign of the loss is that of minimisation. A surrogate
gets log r, log pi, A and the layout, each [R, L], and returns losses [R, L].
"""

from __future__ import annotations

import math
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Layout
from jaxrl.struct import Float, param, struct


class Surrogate(Protocol):
    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array: ...


@struct
class Reinforce:
    """-A log pi: the policy gradient itself, one step per batch (Williams 1992)."""

    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array:
        del log_ratio
        return -advantage * layout.keep(log_prob)


@struct
class Clipped:
    """-min(r A, clip(r, 1 - low, 1 + high) A): PPO (Schulman et al. 2017, eq. 7).

    For A < 0 the minimum is the more negative product, so a ratio that is too large is still pulled
    back: with A = -1 and r = 2 the loss is 2, not 1.2. `high` above `low` is DAPO's clip-higher.
    `dual` bounds that pull: for A < 0 the loss is at most -dual A (Ye et al. 2020, dual > 1).
    `delta` caps r in the unclipped product only (two-sided clipping).
    """

    low: Float = param("how far the ratio may fall below 1", default=0.2, low=0.0, high=1.0)
    high: Float = param("how far it may rise above 1", default=0.2, low=0.0)
    dual: Float | None = param("bound for negative advantages", default=None, above=1.0)
    delta: Float | None = param("cap of the unclipped ratio", default=None, above=1.0)

    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array:
        del log_prob, layout
        ratio = jnp.exp(log_ratio)
        free = ratio if self.delta is None else jnp.minimum(ratio, self.delta)
        kept = jnp.clip(ratio, 1.0 - self.low, 1.0 + self.high)
        loss = -jnp.minimum(free * advantage, kept * advantage)
        if self.dual is None:
            return loss
        return jnp.where(advantage < 0.0, jnp.minimum(loss, -self.dual * advantage), loss)


@struct
class Cispo:
    """-sg(clip(r, low, high)) A log pi (MiniMax-M1 2025): the weight is clipped, so every
    token keeps a gradient. The bounds are absolute: high = 5 caps the ratio at 5. (open-instruct
    and NeMo-RL write 1 + high.) Without the stop-gradient it would be another loss."""

    low: Float = param("smallest weight", default=0.0, low=0.0)
    high: Float = param("largest weight", default=5.0, above=0.0)

    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array:
        weight = jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), self.low, self.high))
        return -weight * advantage * layout.keep(log_prob)


@struct
class Sapo:
    """-A (4 / tau) sigmoid(tau (r - 1)), tau by the sign of A (SAPO, Gao et al. 2025): a soft gate
    whose slope at r = 1 is that of PPO and fades on both sides, faster for A <= 0."""

    positive: Float = param("tau for positive advantages", default=1.0, above=0.0)
    negative: Float = param("tau for the others", default=1.05, above=0.0)

    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array:
        del log_prob, layout
        tau = jnp.where(advantage > 0.0, self.positive, self.negative)
        gate = jax.nn.sigmoid(tau * (jnp.exp(log_ratio) - 1.0))
        return -advantage * 4.0 / tau * gate


@struct
class Vespo:
    """-sg(exp(lam + k log w - lam w)) A log pi, w the ratio of the whole completion within
    [1e-8, e^20] (VESPO, 2026): the weight w^k exp(lam (1 - w)) is 1 at w = 1 and falls to 0 at both
    ends. Use the level `ratios.product`. (k, lam) depends on the sign of A."""

    k_positive: Float = param("power of w for positive advantages", default=2.0, low=0.0)
    lam_positive: Float = param("decay in w for positive advantages", default=3.0, low=0.0)
    k_negative: Float = param("power of w for the others", default=3.0, low=0.0)
    lam_negative: Float = param("decay in w for the others", default=2.0, low=0.0)

    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array:
        log_w = jnp.clip(log_ratio, math.log(1e-8), 20.0)
        good = advantage > 0.0
        k = jnp.where(good, self.k_positive, self.k_negative)
        lam = jnp.where(good, self.lam_positive, self.lam_negative)
        weight = jax.lax.stop_gradient(jnp.exp(lam + k * log_w - lam * jnp.exp(log_w)))
        return -weight * advantage * layout.keep(log_prob)


@struct
class Gmpo:
    """-A exp(mean_t x_t), x the log-ratio clipped on one side: at +epsilon for A > 0, at -epsilon
    for A < 0 (GMPO, Zhao et al. 2025). A geometric mean is less moved by one wild token than
    PPO's arithmetic one. Use the level `ratios.token` and `BySequence`."""

    epsilon: Float = param("bound of a log-ratio", default=0.4, above=0.0)

    def __call__(
        self, log_ratio: jax.Array, log_prob: jax.Array, advantage: jax.Array, layout: Layout
    ) -> jax.Array:
        del log_prob
        up = jnp.minimum(log_ratio, self.epsilon)
        down = jnp.maximum(log_ratio, -self.epsilon)
        kept = jnp.where(advantage >= 0.0, up, down)
        return -advantage * jnp.exp(layout.spread(layout.mean(kept)))
