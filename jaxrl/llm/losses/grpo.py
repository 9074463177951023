"""Policy optimisation from groups of completions: GRPO and what came after it.

Sample G completions of a prompt, score them, take as advantage how much better each is than its
group (`advantages`), and raise the log-probability of the good ones: PPO without a critic (Shao et
al. 2024). Later methods change one of five things, which are the fields of `PolicyLoss`:

    level       the ratio of a token, or of the whole completion     (ratios)
    surrogate   how far the ratio may move                           (surrogates)
    aggregate   what each token weighs                               (aggregate)
    kl          the penalty for leaving the reference model          (kl)
    correction  for a sampler that is not quite the trainer          (ratios)

    loss_it = surrogate(level(log pi - log old), A_i) * correction + kl,   loss = aggregate(loss_it)

and one term for entropy. The functions below are the published combinations; advantages go with
them as their docstrings say. PPO with a critic uses `ppo_clip` and the functions of ppo.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.llm.losses import diagnostics, ratios
from jaxrl.llm.losses.aggregate import (
    Aggregate,
    ByLength,
    BySequence,
    BySequenceSum,
    ByToken,
    Layout,
)
from jaxrl.llm.losses.kl import KLPenalty, log_ratio
from jaxrl.llm.losses.ratios import Correction, Level
from jaxrl.llm.losses.surrogates import (
    Cispo,
    Clipped,
    Gmpo,
    Reinforce,
    Sapo,
    Surrogate,
    Vespo,
)
from jaxrl.struct import Float, param, static, struct


@struct
class PolicyLoss:
    """A loss of per-token log-probabilities and advantages; call it."""

    surrogate: Surrogate = param("loss of one token", default=Clipped())
    level: Level = static("of the ratio", default=ratios.token)
    aggregate: Aggregate = param("of tokens to one number", default=ByToken())
    kl: KLPenalty | None = param("towards the reference model", default=None)
    correction: Correction | None = param("of the sampler", default=None)
    entropy: Float = param("weight of the entropy bonus", default=0.0)
    log_clamp: Float | None = param("log-ratios of tokens stay below", default=None, above=0.0)

    def __call__(
        self,
        log_prob: jax.Array,
        old: jax.Array | None,
        advantage: jax.Array,
        layout: Layout,
        *,
        ref: jax.Array | None = None,
        sampler: jax.Array | None = None,
        entropy: jax.Array | None = None,
        keep: jax.Array | None = None,
        count: Float | None = None,
        tokens: Float | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """-> loss, metrics.

        `log_prob`, `old`, `ref`, `sampler`, `entropy` [R, L]; `advantage` [S] or [R, L]. `old` None
        stands for the policy itself: one step per batch. `keep` [R, L] silences the surrogate of
        tokens (`ratios.off_policy_mask`, `ratios.entropy_mask`) that still count. `count` is
        `aggregate.count` over all parts of the batch, `tokens` that of `ByToken` (entropy only).
        """
        self._check(ref, sampler, entropy)
        old = jax.lax.stop_gradient(log_prob if old is None else old)
        advantage = layout.keep(jax.lax.stop_gradient(layout.tokens(advantage)))
        difference = log_ratio(log_prob, old, layout)
        x = difference
        if self.log_clamp is not None:
            x = jnp.clip(x, -self.log_clamp, self.log_clamp)
        x = self.level(x, layout)

        surrogate = layout.keep(self.surrogate(x, log_prob, advantage, layout))
        if keep is not None:
            surrogate = jnp.where(keep.astype(bool), surrogate, 0.0)
        if self.correction is not None and sampler is not None:
            surrogate = surrogate * self.correction(old, sampler, layout)
        policy = self.aggregate(surrogate, layout, count)
        loss = policy
        metrics = {"loss/policy": policy, **diagnostics.ratio_metrics(difference, layout)}

        if self.kl is not None and ref is not None:
            gap = log_ratio(log_prob, jax.lax.stop_gradient(ref), layout)
            penalty = self.aggregate(self.kl(gap, x), layout, count)
            loss = loss + penalty
            metrics["loss/kl"] = penalty
        if entropy is not None:
            counted = entropy if keep is None else jnp.where(keep.astype(bool), entropy, 0.0)
            mean = ByToken()(counted, layout, tokens)
            loss = loss - self.entropy * mean
            metrics["policy/entropy"] = mean
        if isinstance(self.surrogate, Clipped):
            metrics |= diagnostics.clip_fractions(
                x, advantage, layout, self.surrogate.low, self.surrogate.high
            )
        return loss, jax.lax.stop_gradient({"loss/total": loss, **metrics})

    def _check(
        self, ref: jax.Array | None, sampler: jax.Array | None, entropy: jax.Array | None
    ) -> None:
        if self.kl is not None and ref is None:
            raise ValueError("kl is set but ref is None: give the reference's log-probabilities.")
        if self.correction is not None and sampler is None:
            raise ValueError("correction is set but sampler is None: give the log-probabilities "
                             "that the sampler returned.")  # fmt: skip
        if isinstance(self.entropy, float) and self.entropy != 0.0 and entropy is None:
            raise ValueError("entropy is weighted but not given: pass entropy [R, L].")


def ppo_clip(low: Float = 0.2, high: Float = 0.2, dual: Float | None = None) -> PolicyLoss:
    """Token ratios, token mean; advantages [R, L] from `ppo.gae`, whitened."""
    return PolicyLoss(surrogate=Clipped(low=low, high=high, dual=dual))


def grpo(clip: Float = 0.2, kl: KLPenalty | None = None) -> PolicyLoss:
    """As published: token ratios, mean of the means of completions (Shao et al. 2024, eq. 3).
    Advantages: `standardised`."""
    return PolicyLoss(surrogate=Clipped(low=clip, high=clip), aggregate=BySequence(), kl=kl)


def dr_grpo(length: Float, clip: Float = 0.2) -> PolicyLoss:
    """Without GRPO's two biases: sums divided by a constant `length`, advantages only `centred`
    (Liu et al. 2025)."""
    return PolicyLoss(surrogate=Clipped(low=clip, high=clip), aggregate=ByLength(length=length))


def dapo(low: Float = 0.2, high: Float = 0.28) -> PolicyLoss:
    """Clip-higher and the mean over all tokens (Yu et al. 2025, eq. 8). Advantages: `standardised`,
    of groups that are not `degenerate`; rewards with `shaping.overlong_penalty`."""
    return PolicyLoss(surrogate=Clipped(low=low, high=high), aggregate=ByToken())


def rloo(clip: Float = 0.2) -> PolicyLoss:
    """Ratios of whole completions, clipped, mean over completions. Advantages: `leave_one_out`, of
    rewards less beta times `kl.sequence_penalty` (Ahmadian et al. 2024; the clip is TRL's)."""
    return PolicyLoss(
        surrogate=Clipped(low=clip, high=clip), level=ratios.product, aggregate=BySequence()
    )


def reinforce() -> PolicyLoss:
    """-A sum_t log pi, mean over completions: one exact policy-gradient step per batch. With the
    advantages `remax` this is ReMax (Li et al. 2024)."""
    return PolicyLoss(surrogate=Reinforce(), aggregate=BySequenceSum())


def reinforce_plus_plus(clip: Float = 0.2) -> PolicyLoss:
    """PPO's clip without a critic. Advantages: `reinforce_plus_plus` [R, L] (Hu 2025)."""
    return PolicyLoss(surrogate=Clipped(low=clip, high=clip))


def gspo(low: Float = 3e-4, high: Float = 4e-4) -> PolicyLoss:
    """Geometric-mean ratio of a completion, whose range is much smaller (Zheng et al. 2025, eq. 5).
    Advantages: `standardised`."""
    return PolicyLoss(
        surrogate=Clipped(low=low, high=high), level=ratios.sequence, aggregate=BySequence()
    )


def gspo_token(low: Float = 3e-4, high: Float = 4e-4) -> PolicyLoss:
    """The same value with a gradient per token, for advantages [R, L] (eq. 13)."""
    return PolicyLoss(
        surrogate=Clipped(low=low, high=high), level=ratios.sequence_token, aggregate=BySequence()
    )


def luspo(low: Float = 3e-4, high: Float = 4e-4) -> PolicyLoss:
    """GSPO whose completions weigh as many tokens as they have: no length bias (LUSPO, 2026)."""
    return PolicyLoss(
        surrogate=Clipped(low=low, high=high), level=ratios.sequence, aggregate=BySequenceSum()
    )


def cispo(high: Float = 5.0) -> PolicyLoss:
    """Clipped weights instead of clipped gradients, token mean (MiniMax-M1 2025)."""
    return PolicyLoss(surrogate=Cispo(high=high))


def sapo(positive: Float = 1.0, negative: Float = 1.05) -> PolicyLoss:
    """Soft gates (Gao et al. 2025), mean of the means of completions."""
    return PolicyLoss(surrogate=Sapo(positive=positive, negative=negative), aggregate=BySequence())


def gmpo(epsilon: Float = 0.4) -> PolicyLoss:
    """Geometric mean of clipped ratios (Zhao et al. 2025)."""
    return PolicyLoss(surrogate=Gmpo(epsilon=epsilon), aggregate=BySequence())


def vespo() -> PolicyLoss:
    """Smooth weights of whole completions (VESPO, 2026), token mean."""
    return PolicyLoss(surrogate=Vespo(), level=ratios.product)
