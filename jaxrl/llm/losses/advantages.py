"""How much better than its peers a completion is, without a value network.

Rewards have shape [P, G]: P prompts, G completions of each. A completion that could not be scored
has the reward NaN: it is left out of every mean and deviation and gets the advantage 0, which is
not the same as a reward of 0. Flatten the result to [S] for the loss.

Dividing by the deviation of a group makes easy and hard prompts count alike, and that is a bias
(Liu et al. 2025, Dr. GRPO); every system does it with another `ddof` and another `eps`, so both are
arguments. A group whose rewards are all equal says nothing: its advantages are exactly 0. Without
care, rounding leaves 1e-9 in the numerator and an eps of 1e-9 makes a half of it.

Groups must be whole when these functions are called; batch statistics must see the whole batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.losses.ppo import returns, whiten
from jaxrl.struct import Float


def combine(rewards: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted sum of F reward functions, [F, P, G], [F] -> [P, G]. A function that cannot score a
    completion (NaN) is left out; if none can, the result is NaN."""
    known = ~jnp.isnan(rewards)
    total = jnp.where(known, rewards * weights[:, None, None], 0.0).sum(axis=0)
    return jnp.where(known.any(axis=0), total, jnp.nan)


def degenerate(reward: jax.Array) -> jax.Array:
    """[P] bool: groups without information, all scored rewards equal (or none scored)."""
    known = ~jnp.isnan(reward)
    high = jnp.where(known, reward, -jnp.inf).max(axis=-1)
    low = jnp.where(known, reward, jnp.inf).min(axis=-1)
    return high <= low


def _mean(x: jax.Array, known: jax.Array, axis: int | None) -> jax.Array:
    total = jnp.where(known, x, 0.0).sum(axis=axis, keepdims=True)
    return total / jnp.maximum(known.sum(axis=axis, keepdims=True), 1)


def _std(x: jax.Array, known: jax.Array, axis: int | None, ddof: int) -> jax.Array:
    gap = jnp.where(known, x - _mean(x, known, axis), 0.0)
    count = known.sum(axis=axis, keepdims=True)
    return jnp.sqrt(jnp.square(gap).sum(axis=axis, keepdims=True) / jnp.maximum(count - ddof, 1))


def centred(reward: jax.Array) -> jax.Array:
    """r - mean of the group (Dr. GRPO)."""
    known = ~jnp.isnan(reward) & ~degenerate(reward)[:, None]
    return jnp.where(known, reward - _mean(reward, known, -1), 0.0)


def standardised(reward: jax.Array, *, ddof: int = 1, eps: Float = 1e-4) -> jax.Array:
    """(r - mean) / (std + eps), both of the group (GRPO, Shao et al. 2024)."""
    known = ~jnp.isnan(reward)
    return centred(reward) / (_std(reward, known, -1, ddof) + eps)


def batch_standardised(reward: jax.Array, *, ddof: int = 1, eps: Float = 1e-4) -> jax.Array:
    """(r - mean of the group) / (std of the batch + eps): prompts keep their relative weight."""
    known = ~jnp.isnan(reward)
    return centred(reward) / (_std(reward, known, None, ddof) + eps)


def _others(reward: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> known [P, G], number of other scored completions [P, G], their mean [P, G]."""
    known = ~jnp.isnan(reward)
    count = (known.sum(axis=-1, keepdims=True) - known).astype(jnp.float32)
    value = jnp.where(known, reward, 0.0)
    mean = (value.sum(axis=-1, keepdims=True) - value) / jnp.maximum(count, 1.0)
    return known & (count > 0), count, mean


def leave_one_out(reward: jax.Array) -> jax.Array:
    """r_i - mean of the others' rewards: an unbiased baseline (RLOO, Kool et al. 2019; Ahmadian et
    al. 2024). Equal to G / (G - 1) times `centred`."""
    known, _, mean = _others(reward)
    return jnp.where(known & ~degenerate(reward)[:, None], reward - mean, 0.0)


def leave_one_out_standardised(reward: jax.Array, *, ddof: int = 1, eps: Float = 1e-6) -> jax.Array:
    """(r_i - mean of the others) / (std of the others + eps) where that std is above 0, otherwise
    the difference alone (NeMo-RL)."""
    known, count, mean = _others(reward)
    # [P, i, j]: squared distance of j from the mean of the others of i, never as E[x^2] - E[x]^2,
    # which loses every digit when rewards are alike.
    gap = jnp.where(jnp.isnan(reward), 0.0, reward)[:, None, :] - mean[:, :, None]
    other = ~jnp.isnan(reward)[:, None, :] & ~jnp.eye(reward.shape[-1], dtype=bool)
    square = jnp.where(other, jnp.square(gap), 0.0).sum(axis=-1)
    std = jnp.sqrt(square / jnp.maximum(count - ddof, 1.0))
    # Equal rewards leave a std of rounding errors: ask for equality itself.
    spread = jnp.where(other, reward[:, None, :], -jnp.inf).max(-1) > jnp.where(
        other, reward[:, None, :], jnp.inf
    ).min(-1)
    advantage = leave_one_out(reward)
    return jnp.where(known & spread, advantage / (std + eps), advantage)


def remax(reward: jax.Array, greedy: jax.Array) -> jax.Array:
    """r - reward of the greedy completion of the same prompt [P] (ReMax, Li et al. 2024)."""
    advantage = reward - greedy[:, None]
    return jnp.where(jnp.isnan(advantage), 0.0, advantage)


def gdpo(rewards: jax.Array, weights: jax.Array, *, ddof: int = 1, eps: Float = 1e-4) -> jax.Array:
    """Each of F rewards [F, P, G] standardised in its group, then summed with weights [F], then
    whitened over the batch: a reward with a small spread is not drowned by one with a large one."""
    single = jax.vmap(lambda r: standardised(r, ddof=ddof, eps=eps))(rewards)
    total = (single * weights[:, None, None]).sum(axis=0)
    known = ~jnp.isnan(rewards).all(axis=0)
    gap = jnp.where(known, total - _mean(total, known, None), 0.0)
    return gap / (_std(total, known, None, ddof) + eps)


def reinforce_plus_plus(
    reward: jax.Array, layout: Layout, *, gamma: Float = 1.0, ddof: int = 1, eps: Float = 1e-8
) -> jax.Array:
    """Token rewards [R, L] (from `ppo.token_rewards`) summed to the end, whitened over the tokens
    of the batch: no critic and no groups (Hu 2025). For the variant with a baseline subtract the
    group's mean (`centred`) from the scores before they become token rewards."""
    return whiten(returns(reward, layout, gamma=gamma), layout, ddof=ddof, eps=eps)
