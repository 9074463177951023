"""PPO on tokens: the actor-critic of InstructGPT (Ziegler et al. 2019; Ouyang et al. 2022).

A completion is an episode whose actions are tokens. The reward of a token is the penalty for
leaving the reference model; the last token also gets the score of the completion:

    r_t = -beta * kl_t + [t is last] * score + process_t

Then generalised advantages, whitened over the batch, the clipped surrogate (`surrogates.Clipped`,
with `dual`) and the clipped error of the value head:

    reward = token_rewards(score, kl, layout, beta=0.05)
    advantage, target = gae(reward, value, layout, gamma=1.0, lam=0.95)
    advantage = whiten(advantage, layout)                       # once, before epochs and parts
    actor, _ = PolicyLoss(core=Clipped())(log_prob, old, advantage, layout)
    critic = value_loss(new_value, value, target, layout, clip=0.2)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Aggregate, ByToken, Layout
from jaxrl.struct import Float

_BY_TOKEN = ByToken()


def _clip(x: jax.Array, limit: Float | None) -> jax.Array:
    return x if limit is None else jnp.clip(x, -limit, limit)


def token_rewards(
    score: jax.Array,
    kl: jax.Array,
    layout: Layout,
    *,
    beta: Float,
    process: jax.Array | None = None,
    score_limit: Float | None = None,
    kl_limit: Float | None = None,
) -> jax.Array:
    """score [S], kl [R, L] (an estimate per token, `kl.k1` say) -> rewards [R, L], no gradient.

    OpenRLHF limits both score and kl to +-10. A completion without tokens has no reward.
    """
    penalty = beta * _clip(layout.keep(kl), kl_limit)
    final = jnp.where(layout.last(), layout.spread(_clip(score, score_limit)), 0.0)
    reward = final - penalty if process is None else final - penalty + layout.keep(process)
    return jax.lax.stop_gradient(reward)


def gae(
    reward: jax.Array,
    value: jax.Array,
    layout: Layout,
    *,
    gamma: Float = 1.0,
    lam: Float = 0.95,
    last_value: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """-> advantages and value targets [R, L], without gradients (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  target = A_t + V_t

    where t + 1 is the next token that counts: tokens in between (the output of a tool) are stepped
    over, not zeroed, and nothing passes from one packed sequence to another. `value[r, t]` is of
    the state before token t. After the last token the value is `last_value` [S], 0 by default; give
    the critic's for completions that were cut off rather than ended.
    """
    mask = layout.mask.astype(bool)
    beyond = jnp.zeros_like(value) if last_value is None else layout.spread(last_value)
    ends = layout.last()

    def step(
        carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        next_value, next_advantage = carry  # [R]
        r, v, m, last, v_beyond = x
        next_value = jnp.where(last, v_beyond, next_value)
        next_advantage = jnp.where(last, 0.0, next_advantage)
        advantage = r + gamma * next_value - v + gamma * lam * next_advantage
        carry = jnp.where(m, v, next_value), jnp.where(m, advantage, next_advantage)
        return carry, jnp.where(m, advantage, 0.0)

    zero = jnp.zeros(value.shape[0], value.dtype)
    xs = (layout.keep(reward), layout.keep(value), mask, ends, beyond)
    _, advantage = jax.lax.scan(step, (zero, zero), tuple(x.T for x in xs), reverse=True)
    advantage = jax.lax.stop_gradient(advantage.T)
    return advantage, jax.lax.stop_gradient(advantage + layout.keep(value))


def returns(reward: jax.Array, layout: Layout, *, gamma: Float = 1.0) -> jax.Array:
    """Discounted sums of token rewards to the end of the completion, [R, L] (REINFORCE++)."""
    return gae(reward, jnp.zeros_like(reward), layout, gamma=gamma, lam=1.0)[0]


def whiten(
    x: jax.Array, layout: Layout, *, ddof: int = 1, eps: Float = 1e-8, centre: bool = True
) -> jax.Array:
    """(x - mean) / sqrt(var + eps) over all counting tokens, [R, L]; others become 0.

    Of the whole batch: whitening the parts of a batch one by one gives another loss. `ddof` 1 is
    Bessel's correction, as in verl and Tunix. `centre=False` scales only.
    """
    count = layout.lengths().sum()
    mean = layout.keep(x).sum() / jnp.maximum(count, 1.0)
    gap = layout.keep(x - mean)
    var = jnp.square(gap).sum() / jnp.maximum(count - ddof, 1.0)
    return layout.keep(gap if centre else x) * jax.lax.rsqrt(var + eps)


def value_loss(
    value: jax.Array,
    old_value: jax.Array,
    target: jax.Array,
    layout: Layout,
    *,
    clip: Float | None = 0.2,
    aggregate: Aggregate = _BY_TOKEN,
    count: Float | None = None,
) -> jax.Array:
    """0.5 * mean max((V - R)^2, (clip(V, V_old +- clip) - R)^2), arrays [R, L]; None: no clip."""
    target = layout.keep(target)
    error = jnp.square(layout.keep(value) - target)
    if clip is not None:
        kept = old_value + jnp.clip(value - old_value, -clip, clip)
        error = jnp.maximum(error, jnp.square(layout.keep(kept) - target))
    return aggregate(0.5 * error, layout, count)
