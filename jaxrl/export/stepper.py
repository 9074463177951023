"""A policy as one function of arrays, and the comparison of its copies with it.

`step(obs, memory) -> (action, memory)`, batch first. `memory` is a tuple of arrays, the parts of
the agent's memory that actions are chosen by; () for a policy that does not remember.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import acting, rollout, spaces
from jaxrl.types import PyTree, Spec

Memory = tuple[Any, ...]
Step = Callable[[PyTree, Memory], tuple[Any, Memory]]

BATCHES = (1, 63)
"""How many observations the copies are compared on, at a time."""

STEPS = 4
"""In a row, with the memory passed on."""

TOLERANCE = 1e-4
"""Of continuous actions, relative to the largest of them; discrete ones must be the same."""


@dataclasses.dataclass(frozen=True)
class Stepper:
    step: Step
    memory: Memory  # before the first step of an episode, of one environment
    spec: Spec


def stepper(agent: Any, state: Any, spec: Spec) -> Stepper:
    """Without exploration, and without all that acting does not read."""
    state = acting.strip(agent, state, spec)
    _, read = acting.followed(agent, state, spec, explore=False)
    one = rollout.initial_memory(agent, 1)
    leaves, treedef = jax.tree.flatten(one)

    def step(obs: PyTree, memory: Memory) -> tuple[jax.Array, Memory]:
        batch = jax.tree.leaves(obs)[0].shape[0]
        given = iter(memory)
        whole = [
            next(given) if own else jnp.broadcast_to(x, (batch, *x.shape[1:]))
            for x, own in zip(leaves, read, strict=True)
        ]
        passed = () if one is None else (treedef.unflatten(whole),)
        out = agent.act(state, obs, jax.random.key(0), False, *passed)
        after = zip(jax.tree.leaves(out.memory), read, strict=True)
        return out.action, tuple(x for x, own in after if own)

    kept = tuple(np.asarray(x[0]) for x, own in zip(leaves, read, strict=True) if own)
    return Stepper(step, kept, spec)


def start(memory: Memory, batch: int) -> Memory:
    return tuple(np.broadcast_to(x, (batch, *np.shape(x))).copy() for x in memory)


def compare(live: Stepper, copy: Step, what: str) -> tuple[float, int]:
    """Play both on the same observations. -> the largest difference, the number of actions."""
    steps, total = STEPS if live.memory else 1, sum(BATCHES)
    keys = jax.random.split(jax.random.key(0), (steps, total))
    obs = jax.device_get(jax.jit(jax.vmap(jax.vmap(live.spec.obs_space.sample)))(keys))
    wanted = _play(jax.jit(live.step), live, obs, 0, total)
    ends = np.cumsum(BATCHES)
    parts = zip(ends - BATCHES, ends, strict=True)
    given = np.concatenate([_play(copy, live, obs, a, b) for a, b in parts], 1)
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        raise RuntimeError(
            f"{what} gives actions {given.dtype}{given.shape[2:]}, the policy gives "
            f"{wanted.dtype}{wanted.shape[2:]}: it was not written."
        )
    gap = np.abs(given.astype(np.float64) - wanted)
    worst = float(gap.max(initial=0.0))
    scale = float(np.abs(wanted).max(initial=1.0))
    continuous = isinstance(live.spec.action_space, spaces.Box)
    # Not >, so that NaN counts as a difference.
    if not worst <= (TOLERANCE * scale if continuous else 0.0):
        other = int((gap > 0).reshape(steps, total, -1).any(-1).sum())
        shown = f"by up to {worst:.3g}" if continuous else f"in {other} of {steps * total}"
        raise RuntimeError(
            f"{what} does not act as the live policy: actions differ {shown}. It was not written."
        )
    return worst, steps * total


def _play(step: Step, live: Stepper, obs: PyTree, begin: int, end: int) -> Any:
    """The actions [steps, end - begin, ...] in some of the environments."""
    memory, actions = start(live.memory, end - begin), []
    for i in range(jax.tree.leaves(obs)[0].shape[0]):
        with jax.default_matmul_precision("highest"):
            action, memory = step(jax.tree.map(lambda x, i=i: x[i, begin:end], obs), memory)
        actions.append(np.asarray(action))
    return np.stack(actions)
