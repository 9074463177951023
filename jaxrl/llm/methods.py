"""The descendants of GRPO and the relatives of CPO by name: which fields each of them sets.

    agent = jaxrl.llm.DAPO(network, lr=1e-6, group=16)
    agent = jaxrl.llm.preset("verl/grpo", network)

Whatever `GRPO` or `CPO` takes can be given as well, and wins.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxrl.llm.cpo import CPO
from jaxrl.llm.dpo import DPO
from jaxrl.llm.grpo import GRPO
from jaxrl.llm.kto import KTO
from jaxrl.llm.losses import advantages, dpo, grpo, presets, reference_free
from jaxrl.llm.losses import kto as kto_losses
from jaxrl.llm.model import Transformer
from jaxrl.llm.ppo import PPO
from jaxrl.llm.reward import RewardModel


def _grpo(network: Transformer, given: dict[str, Any], **own: Any) -> GRPO:
    return GRPO(network, **(own | given))


def _cpo(network: Transformer, given: dict[str, Any], **own: Any) -> CPO:
    return CPO(network, **(own | given))


def DrGRPO(network: Transformer, *, length: int, **fields: Any) -> GRPO:
    """Advantages only centred, sums divided by the constant `length`, the longest an answer may
    be: neither hard questions nor short answers weigh more (Liu et al. 2025)."""
    loss = grpo.dr_grpo(float(length))
    return _grpo(network, fields, loss=loss, advantage=advantages.centred)


def DAPO(network: Transformer, **fields: Any) -> GRPO:
    """Clip-higher, the mean over tokens, up to ten rollouts until all groups differ (Yu et al.
    2025). Give `overlong`, in tokens, for its soft limit on length."""
    return _grpo(network, fields, loss=grpo.dapo(), rounds=10)


def RLOO(network: Transformer, **fields: Any) -> GRPO:
    """Ratios of whole answers, each compared with the others of its group; k1 in the reward
    (Ahmadian et al. 2024)."""
    advantage = advantages.leave_one_out
    return _grpo(network, fields, loss=grpo.rloo(), advantage=advantage, reward_kl=0.05)


def ReinforcePlusPlus(network: Transformer, **fields: Any) -> GRPO:
    """Token rewards summed to the end and whitened over the batch; no groups needed (Hu 2025)."""
    return _grpo(
        network,
        fields,
        loss=grpo.reinforce_plus_plus(),
        token_advantage=advantages.reinforce_plus_plus,
        reward_kl=0.01,
        group=1,
        prompts=64,
    )


def ReMax(network: Transformer, **fields: Any) -> GRPO:
    """The policy gradient with the greedy answer as baseline (Li et al. 2024)."""
    return _grpo(network, fields, loss=grpo.reinforce(), greedy=1, group=2)


def GSPO(network: Transformer, **fields: Any) -> GRPO:
    """Ratios of answers: the geometric mean of those of their tokens (Zheng et al. 2025)."""
    return _grpo(network, fields, loss=grpo.gspo())


def CISPO(network: Transformer, **fields: Any) -> GRPO:
    """Clipped weights instead of clipped gradients (MiniMax-M1 2025)."""
    return _grpo(network, fields, loss=grpo.cispo())


def SAPO(network: Transformer, **fields: Any) -> GRPO:
    """Soft gates instead of a clip (Gao et al. 2025)."""
    return _grpo(network, fields, loss=grpo.sapo())


def GMPO(network: Transformer, **fields: Any) -> GRPO:
    """The geometric mean of clipped ratios (Zhao et al. 2025)."""
    return _grpo(network, fields, loss=grpo.gmpo())


def VESPO(network: Transformer, **fields: Any) -> GRPO:
    """Smooth weights of whole answers (VESPO, 2026)."""
    return _grpo(network, fields, loss=grpo.vespo())


def LUSPO(network: Transformer, **fields: Any) -> GRPO:
    """GSPO whose answers weigh as many tokens as they have (LUSPO, 2026)."""
    return _grpo(network, fields, loss=grpo.luspo())


# A partial that is made anew is another function to JAX, and so another program: these are not.
_SIMPO = partial(reference_free.simpo, beta=2.0, gamma=0.5)
_ALPHA_PO = partial(reference_free.alpha_po, beta=2.0, gamma=0.5)


def SimPO(network: Transformer, **fields: Any) -> CPO:
    """Means over tokens, a margin, and nothing else (Meng et al. 2024)."""
    return _cpo(network, fields, loss=_SIMPO, means=True, nll=0.0)


def AlphaPO(network: Transformer, **fields: Any) -> CPO:
    """SimPO with another shape of the reward (Gupta et al. 2025)."""
    return _cpo(network, fields, loss=_ALPHA_PO, means=True, nll=0.0)


def ORPO(network: Transformer, **fields: Any) -> CPO:
    """Odds of the means, 0.1 times, and the likelihood of prompt and answer (Hong et al. 2024)."""
    loss = reference_free.orpo
    return _cpo(network, fields, loss=loss, means=True, weight=0.1, nll=1.0, prompts=True)


def preset(name: str, network: Transformer, **fields: Any) -> Any:
    """The agent with the losses and defaults of another system, `trl/grpo` say. They reproduce
    numbers; `losses.presets` notes which of them are mistakes."""
    if name in presets.POLICY:
        return _policy(presets.POLICY[name], network, fields)
    if name in presets.PREFERENCE:
        return _preference(name, presets.PREFERENCE[name], network, fields)
    raise ValueError(f"{name!r} is no preset; there are {', '.join(presets.names())}.")


def _policy(found: presets.PolicyPreset, network: Transformer, fields: dict[str, Any]) -> Any:
    own: dict[str, Any] = {"loss": found.loss, "reward_limit": found.score_limit}
    if "lr" in found.settings:
        own["lr"] = found.settings["lr"]
    if found.reward_kl is not None:
        own |= {
            "reward_kl": found.reward_kl.beta,
            "reward_estimator": found.reward_kl.estimator,
        }
    if found.critic is not None:
        critic = found.critic
        own |= {"gamma": critic.gamma, "lam": critic.lam, "value_clip": critic.value_clip}
        if found.reward_kl is not None:
            own["kl_limit"] = found.reward_kl.limit
        else:
            own["reward_kl"] = 0.0
        return PPO(network, **(own | fields))
    own |= {"group": max(2, found.group), "advantage": found.advantage}
    if "overlong_buffer" in found.settings:
        own["overlong"] = found.settings["overlong_buffer"]
    return GRPO(network, **(own | fields))


def _preference(
    name: str, found: presets.PreferencePreset, network: Transformer, fields: dict[str, Any]
) -> Any:
    own: dict[str, Any] = {"lr": found.settings["lr"]} if "lr" in found.settings else {}
    if name == "trl/reward":
        return RewardModel(network, **(own | fields))
    function = getattr(found.loss, "func", found.loss)
    own["loss"] = found.loss
    if function in (kto_losses.kto,):
        return KTO(network, **(own | fields))
    if function.__module__ == dpo.__name__:
        own["nll"] = found.nll or None
        return DPO(network, **(own | fields))
    means = name not in ("trl/cpo", "tunix/orpo")
    own |= {"nll": found.nll, "means": means, "prompts": found.nll_prompt}
    return CPO(network, **(own | fields))
