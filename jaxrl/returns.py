"""Returns, advantages and value targets: pure functions over time-major arrays [T, ...].

All take `terminated` and `truncated` apart. A target bootstraps with `1 - terminated`; a trace
(anything that looks beyond step t) is cut at `terminated | truncated`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.types import PyTree, Rollout, Spec


def next_values(
    v_t: jax.Array,
    last_value: jax.Array,
    final_value: jax.Array,
    truncated: jax.Array,
    time_limit: int | None,
) -> jax.Array:
    """V(s_{t+1}) for every step of a rollout, of the true next state where it was truncated.

    `v_t` [T, N] values of `rollout.obs`, `last_value` [N] of `rollout.last_obs`, `final_value`
    [ceil(T / L), N] of `rollout.final_obs`. After a termination the value returned is that of the
    next episode's start: multiply by `1 - terminated`.
    """
    v_tp1 = jnp.concatenate([v_t[1:], last_value[None]])
    if time_limit is None:
        return v_tp1
    num_steps = v_t.shape[0]
    rows = (
        jnp.repeat(final_value, time_limit, axis=0, total_repeat_length=None)[:num_steps]
        if time_limit < num_steps
        else jnp.broadcast_to(final_value[0], v_t.shape)
    )
    return jnp.where(truncated, rows, v_tp1)


def rollout_values(
    value: Callable[[PyTree], jax.Array], rollout: Rollout, spec: Spec
) -> tuple[jax.Array, jax.Array]:
    """-> V(s_t) and V(s_{t+1}), both [T, N], in one pass of the critic.

    The pass covers T + 1 + ceil(T / L) rows: the price of the true final observations is the last
    term, one row for each time limit that fits in the rollout.
    """
    num_steps = rollout.reward.shape[0]

    def stack(obs: jax.Array, last: jax.Array, final: jax.Array) -> jax.Array:
        return jnp.concatenate([obs, last[None], final])

    values = value(jax.tree.map(stack, rollout.obs, rollout.last_obs, rollout.final_obs))
    v_t, last, final = jnp.split(values, [num_steps, num_steps + 1])
    return v_t, next_values(v_t, last[0], final, rollout.truncated, spec.time_limit)


def gae(
    reward: jax.Array,
    v_t: jax.Array,
    v_tp1: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: float | jax.Array,
    lam: float | jax.Array,
) -> jax.Array:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16).

    A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t), with the
    bootstrap dropped at a termination and the sum cut at the end of every episode.
    """
    delta = reward + gamma * v_tp1 * (1.0 - terminated) - v_t
    decay = gamma * lam * (1.0 - (terminated | truncated))

    def step(advantage: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta_t, decay_t = x
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages


def n_step(
    reward: jax.Array,
    v_tp1: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: float | jax.Array,
    n: int,
) -> jax.Array:
    """Targets of up to n rewards for the first T - n + 1 of T steps, through which no gradient
    flows. `v_tp1` [T, N] are values of the true next states; an episode that ends within the n
    steps is bootstrapped from its own last state, or not at all."""
    ended = terminated | truncated
    one = reward + gamma * jnp.where(terminated, 0.0, v_tp1)
    target = one
    for _ in range(n - 1):
        size = target.shape[0] - 1
        longer = reward[:size] + gamma * target[1:]
        target = jnp.where(ended[:size], one[:size], longer)
    return jax.lax.stop_gradient(target)


def discounted(
    reward: jax.Array, last_value: jax.Array, terminated: jax.Array, gamma: float | jax.Array
) -> jax.Array:
    """Discounted rewards to go, bootstrapped with `last_value` beyond the last step."""

    def step(value: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reward_t, terminated_t = x
        value = reward_t + gamma * value * (1.0 - terminated_t)
        return value, value

    _, returns = jax.lax.scan(step, last_value, (reward, terminated), reverse=True)
    return returns
