"""The defaults of other systems, by name: `POLICY["trl/grpo"]`, `PREFERENCE["trl/dpo"]`.

The same words in two configurations give different numbers: ddof 0 or 1, epsilon 1e-4 to 1e-9, k1
or k3, in the loss or in the reward, tokens or sequences in the denominator. A preset is all of
these choices for one system, as read from its source in August 2026 (TRL 1.16, verl 0.8, OpenRLHF
0.11, NeMo-RL 0.6, Tunix 0.1.7). They reproduce numbers; they are not recommendations. `notes` says
where a default is known to be a mistake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax

from jaxrl.llm.losses import advantages, dpo, grpo, kl, kto, reference_free, reward
from jaxrl.llm.losses.aggregate import BySequence, ByToken
from jaxrl.llm.losses.grpo import PolicyLoss
from jaxrl.llm.losses.kl import KLPenalty
from jaxrl.llm.losses.surrogates import Clipped


@dataclasses.dataclass(frozen=True)
class RewardKL:
    """A KL penalty in the reward."""

    beta: float
    estimator: kl.Estimator
    limit: float | None = None
    """Of the estimate of a token."""


@dataclasses.dataclass(frozen=True)
class Critic:
    """PPO's other half."""

    gamma: float = 1.0
    lam: float = 0.95
    value_clip: float = 0.2
    eps: float = 1e-8
    """Of whitening, with ddof 1."""


@dataclasses.dataclass(frozen=True)
class PolicyPreset:
    loss: PolicyLoss
    advantage: Callable[[jax.Array], jax.Array] | None
    """Of rewards [P, G]; None: by the critic."""
    group: int
    reward_kl: RewardKL | None = None
    critic: Critic | None = None
    score_limit: float | None = None
    settings: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the trainer around the loss."""
    notes: str = ""


@dataclasses.dataclass(frozen=True)
class PreferencePreset:
    loss: Callable[..., jax.Array]
    """Of `Pairs`; of (l, desirable, z) for KTO; of sums or means for the reference-free; of scores
    for reward models. One number per pair or example, except reward models, which give the mean."""
    nll: float = 0.0
    """Weight of the chosen answers' negative log-likelihood, to be added."""
    nll_prompt: bool = False
    """Does it cover the prompt too?"""
    settings: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: str = ""


_TRL = {"lr": 1e-6, "temperature": 1.0, "top_p": 1.0, "max_completion": 512.0}
_TRL_GROUP = partial(advantages.standardised, ddof=1, eps=1e-4)
_VERL_GROUP = partial(advantages.standardised, ddof=1, eps=1e-6)
_VERL_CLIP = Clipped(low=0.2, high=0.2, dual=3.0)


def _trl(loss: PolicyLoss, advantage: Callable[[jax.Array], jax.Array] = _TRL_GROUP,
         notes: str = "") -> PolicyPreset:  # fmt: skip
    return PolicyPreset(loss, advantage, group=8, settings=_TRL, notes=notes)


POLICY: dict[str, PolicyPreset] = {
    "trl/grpo": _trl(
        PolicyLoss(surrogate=Clipped(low=0.2, high=0.2), aggregate=ByToken()),
        notes="loss_type is `dapo` by default: give the global count of tokens. beta is 0; where "
        "it is set, the estimator is k3 times the ratio (`kl.weighted`).",
    ),
    "trl/grpo-paper": _trl(
        PolicyLoss(surrogate=Clipped(low=0.2, high=0.2), aggregate=BySequence(empty=True)),
        notes="loss_type `grpo`.",
    ),
    "trl/dr_grpo": _trl(grpo.dr_grpo(length=512.0), notes="length is max_completion_length."),
    "trl/cispo": _trl(grpo.cispo(high=5.0), notes="epsilon_high is an absolute cap."),
    "trl/sapo": _trl(
        dataclasses.replace(grpo.sapo(1.0, 1.05), aggregate=BySequence(empty=True)),
        notes="aggregated as `grpo`.",
    ),
    "trl/vespo": _trl(grpo.vespo()),
    "trl/rloo": PolicyPreset(
        loss=dataclasses.replace(grpo.rloo(clip=0.2), aggregate=BySequence(empty=True)),
        advantage=advantages.leave_one_out,
        group=2,
        reward_kl=RewardKL(beta=0.05, estimator=kl.k1),
        settings=_TRL,
        notes="k1 is summed over tokens and taken from the reward before the baseline.",
    ),
    "verl/grpo": PolicyPreset(
        loss=PolicyLoss(surrogate=_VERL_CLIP, aggregate=ByToken(), log_clamp=20.0),
        advantage=_VERL_GROUP,
        group=1,
        settings={"lr": 1e-6},
        notes="group is 1 by default: set it. KL is off; `verl/grpo-kl` has its k3.",
    ),
    "verl/grpo-kl": PolicyPreset(
        loss=PolicyLoss(
            surrogate=_VERL_CLIP,
            aggregate=ByToken(),
            log_clamp=20.0,
            kl=KLPenalty(beta=0.001, form=kl.plain, inside=20.0, outside=10.0),
        ),
        advantage=_VERL_GROUP,
        group=1,
        settings={"lr": 1e-6},
    ),
    "verl/ppo": PolicyPreset(
        loss=PolicyLoss(surrogate=_VERL_CLIP, aggregate=ByToken(), log_clamp=20.0),
        advantage=None,
        group=1,
        critic=Critic(gamma=1.0, lam=1.0, value_clip=0.5),
        settings={"lr": 1e-6},
        notes="KL in the reward is off; where on, 0.001 of k1.",
    ),
    "openrlhf/ppo": PolicyPreset(
        loss=PolicyLoss(surrogate=Clipped(low=0.2, high=0.2), aggregate=ByToken(), log_clamp=20.0),
        advantage=None,
        group=1,
        reward_kl=RewardKL(beta=0.01, estimator=kl.k1, limit=10.0),
        critic=Critic(gamma=1.0, lam=1.0, value_clip=0.5),
        score_limit=10.0,
    ),
    "openrlhf/grpo": PolicyPreset(
        loss=PolicyLoss(surrogate=Clipped(low=0.2, high=0.2), aggregate=ByToken(), log_clamp=20.0),
        advantage=partial(advantages.standardised, ddof=1, eps=1e-9),
        group=1,
        reward_kl=RewardKL(beta=0.01, estimator=kl.k1, limit=10.0),
        score_limit=10.0,
    ),
    "nemo-rl/grpo": PolicyPreset(
        loss=PolicyLoss(
            surrogate=Clipped(low=0.2, high=0.2),
            aggregate=ByToken(),
            kl=KLPenalty(beta=0.01, form=kl.plain, inside=20.0, outside=10.0),
        ),
        advantage=partial(advantages.leave_one_out_standardised, ddof=1, eps=1e-6),
        group=16,
        notes="of the 1B mathematics recipe.",
    ),
    "tunix/grpo": PolicyPreset(
        loss=PolicyLoss(
            surrogate=Clipped(low=0.2, high=0.2),
            aggregate=BySequence(),
            kl=KLPenalty(beta=0.04, estimator=kl.k1, form=kl.plain),
        ),
        advantage=_VERL_GROUP,
        group=2,
        notes="k1 in the loss has no expected gradient on-policy: nothing keeps the policy near "
        "the reference.",
    ),
    "tunix/dapo": PolicyPreset(
        loss=grpo.dapo(low=0.2, high=0.28),
        advantage=_VERL_GROUP,
        group=2,
        settings={"overlong_buffer": 4096.0, "max_completion": 20480.0},
        notes="Tunix measures the overlong penalty in characters; `shaping` counts tokens.",
    ),
    "tunix/ppo": PolicyPreset(
        loss=grpo.ppo_clip(0.2, 0.2),
        advantage=None,
        group=1,
        reward_kl=RewardKL(beta=0.04, estimator=kl.k3),
        critic=Critic(gamma=1.0, lam=0.95, value_clip=0.2),
    ),
}

_TRL_PAIRS = {"lr": 1e-6, "max_length": 1024.0}


PREFERENCE: dict[str, PreferencePreset] = {
    "trl/dpo": PreferencePreset(
        partial(dpo.dpo, beta=0.1),
        settings=_TRL_PAIRS,
        notes="label_smoothing is ignored by this loss in TRL; use `dpo.cdpo`.",
    ),
    "trl/ipo": PreferencePreset(
        partial(dpo.ipo_mean, beta=0.1), settings=_TRL_PAIRS, notes="of means; the paper sums."
    ),
    "trl/mpo": PreferencePreset(
        partial(
            dpo.mixture,
            parts=((0.8, partial(dpo.dpo, beta=0.1)), (0.2, partial(dpo.bco, beta=0.1))),
        ),
        nll=1.0,
        settings=_TRL_PAIRS,
    ),
    "trl/kto": PreferencePreset(partial(kto.kto, beta=0.1), settings=_TRL_PAIRS),
    "trl/cpo": PreferencePreset(partial(reference_free.cpo, beta=0.1), nll=1.0),
    "trl/simpo": PreferencePreset(
        partial(reference_free.simpo, beta=0.1, gamma=0.5),
        nll=1.0,
        notes="pure SimPO needs cpo_alpha 0, and the paper's beta is 2 to 2.5.",
    ),
    "trl/orpo": PreferencePreset(
        lambda c, r: 0.1 * reference_free.orpo(c, r), nll=1.0, nll_prompt=True
    ),
    "trl/reward": PreferencePreset(
        partial(reward.bradley_terry, centring=0.0), settings={"lr": 1e-4}
    ),
    "openrlhf/dpo": PreferencePreset(partial(dpo.cdpo, beta=0.1, smoothing=0.0)),
    "openrlhf/ipo": PreferencePreset(partial(dpo.ipo, beta=0.1), notes="of sums."),
    "tunix/orpo": PreferencePreset(
        lambda c, r: 0.1 * reference_free.orpo(c, r),
        nll=1.0,
        notes="give SUMS to reproduce Tunix, means to do as the paper does.",
    ),
}


def names() -> tuple[str, ...]:
    return (*POLICY, *PREFERENCE)
