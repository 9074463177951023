"""Distillation: a student learns the distribution of a teacher, token by token.

On-policy distillation takes the tokens from the student (Agarwal et al. 2024, GKD), so it learns
where it will be. Both distributions over the whole vocabulary are needed at each position; they are
made in chunks and never for the whole batch. A divergence takes log-probabilities [..., V] of
student and teacher and returns [...].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.logprobs import in_chunks
from jaxrl.struct import static, struct

Divergence = Callable[[jax.Array, jax.Array], jax.Array]


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL(p || q) of log-probabilities [..., V] -> [...]. What p cannot draw adds nothing."""
    possible = p > -jnp.inf
    gap = jnp.where(possible, p, 0.0) - jnp.where(possible, q, 0.0)
    return jnp.sum(jnp.where(possible, jnp.exp(p) * gap, 0.0), axis=-1)


def forward_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(teacher || student): the student covers all the teacher does."""
    return _kl(teacher, student)


def reverse_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(student || teacher): the student keeps to what the teacher likes (MiniLLM)."""
    return _kl(student, teacher)


@struct
class GeneralisedJSD:
    """beta KL(T || M) + (1 - beta) KL(S || M), M = beta T + (1 - beta) S, 0 < beta < 1 (Agarwal et
    al. 2024, eq. 1). Divided by beta it tends to the forward KL for beta -> 0, divided by 1 - beta
    to the reverse KL for beta -> 1; the ends themselves are the functions above (TRL's beta 0, 1).
    """

    beta: float = static("weight of the teacher", default=0.5)

    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        if not 0.0 < self.beta < 1.0:
            raise ValueError(
                f"beta={self.beta}; need 0 < beta < 1. For 0 use forward_kl, for 1 reverse_kl."
            )
        mixed = jnp.logaddexp(teacher + math.log(self.beta), student + math.log1p(-self.beta))
        return self.beta * _kl(teacher, mixed) + (1.0 - self.beta) * _kl(student, mixed)


def token_divergence(
    divergence: Divergence,
    student: Callable[[jax.Array], jax.Array],
    teacher: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    teacher_hidden: jax.Array,
    *,
    chunk: int = 128,
) -> jax.Array:
    """hidden [..., L, D], teacher_hidden [..., L, D'] -> divergences [..., L], to be aggregated.

    `student` and `teacher` make logits [..., V] of hidden states (`logprobs.logits` with the
    matrix bound), both with the temperature of distillation. No gradient reaches the teacher.
    """

    def one(h: jax.Array, t: jax.Array, index: jax.Array) -> jax.Array:
        del index
        ours = jax.nn.log_softmax(student(h), axis=-1)
        theirs = jax.lax.stop_gradient(jax.nn.log_softmax(teacher(t), axis=-1))
        return divergence(ours, theirs)

    index = jnp.zeros(hidden.shape[:-1], jnp.int32)  # says which axis is the length
    return in_chunks(one, chunk, hidden, teacher_hidden, index)
