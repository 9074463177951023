"""What of an agent's state its actions depend on.

An agent's state holds all that learning needs: optimisers, targets, a replay. To act it reads a
small part of that. Which part is seen in the program of `act` itself, followed backwards from the
action, so no agent has to say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxrl import lanes, rollout, spaces
from jaxrl.types import PyTree, Spec

CALLS = ("pjit", "jit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call",
         "custom_vjp_call", "custom_vjp_call_jaxpr")  # fmt: skip
"""Primitives that compute what an inner program says, argument for argument."""


def inner(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The program that an equation calls and its constants; None for every other equation."""
    if eqn.primitive.name not in CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(name)
        if isinstance(found, ClosedJaxpr):
            return found.jaxpr, found.consts
        if isinstance(found, Jaxpr) and not found.constvars:
            return found, ()
    return None


def needed(jaxpr: Jaxpr, outputs: Sequence[bool]) -> tuple[list[JaxprEqn], set[Any]]:
    """The equations that the marked outputs depend on, in their order, and the variables."""
    wanted = {v for v, mark in zip(jaxpr.outvars, outputs, strict=True) if mark and _variable(v)}
    kept: list[JaxprEqn] = []
    for eqn in reversed(jaxpr.eqns):
        marks = [v in wanted for v in eqn.outvars]
        if not any(marks) and not eqn.effects:
            continue
        kept.append(eqn)
        called = inner(eqn)
        if called is None:
            wanted |= {v for v in eqn.invars if _variable(v)}
        else:
            _, inside = needed(called[0], marks)
            pairs = zip(eqn.invars, called[0].invars, strict=True)
            wanted |= {v for v, own in pairs if own in inside and _variable(v)}
    return kept[::-1], wanted


def _variable(v: Any) -> bool:
    return not isinstance(v, Literal)


def _act(agent: Any, state: Any, memory: PyTree, obs: PyTree, explore: bool) -> Any:
    given = () if memory is None else (memory,)
    out = agent.act(state, obs, jax.random.key(0), explore, *given)
    return out.action, out.memory


def _traced(agent: Any, state: Any, spec: Spec, explore: bool) -> tuple[Jaxpr, int, int]:
    """The program of `act(state, memory, obs)` -> action, memory; leaves of state and memory."""
    obs = jax.eval_shape(lambda: spaces.zeros(spec.obs_space, (1,)))
    memory = rollout.initial_memory(agent, 1)

    def act(state: Any, memory: PyTree, obs: PyTree) -> Any:
        return _act(agent, state, memory, obs, explore)

    program = jax.make_jaxpr(act)(state, memory, obs)
    return program.jaxpr, len(jax.tree.leaves(state)), len(jax.tree.leaves(memory))


def followed(
    agent: Any, state: Any, spec: Spec, explore: bool, everything: bool = False
) -> tuple[list[bool], list[bool]]:
    """Which leaves of the state, and which of the memory, the actions to come depend on;
    `everything` counts memories that no action is chosen by as well."""
    jaxpr, states, memories = _traced(agent, state, spec, explore)
    live = [everything] * memories
    while True:
        actions = len(jaxpr.outvars) - memories
        _, wanted = needed(jaxpr, [True] * actions + live)
        read = [v in wanted for v in jaxpr.invars]
        # A part of the memory that an action is chosen by must be kept up to date.
        grown = [a or b for a, b in zip(live, read[states : states + memories], strict=True)]
        if grown == live:
            return read[:states], live
        live = grown


def strip(agent: Any, state: Any, spec: Spec) -> Any:
    """`state` with None in the place of all that acting does not read. Counters stay: they are a
    number each, and the drivers look for them."""
    nodes, treedef = jax.tree.flatten(state, is_leaf=lanes.is_counter)

    def kept(everything: bool) -> Any:
        greedy, _ = followed(agent, state, spec, False, everything)
        random, _ = followed(agent, state, spec, True, everything)
        flags = zip(nodes, greedy, random, strict=True)
        return treedef.unflatten(
            [x if lanes.is_counter(x) or a or b else None for x, a, b in flags]
        )

    def plays(stripped: Any) -> bool:
        memory = jax.eval_shape(lambda: rollout.initial_memory(agent, 1))
        obs = jax.eval_shape(lambda: spaces.zeros(spec.obs_space, (1,)))
        try:
            for explore in (False, True):
                jax.eval_shape(lambda s, m, o, e=explore: _act(agent, s, m, o, e),
                               stripped, memory, obs)  # fmt: skip
        except Exception:  # whatever an agent raises when a part of its state is None
            return False
        return True

    for everything in (False, True):
        stripped = kept(everything)
        if plays(stripped):
            return stripped
    raise TypeError(
        f"{type(agent).__name__}.act looks at parts of its state that its actions do not depend "
        "on: let it leave them alone, so that a policy can be saved without them."
    )
