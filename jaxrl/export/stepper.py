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

BATCHES = (1, 7, 64)
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
    step = jax.jit(live.step)
    continuous = isinstance(live.spec.action_space, spaces.Box)
    worst, scale, compared, other = 0.0, 1.0, 0, 0
    for batch in BATCHES:
        ours = theirs = start(live.memory, batch)
        for i in range(STEPS if live.memory else 1):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(batch), i), batch)
            obs = jax.tree.map(np.asarray, jax.vmap(live.spec.obs_space.sample)(keys))
            with jax.default_matmul_precision("highest"):
                action, ours = step(obs, ours)
            given, theirs = copy(obs, theirs)
            action, given = np.asarray(action), np.asarray(given)
            if given.shape != action.shape or given.dtype != action.dtype:
                raise RuntimeError(
                    f"{what} gives actions {given.dtype}{given.shape}, the policy gives "
                    f"{action.dtype}{action.shape}: it was not written."
                )
            compared += batch
            if not action.size:
                continue
            gap = np.abs(given.astype(np.float64) - action)
            worst = max(worst, float(gap.max()))
            scale = max(scale, float(np.abs(action).max()))
            other += int((gap > 0).sum())
    # Not <=, so that NaN counts as a difference.
    if not (worst < TOLERANCE * scale if continuous else other == 0):
        shown = f"by up to {worst:.3g}" if continuous else f"in {other} of {compared}"
        raise RuntimeError(
            f"{what} does not act as the live policy: actions differ {shown}. It was not written."
        )
    return worst, compared
