"""Our names of metrics, and what CleanRL and Stable-Baselines3 call the same thing.

A tag may turn the sign: Stable-Baselines3's entropy loss is minus the entropy. Metrics without an
entry keep their own name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Tag = tuple[str, int]

CLEANRL: Mapping[str, Tag] = {
    "episode/return": ("charts/episodic_return", 1),
    "episode/length": ("charts/episodic_length", 1),
    "time/steps_per_second": ("charts/SPS", 1),
    "policy/epsilon": ("charts/epsilon", 1),
    "evaluate/return": ("eval/episodic_return", 1),
    "evaluate/length": ("eval/episodic_length", 1),
    "loss/policy": ("losses/policy_loss", 1),
    "loss/value": ("losses/value_loss", 1),
    "loss/td": ("losses/td_loss", 1),
    "loss/critic": ("losses/qf_loss", 1),
    "loss/actor": ("losses/actor_loss", 1),
    "loss/temperature": ("losses/alpha_loss", 1),
    "policy/temperature": ("losses/alpha", 1),
    "policy/entropy": ("losses/entropy", 1),
    "policy/kl": ("losses/approx_kl", 1),
    "policy/clip_fraction": ("losses/clipfrac", 1),
    "value/explained_variance": ("losses/explained_variance", 1),
    "q/mean": ("losses/q_values", 1),
}

SB3: Mapping[str, Tag] = {
    "episode/return": ("rollout/ep_rew_mean", 1),
    "episode/length": ("rollout/ep_len_mean", 1),
    "policy/epsilon": ("rollout/exploration_rate", 1),
    "time/steps_per_second": ("time/fps", 1),
    "time/seconds": ("time/time_elapsed", 1),
    "evaluate/return": ("eval/mean_reward", 1),
    "evaluate/length": ("eval/mean_ep_length", 1),
    "loss/policy": ("train/policy_gradient_loss", 1),
    "loss/value": ("train/value_loss", 1),
    "loss/td": ("train/loss", 1),
    "loss/critic": ("train/critic_loss", 1),
    "loss/actor": ("train/actor_loss", 1),
    "loss/temperature": ("train/ent_coef_loss", 1),
    "policy/temperature": ("train/ent_coef", 1),
    "policy/entropy": ("train/entropy_loss", -1),
    "policy/kl": ("train/approx_kl", 1),
    "policy/clip_fraction": ("train/clip_fraction", 1),
    "value/explained_variance": ("train/explained_variance", 1),
}

STYLES: Mapping[str, Mapping[str, Tag]] = {"cleanrl": CLEANRL, "sb3": SB3, "own": {}}


def style(name: str) -> Mapping[str, Tag]:
    if name not in STYLES:
        raise ValueError(f"tags={name!r} must be one of {', '.join(map(repr, STYLES))}.")
    return STYLES[name]


def scalars(metrics: Mapping[str, object], tags: Mapping[str, Tag]) -> dict[str, float]:
    """What can be drawn: the mean over the runs in which a metric exists, under its tag, and of
    several runs their standard deviation as `<tag>_std`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        x = np.asarray(value, float)
        known = x[~np.isnan(x)]
        if not known.size:
            continue
        tag, sign = tags.get(name, (name, 1))
        found[tag] = sign * float(known.mean())
        if x.ndim and x.size > 1:
            found[f"{tag}_std"] = float(known.std())
    return found
