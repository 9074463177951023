"""Direct preference optimisation and its relatives: losses of pairs against a reference model.

The optimum of  E[r] - beta KL(pi || ref)  is  pi = ref exp(r / beta) / Z,  so every policy is the
optimum for the reward  r = beta log(pi / ref) + beta log Z.  Put into the Bradley-Terry model of
preferences, Z cancels, and what remains is a classifier without a reward model (Rafailov et al.
2023, eq. 7):

    loss = -log sigmoid(beta d),   d = l_c - l_r,   l = log pi(y | x) - log ref(y | x)

with c the chosen and r the rejected completion. Each function below takes `Pairs` and returns one
loss per pair [P]; `aggregate.average` takes the mean. They differ in what they make of d (or of l_c
and l_r apart): how wrong labels, saturation and falling likelihoods of chosen answers are treated.

Log-probabilities are summed over the completion's tokens, never its prompt's.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.losses.divergence import Divergence, reverse_kl
from jaxrl.struct import Float, static, struct

log_sigmoid = jax.nn.log_sigmoid


@struct
class Pairs:
    """P preferences; every array [P] float."""

    chosen: jax.Array
    """Summed log-probability under the policy."""
    rejected: jax.Array
    ref_chosen: jax.Array
    """The same under the reference model, without gradient."""
    ref_rejected: jax.Array
    chosen_length: jax.Array
    """Tokens that count."""
    rejected_length: jax.Array
    divergence: Divergence = static("what a log-ratio is worth", default=reverse_kl)

    @property
    def l_c(self) -> jax.Array:
        return self.divergence(self.chosen - jax.lax.stop_gradient(self.ref_chosen))

    @property
    def l_r(self) -> jax.Array:
        return self.divergence(self.rejected - jax.lax.stop_gradient(self.ref_rejected))

    @property
    def d(self) -> jax.Array:
        return self.l_c - self.l_r

    @property
    def mean_d(self) -> jax.Array:
        """l_c / n_c - l_r / n_r."""
        return self.l_c / jnp.maximum(self.chosen_length, 1.0) - self.l_r / jnp.maximum(
            self.rejected_length, 1.0
        )


def from_tokens(
    chosen: jax.Array,
    ref_chosen: jax.Array,
    chosen_layout: Layout,
    rejected: jax.Array,
    ref_rejected: jax.Array,
    rejected_layout: Layout,
    divergence: Divergence = reverse_kl,
) -> Pairs:
    """Log-probabilities of tokens [R, L] -> pairs [P]: the i-th sequence of the one layout is
    preferred to the i-th of the other. The masks leave the prompts out."""
    return Pairs(
        chosen=chosen_layout.total(chosen),
        rejected=rejected_layout.total(rejected),
        ref_chosen=chosen_layout.total(ref_chosen),
        ref_rejected=rejected_layout.total(ref_rejected),
        chosen_length=chosen_layout.lengths(),
        rejected_length=rejected_layout.lengths(),
        divergence=divergence,
    )


PairLoss = Callable[[Pairs], jax.Array]
"""Of `Pairs` -> [P]; bind beta and the rest with functools.partial."""


def smoothed(x: jax.Array, smoothing: Float) -> jax.Array:
    """-(1 - e) log sigmoid(x) - e log sigmoid(-x): a label is wrong with probability e."""
    return -(1.0 - smoothing) * log_sigmoid(x) - smoothing * log_sigmoid(-x)


def dpo(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """-log sigmoid(beta d) (Rafailov et al. 2023)."""
    return -log_sigmoid(beta * pairs.d)


def cdpo(pairs: Pairs, beta: Float = 0.1, smoothing: Float = 0.1) -> jax.Array:
    """Conservative: -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d) (Mitchell 2023)."""
    return smoothed(beta * pairs.d, smoothing)


def robust(pairs: Pairs, beta: Float = 0.1, smoothing: Float = 0.1) -> jax.Array:
    """[-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)] / (1 - 2 e), e < 1/2: unbiased when
    labels are flipped with probability e (Chowdhury et al. 2024)."""
    x = beta * pairs.d
    wrong = smoothing * log_sigmoid(-x)
    return (-(1.0 - smoothing) * log_sigmoid(x) + wrong) / (1.0 - 2.0 * smoothing)


def hinge(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """max(0, 1 - beta d) (SLiC, Zhao et al. 2023)."""
    return jax.nn.relu(1.0 - beta * pairs.d)


def ipo(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """(d - 1 / (2 beta))^2: a target instead of a sigmoid, so certain labels do not drive d to
    infinity (Azar et al. 2024, eq. 17). With sums, as published and as in OpenRLHF."""
    return jnp.square(pairs.d - 0.5 / beta)


def ipo_mean(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """(l_c / n_c - l_r / n_r - 1 / (2 beta))^2: TRL's IPO, of means over tokens."""
    return jnp.square(pairs.mean_d - 0.5 / beta)


def dpo_mean(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """-log sigmoid(beta (l_c / n_c - l_r / n_r)): length-normalised (Lambert et al. 2024)."""
    return -log_sigmoid(beta * pairs.mean_d)


def r_dpo(pairs: Pairs, beta: Float = 0.1, alpha: Float = 0.01) -> jax.Array:
    """-log sigmoid(beta d + alpha (n_c - n_r)), regularised against length (Park et al. 2024).

    The sign: the optimum of E[r - alpha n] - beta KL has r = beta log(pi / ref) + alpha n + const,
    hence plus. With alpha > 0 length explains part of a preference for the longer answer and the
    policy less; if both orders are preferred equally often, beta d = -alpha (n_long - n_short).
    Minus, as one also reads, needs a negative alpha to do the same.
    """
    longer = pairs.chosen_length - pairs.rejected_length
    return -log_sigmoid(beta * pairs.d + alpha * longer)


def exo(pairs: Pairs, beta: Float = 0.1, smoothing: Float = 1e-3) -> jax.Array:
    """KL(q || labels), q = sigmoid(beta d), labels (1 - e, e), e > 0: the other direction of the
    divergence than DPO's, so mode-seeking (Ji et al. 2024)."""
    x = beta * pairs.d
    q = jax.nn.sigmoid(x)
    chosen = log_sigmoid(x) - jnp.log1p(-jnp.asarray(smoothing))
    rejected = log_sigmoid(-x) - jnp.log(smoothing)
    return q * chosen + (1.0 - q) * rejected


def nca(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """-log sigmoid(beta l_c) - 1/2 log sigmoid(-beta l_c) - 1/2 log sigmoid(-beta l_r): absolute
    rewards, so that the chosen one's likelihood does not fall (Chen et al. 2024)."""
    c, r = beta * pairs.l_c, beta * pairs.l_r
    return -log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-r)


def bco(pairs: Pairs, beta: Float = 0.1, shift: jax.Array | float = 0.0) -> jax.Array:
    """-log sigmoid(beta l_c - delta) - log sigmoid(-(beta l_r - delta)): a binary classifier whose
    logit is the reward (Jung et al. 2024). The paper's `shift` delta is the running mean of the
    rewards of both; TRL's current version has none."""
    shift = jax.lax.stop_gradient(jnp.asarray(shift))
    return -log_sigmoid(beta * pairs.l_c - shift) - log_sigmoid(shift - beta * pairs.l_r)


def sppo(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """(l_c - 1 / (2 beta))^2 + (l_r + 1 / (2 beta))^2: self-play preference optimisation with a
    certain winner (Wu et al. 2024)."""
    return jnp.square(pairs.l_c - 0.5 / beta) + jnp.square(pairs.l_r + 0.5 / beta)


def apo_zero(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """1 - sigmoid(beta l_c) + sigmoid(beta l_r): the chosen up, the rejected down; for data better
    than the model (D'Oosterlinck et al. 2024)."""
    return 1.0 - jax.nn.sigmoid(beta * pairs.l_c) + jax.nn.sigmoid(beta * pairs.l_r)


def apo_down(pairs: Pairs, beta: Float = 0.1) -> jax.Array:
    """sigmoid(beta l_c) + 1 - sigmoid(beta d): both down, the rejected more; for data worse than
    the model (the same)."""
    return jax.nn.sigmoid(beta * pairs.l_c) + 1.0 - jax.nn.sigmoid(beta * pairs.d)


def aot(pairs: Pairs, beta: Float = 0.1, smoothing: Float = 0.0) -> jax.Array:
    """Sort log pi_c - log pi_r and log ref_c - log ref_r across the batch, each by itself, subtract
    in order, smoothed logistic: the distribution of the policy's margins is to dominate that of the
    reference's (Melnyk et al. 2024). A loss of the whole batch: it cannot be cut into parts."""
    policy = jnp.sort(pairs.chosen - pairs.rejected)
    ref = jnp.sort(jax.lax.stop_gradient(pairs.ref_chosen - pairs.ref_rejected))
    return smoothed(beta * (policy - ref), smoothing)


def aot_unpaired(pairs: Pairs, beta: Float = 0.1, smoothing: Float = 0.0) -> jax.Array:
    """The same of l_c and l_r: chosen and rejected answers need not share a prompt."""
    return smoothed(beta * (jnp.sort(pairs.l_c) - jnp.sort(pairs.l_r)), smoothing)


def discopop(pairs: Pairs, beta: Float = 0.1, temperature: Float = 0.05) -> jax.Array:
    """(1 - s) (-log sigmoid(x)) + s exp(-x), x = beta d, s = sigmoid(x / temperature): a loss that
    was found by search (Lu et al. 2024, log-ratio modulated)."""
    x = beta * pairs.d
    s = jax.nn.sigmoid(x / temperature)
    return -(1.0 - s) * log_sigmoid(x) + s * jnp.exp(-x)


def mixture(pairs: Pairs, parts: tuple[tuple[Float, PairLoss], ...]) -> jax.Array:
    """sum_k weight_k * loss_k. MPO (Wang et al. 2024b) is 0.8 DPO + 0.2 BCO + 1.0 `chosen_nll`."""
    return sum((weight * loss(pairs) for weight, loss in parts), jnp.zeros_like(pairs.chosen))


def chosen_nll(pairs: Pairs, count: Float | None = None) -> jax.Array:
    """The mean negative log-likelihood of all tokens of chosen answers, a number to be added.
    `count` is their number over all parts of the batch."""
    tokens = pairs.chosen_length.sum() if count is None else count
    return -pairs.chosen.sum() / jnp.maximum(tokens, 1.0)


def implicit_rewards(pairs: Pairs, beta: Float = 0.1) -> dict[str, jax.Array]:
    """What to watch: rewards beta * l of both, their margin, and how often it is positive."""
    accuracy = jnp.mean((pairs.d > 0) + 0.5 * (pairs.d == 0))
    return {
        "reward/chosen": beta * pairs.l_c.mean(),
        "reward/rejected": beta * pairs.l_r.mean(),
        "reward/margin": beta * pairs.d.mean(),
        "reward/accuracy": accuracy,
    }
