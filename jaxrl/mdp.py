"""A Markov decision process whose model is known, as arrays.

The dense form holds every transition probability, the sparse form only those that are possible. A
probability here is that of *going on* in the next state: what a row lacks of 1 ends the episode.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks
from jaxrl.struct import Float, param, struct

WIDEST = 2**31 - 1


@struct
class Sparse:
    """For every state and action the states it may lead to, filled up to the same number K with
    next states of probability 0.

    Rows of equal length turn the expectation into one gather and one sum over the last axis, which
    compilers vectorise; sums over the segments of a compressed row format are scattered instead,
    and several times slower."""

    probability: jax.Array  # [S, A, K]
    next_state: jax.Array  # [S, A, K] int32


@struct
class MDP:
    """`terminal` states are worth 0 whatever P and R say. `start` is the distribution of the first
    state, where there is one. Leading axes come from `vmap`: a stack of models is one model."""

    P: jax.Array | Sparse  # [S, A, S] or Sparse: probability of going on in the next state
    R: jax.Array  # [S, A]: expected reward
    gamma: Float = param("discount", default=0.99, low=0.0, high=1.0)
    terminal: jax.Array | None = None  # [S] bool
    start: jax.Array | None = None  # [S]

    @property
    def num_states(self) -> int:
        return self.R.shape[-2]

    @property
    def num_actions(self) -> int:
        return self.R.shape[-1]

    @classmethod
    def from_env(cls, env: Any, gamma: Float = 0.99, dense: bool = False) -> MDP:
        """The exact model of a finite environment, over its states (`observe` tells what an agent
        would see of them). The time limit is left out: it is no property of the task.

        Terminal are the states in which an episode ends and through which none goes. Works inside
        `vmap` over the environment's constants. Under `jax.enable_x64` all is float64."""
        while getattr(env, "keeps_model", False):
            env = env.env
        if not hasattr(env, "transitions"):
            raise TypeError(
                f"{type(env).__name__} does not tell its transitions; MDP.from_env needs a finite "
                'environment, such as jaxrl.envs.make("FrozenLake-v1"), or a subclass of '
                "jaxrl.envs.Finite, without wrappers that change actions or rewards."
            )
        mdp = dataclasses.replace(_model(env), gamma=gamma)
        return mdp.dense() if dense else mdp

    @classmethod
    def from_transitions(
        cls,
        state: Any,
        action: Any,
        probability: Any,
        next_state: Any,
        reward: Any,
        *,
        num_states: int,
        num_actions: int,
        terminated: Any = None,
        gamma: Float = 0.99,
    ) -> MDP:
        """From lists with one entry per possible transition, in any order; `terminated` marks those
        that end the episode."""
        listed = (np.asarray(x) for x in (state, action, probability, next_state, reward))
        s, a, p, to, r = (x.ravel() for x in listed)
        over = np.zeros(len(s), bool) if terminated is None else np.asarray(terminated).ravel()
        _listed(s, a, p, to, num_states, num_actions)
        pair = s * num_actions + a
        R = np.bincount(pair, p * r, minlength=num_states * num_actions)
        goes_on = ~over & (p > 0)
        pair, p, to = pair[goes_on], p[goes_on], to[goes_on]
        order = np.argsort(pair, kind="stable")
        pair, p, to = pair[order], p[order], to[order]
        count = np.bincount(pair, minlength=num_states * num_actions)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        width = max(1, int(count.max(initial=0)))
        table = (
            np.zeros((num_states * num_actions, width)),
            np.zeros((num_states * num_actions, width), np.int32),
        )
        table[0][pair, place], table[1][pair, place] = p, to
        shape = (num_states, num_actions, width)
        P = Sparse(_float(table[0].reshape(shape)), jnp.asarray(table[1].reshape(shape)))
        return cls(P, _float(R.reshape(num_states, num_actions)), gamma)

    def dense(self) -> MDP:
        """The same model with P as [S, A, S]."""
        if not isinstance(self.P, Sparse):
            return self
        shape = (self.num_states, self.num_actions, self.num_states)
        s, a, _ = jnp.ogrid[: shape[0], : shape[1], :1]
        zero = jnp.zeros(shape, self.P.probability.dtype)
        P = zero.at[s, a, self.P.next_state].add(self.P.probability)
        return MDP(P, self.R, self.gamma, self.terminal, self.start)

    def check(self) -> MDP:
        """Refuse shapes that do not fit and probabilities that are none; -> itself."""
        checks.hyperparameters(self)
        rows = self.P.probability if isinstance(self.P, Sparse) else self.P
        if rows.shape[:2] != self.R.shape:
            raise ValueError(
                f"P has {rows.shape[:2]} states and actions, R has {self.R.shape}: give P as "
                "[S, A, S] or Sparse [S, A, K], R as [S, A]."
            )
        if not isinstance(self.P, Sparse) and rows.shape[2] != self.num_states:
            raise ValueError(f"P has shape {rows.shape}; its last axis must have S entries.")
        for name in ("terminal", "start"):
            value = getattr(self, name)
            if value is not None and value.shape != (self.num_states,):
                raise ValueError(f"{name} has shape {value.shape}, not ({self.num_states},).")
        sums = np.asarray(rows.sum(-1))
        if (np.asarray(rows) < 0).any() or (sums > 1 + 1e-4).any() or np.isnan(sums).any():
            raise ValueError(
                f"the probabilities of a state and action sum to {sums.max():g}, or one is "
                "negative; a row must sum to 1, or to less where the episode may end."
            )
        return self


def _float(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.result_type(float))


def _listed(
    s: np.ndarray, a: np.ndarray, p: np.ndarray, to: np.ndarray, states: int, actions: int
) -> None:
    if states * actions > WIDEST:
        raise ValueError(f"{states:_} states x {actions} actions are more than 2**31 - 1 pairs.")
    for name, index, size in (("state", s, states), ("action", a, actions), ("next", to, states)):
        if len(index) != len(p):
            raise ValueError(f"{name} has {len(index)} entries, probability {len(p)}.")
        if len(index) and not (index.min() >= 0 and index.max() < size):
            raise ValueError(f"{name} must be from 0 to {size - 1}; it reaches {index.max()}.")


@jax.jit
def _model(env: Any) -> MDP:
    """The sparse model, without a discount: compiled once per kind of environment."""
    S, A = env.num_states, env.num_actions
    per_action = jax.vmap(env.transitions, (None, 0))
    table = jax.vmap(per_action, (0, None))(jnp.arange(S), jnp.arange(A))  # [S, A, K]
    p = table.probability
    going_on = jnp.where(table.terminated, 0, p)
    rewards = jnp.sum(p * table.reward, -1)
    starts = np.asarray(env.starts, np.int32)
    start = jnp.zeros(S, p.dtype).at[starts].add(1 / len(starts))
    reached = _reachable(going_on, table.next_state, start > 0)
    ends = (table.terminated & (p > 0) & reached[:, None, None]).astype(jnp.int32)
    ended = jnp.zeros(S, jnp.int32).at[table.next_state].max(ends) > 0
    return MDP(Sparse(going_on, table.next_state), rewards, 1.0, ended & ~reached, start)


def _reachable(p: jax.Array, next_state: jax.Array, first: jax.Array) -> jax.Array:
    """[S] bool: states in which an episode may be before it ends."""

    def grow(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reached, _ = carry
        into = ((p > 0) & reached[:, None, None]).astype(jnp.int32)
        more = reached | (jnp.zeros_like(reached, jnp.int32).at[next_state].max(into) > 0)
        return more, jnp.any(more != reached)

    return jax.lax.while_loop(lambda carry: carry[1], grow, (first, jnp.ones((), bool)))[0]
