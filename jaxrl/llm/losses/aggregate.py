"""From losses of tokens to one number that does not depend on how the batch was cut.

A batch is R rows of L tokens. Without segment ids a row is a sequence; with them a row holds
several, one after the other (packing). `Layout` hides the difference: whatever is said of a
sequence has shape [S], S = R * per_row, and slots without a sequence count nowhere.

Four denominators are in use, and each changes what is learned: by token (long completions weigh
more), by sequence (each completion weighs the same, so a token of a long one weighs less), sums of
sequences, or a constant (Dr. GRPO, Liu et al. 2025: the only one without a length bias).

Every aggregate takes `count`. When the batch is processed in parts (micro-batches, devices), count
first over all the parts and give every part the total; the losses and gradients of the parts then
ADD UP to those of the whole:

    total = sum(aggregate.count(part) for part in parts)
    loss = sum(aggregate(x, part, total) for x, part in ...)

Averaging the means of parts instead weighs a token by the size of the part it fell in, a mistake
that has been found and repaired in most libraries.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrl.struct import Float, param, static, struct


@struct
class Layout:
    """Which tokens count, and to which sequence each belongs."""

    mask: jax.Array
    """[R, L] bool: tokens of the completion, whose log-probabilities count."""
    segment: jax.Array | None = None
    """[R, L] int: 1, 2, ... for the sequences of a row (prompt and completion), 0 for padding."""
    per_row: int = static("most sequences in a row", default=1, low=1)

    def members(self) -> jax.Array:
        """[R, L, K]: does the token belong to the row's k-th sequence?"""
        if self.segment is None:
            return jnp.ones((*self.mask.shape, 1), bool)
        return self.segment[..., None] == jnp.arange(1, self.per_row + 1)

    def keep(self, x: jax.Array) -> jax.Array:
        """x [R, L] with exactly 0 (also as gradient) where a token does not count, even if NaN."""
        return jnp.where(self.mask.astype(bool), x, 0.0)

    def total(self, x: jax.Array) -> jax.Array:
        """Sums over sequences: [R, L] -> [S]."""
        x = self.keep(x)
        if self.segment is None:
            return x.sum(axis=1)
        # A sum of selected numbers: a matrix product might round to TF32, a scatter is not
        # deterministic on GPUs.
        return jnp.where(self.members(), x[..., None], 0.0).sum(axis=1).reshape(-1)

    def mean(self, x: jax.Array) -> jax.Array:
        """Means over the tokens of sequences: [R, L] -> [S], 0 for one without tokens."""
        return self.total(x) / jnp.maximum(self.lengths(), 1.0)

    def spread(self, y: jax.Array) -> jax.Array:
        """To every token the number of its sequence: [S] -> [R, L]."""
        if self.segment is None:
            return jnp.broadcast_to(y[:, None], self.mask.shape)
        rows = y.reshape(-1, 1, self.per_row)  # [R, 1, K]
        return jnp.where(self.members(), rows, 0.0).sum(axis=-1)

    def tokens(self, y: jax.Array) -> jax.Array:
        """[S] or [R, L] -> [R, L]: advantages may be one per sequence or one per token."""
        if y.ndim == 2:
            if y.shape != self.mask.shape:
                raise ValueError(f"shape {y.shape}; need {self.mask.shape} [R, L], or [S].")
            return y
        rows = self.mask.shape[0] * self.per_row
        if y.shape != (rows,):
            raise ValueError(f"shape {y.shape}; need ({rows},) [S], or {self.mask.shape} [R, L].")
        return self.spread(y)

    def lengths(self) -> jax.Array:
        """[S] float: tokens that count."""
        return self.total(jnp.ones(self.mask.shape))

    def exists(self) -> jax.Array:
        """[S] bool: slots that hold a sequence, be it one of which no token counts."""
        if self.segment is None:
            return jnp.ones(self.mask.shape[0], bool)
        return self.members().any(axis=1).reshape(-1)

    def positions(self) -> jax.Array:
        """[R, L] int: 1 for the first counting token of a sequence, 2 for the next, ..."""
        member = self.members() & self.mask.astype(bool)[..., None]
        counted = jnp.cumsum(member, axis=1)  # [R, L, K]
        return jnp.where(member, counted, 0).sum(axis=-1)

    def last(self) -> jax.Array:
        """[R, L] bool: the last counting token of each sequence."""
        return self.mask.astype(bool) & (self.positions() == self.spread(self.lengths()))


class Aggregate(Protocol):
    def count(self, layout: Layout) -> jax.Array:
        """The part's share of the denominator: add over parts."""
        ...

    def __call__(self, x: jax.Array, layout: Layout, count: Float | None = None) -> jax.Array:
        """x [R, L] -> a number. `count` is the total over all parts; without it, of this part."""
        ...


def _share(total: jax.Array, count: Float) -> jax.Array:
    return total / jnp.maximum(count, 1.0)


@struct
class ByToken:
    """sum_it m l / sum_it m: the token loss of DAPO (Yu et al. 2025, eq. 8) and of SFT."""

    def count(self, layout: Layout) -> jax.Array:
        return layout.lengths().sum()

    def __call__(self, x: jax.Array, layout: Layout, count: Float | None = None) -> jax.Array:
        return _share(layout.keep(x).sum(), self.count(layout) if count is None else count)


@struct
class BySequence:
    """mean_i (sum_t m l / n_i): GRPO as published (Shao et al. 2024, eq. 3).

    A completion without a counting token contributes 0; `empty` says whether it counts in the mean
    (TRL) or not (verl, Tunix, OpenRLHF).
    """

    empty: bool = static("completions without tokens count in the mean", default=False)

    def count(self, layout: Layout) -> jax.Array:
        counted = layout.exists() if self.empty else layout.lengths() > 0
        return counted.astype(jnp.float32).sum()

    def __call__(self, x: jax.Array, layout: Layout, count: Float | None = None) -> jax.Array:
        return _share(layout.mean(x).sum(), self.count(layout) if count is None else count)


@struct
class BySequenceSum:
    """mean_i sum_t m l: of whole log-probabilities (LUSPO, Liu et al. 2026; policy gradients)."""

    empty: bool = static("completions without tokens count in the mean", default=False)

    def count(self, layout: Layout) -> jax.Array:
        return BySequence(empty=self.empty).count(layout)

    def __call__(self, x: jax.Array, layout: Layout, count: Float | None = None) -> jax.Array:
        return _share(layout.keep(x).sum(), self.count(layout) if count is None else count)


@struct
class ByLength:
    """sum_it m l / (S * length) with a constant length, the limit on completions: Dr. GRPO (Liu et
    al. 2025). The padded width must not be used: it changes with the batch and with packing."""

    length: Float = param("tokens a completion may have at most", above=0.0)

    def count(self, layout: Layout) -> jax.Array:
        return layout.exists().astype(jnp.float32).sum()

    def __call__(self, x: jax.Array, layout: Layout, count: Float | None = None) -> jax.Array:
        share = _share(layout.keep(x).sum(), self.count(layout) if count is None else count)
        return share / self.length


@struct
class ByConstant:
    """sum_it m l / constant: verl's `seq-mean-token-sum-norm`, which does not divide by S."""

    constant: Float = param("what the sum is divided by", above=0.0)

    def count(self, layout: Layout) -> jax.Array:
        del layout
        return jnp.ones(())

    def __call__(self, x: jax.Array, layout: Layout, count: Float | None = None) -> jax.Array:
        del count
        return layout.keep(x).sum() / self.constant


def average(x: jax.Array, valid: jax.Array | None = None, count: Float | None = None) -> jax.Array:
    """The mean of one number per pair or example, x [P], over `valid` ones; `count` as above."""
    if valid is None:
        valid = jnp.ones(x.shape, bool)
    valid = valid.astype(bool)
    total = jnp.where(valid, x, 0.0).sum()
    return _share(total, valid.astype(jnp.float32).sum() if count is None else count)
