"""Arguments of Stable-Baselines3 in the terms of this library."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl import networks, optim
from jaxrl.distributions import Normal
from jaxrl.policies import Gaussian, box
from jaxrl.spaces import Box

Schedule: TypeAlias = Callable[[Any], Any]

# Arguments that exist there and not here: the value they must have, and what to write instead.
OTHERS: dict[str, tuple[Any, str]] = {
    "use_sde": (False, "state-dependent exploration does not exist here; leave it out"),
    "sde_sample_freq": (-1, "state-dependent exploration does not exist here; leave it out"),
    "use_sde_at_warmup": (False, "state-dependent exploration does not exist here; leave it out"),
    "rollout_buffer_class": (None, "a rollout is no object here; leave it out"),
    "rollout_buffer_kwargs": (None, "a rollout is no object here; leave it out"),
    "replay_buffer_class": (
        None,
        "write jaxrl.DQN(sampler=jaxrl.priority.Prioritized()) with jaxrl.train for prioritised "
        "replay",
    ),
    "replay_buffer_kwargs": (None, "leave it out"),
    "optimize_memory_usage": (False, "the next observation is never stored twice; leave it out"),
    "action_noise": (None, "SAC explores by its policy; leave it out"),
    "stats_window_size": (100, "curves have a hundred points, see log_interval; leave it out"),
    "_init_setup_model": (True, "leave it out"),
}

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "leakyrelu": nn.leaky_relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "sigmoid": nn.sigmoid,
}


def refuse(who: str, others: dict[str, Any], known: list[str]) -> None:
    """Arguments that are not taken."""
    for name, value in others.items():
        if name in OTHERS:
            neutral, instead = OTHERS[name]
            if value == neutral:
                continue
            raise TypeError(f"{who}({name}={value!r}) is not supported: {instead}.")
        nearest = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {nearest[0]}?" if nearest else "."
        raise TypeError(f"{who} has no argument {name!r}{hint} It has: {', '.join(known)}.")


def rate(value: Any, name: str) -> tuple[float, Schedule]:
    """A number, or a function of the share of the run that remains -> value, factor on it."""
    if callable(value):
        return 1.0, Remaining(value)
    if isinstance(value, str) or not isinstance(value, float | int):
        raise TypeError(
            f"{name}={value!r} must be a number or a function of what remains (1 to 0)."
        )
    return float(value), optim.constant


@dataclasses.dataclass(frozen=True)
class Remaining:
    """A schedule of theirs, which counts down from 1, as one of ours, which counts up from 0."""

    function: Callable[[Any], Any]

    def __call__(self, share: jax.Array) -> jax.Array:
        return jnp.asarray(self.function(1.0 - share), jnp.float32)


@dataclasses.dataclass(frozen=True)
class ClippedValueError:
    """Half the squared error of the value that is kept within `clip` of the old one."""

    clip: float

    def __call__(self, value: jax.Array, old: jax.Array, target: jax.Array) -> jax.Array:
        kept = old + jnp.clip(value - old, -self.clip, self.clip)
        return 0.5 * jnp.square(kept - target).mean()


@dataclasses.dataclass(frozen=True)
class Unscaled(Gaussian):
    """Normal actions in the environment's own units (ours are in units of the box)."""

    @classmethod
    def of(cls, loc: jax.Array, log_std: jax.Array, space: Box) -> Unscaled:
        return cls(Normal(loc, log_std), space)

    def action(self, raw: jax.Array) -> jax.Array:
        if not self.space.bounded:
            return raw
        center, half_width = box(self.space)
        return jnp.clip(raw, center - half_width, center + half_width)


def torsos(
    policy: Any, policy_kwargs: dict[str, Any] | None, hidden: tuple[int, ...], default: Any
) -> tuple[nn.Module, nn.Module]:
    """-> of the policy, of the value function."""
    kwargs = dict(policy_kwargs or {})
    arch = kwargs.pop("net_arch", None)
    activation = kwargs.pop("activation_fn", default)
    if not kwargs.pop("ortho_init", True):
        raise TypeError("policy_kwargs: ortho_init=False does not exist here; leave it out.")
    if kwargs:
        raise TypeError(
            f"policy_kwargs holds {', '.join(kwargs)}: here it takes net_arch and activation_fn. "
            "jaxrl.PPO(actor=..., critic=...) takes any flax module."
        )
    if policy == "CnnPolicy":
        if arch is not None:
            raise TypeError(
                "net_arch with CnnPolicy does not exist here; use jaxrl.PPO(actor=...)."
            )
        return networks.NatureCNN(), networks.NatureCNN()
    if policy not in ("MlpPolicy", "MultiInputPolicy"):
        raise TypeError(
            f'policy={policy!r}: write "MlpPolicy" (also for Dict observations) or "CnnPolicy". '
            "jaxrl.PPO(actor=..., critic=...) takes any flax module."
        )
    function = _activation(activation)
    actor, critic = _widths(arch, hidden)
    return networks.MLP(actor, function), networks.MLP(critic, function)


def _activation(given: Any) -> Callable[[jax.Array], jax.Array]:
    """A name, a function, or a module class of PyTorch by its name."""
    if isinstance(given, str | type):
        name = given if isinstance(given, str) else given.__name__
        if name.lower() not in ACTIVATIONS:
            raise ValueError(
                f"activation_fn={given!r} is unknown: write one of "
                f"{', '.join(map(repr, ACTIVATIONS))}, or a function such as flax.linen.relu."
            )
        return ACTIVATIONS[name.lower()]
    if not callable(given):
        raise TypeError(f'activation_fn={given!r} must be a name such as "tanh", or a function.')
    function: Callable[..., Any] = given
    return function


def _widths(arch: Any, hidden: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if arch is None:
        return hidden, hidden
    if isinstance(arch, dict):
        names = set(arch)
        if names - {"pi", "vf", "qf"} or "pi" not in names:
            raise ValueError(f"net_arch={arch!r} must be a list, or a dict of pi and vf (or qf).")
        return tuple(arch["pi"]), tuple(arch.get("vf", arch.get("qf", ())))
    if isinstance(arch, list | tuple) and all(isinstance(n, int) for n in arch):
        return tuple(arch), tuple(arch)
    raise ValueError(f"net_arch={arch!r} must be a list such as [64, 64], or a dict of two.")
