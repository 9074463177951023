"""JaxMARL (extra `suites`), seen by one agent: `jaxrl.envs.make("jaxmarl/MPE_simple_spread_v3")`.

One learner controls the agents named in `agents`, by default all of them. Its action is theirs side
by side (a MultiDiscrete, or one vector where actions are real numbers), its observation is theirs
joined (vectors end to end, pictures of one size channel after channel), its reward is `team` of
theirs, a mean; so where all agents are paid alike, the reward is the library's.

    env = jaxrl.envs.make("jaxmarl/MPE_simple_tag_v3", agents=("agent_0",))

is one agent alone, with its own observation and action. The agents that are not controlled choose
uniformly among the available actions, or as `others` says: agent's name, its observation, key ->
its action. Available actions, where the library tells them (SMAX, Hanabi), are the `action_mask`.

*Ends.* The library does not tell a time limit from an end. Where episodes end by the clock alone
(MPE, Overcooked, Storm, coin game) every end is a truncation. Elsewhere (SMAX, JaxNav, the switch
riddle) its limit is put out of reach and the same limit truncates. MPE and SMAX count one step more
than their `max_steps` says; so does this. An episode is over when it is for all agents.
Options go to the constructor: `num_agents`, `max_steps`, `layout`, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.envs.adapters import box, check_name, library, once, settled
from jaxrl.envs.adapters import recipe as recall
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step

Others: TypeAlias = Callable[[str, PyTree, Key], jax.Array]
Simple: TypeAlias = spaces.Discrete | spaces.MultiDiscrete | spaces.Box
"""Action spaces of one agent."""

CLOCK = ("MPE_", "overcooked", "storm", "coin_game")
"""Beginnings of the names of environments that end by the clock alone."""

LATE = ("MPE_", "SMAX", "HeuristicEnemySMAX", "LearnedPolicyEnemySMAX")
"""Those that look at the clock before they advance it: an episode has max_steps + 1 steps."""


@struct
class Team:
    """A state of JaxMARL, and what the agents that are not controlled see in it."""

    state: PyTree
    seen: dict[str, PyTree]


@struct
class JaxMarl:
    """A JaxMARL environment as one learner sees it."""

    env: Any = static("the JaxMARL environment, compared by identity")
    agents: tuple[str, ...] = static("who is controlled")
    rest: tuple[str, ...] = static("who is not")
    obs_space: spaces.Space = static("what it shows")
    action_space: spaces.Space = static("what it takes")
    masked: bool = static("whether the library tells available actions")
    clock: int | None = static("steps of every episode, 0 if unknown; None: ends are natural")
    others: Others | None = static("agent, observation, key -> action", default=None)
    team: Callable[[jax.Array], jax.Array] = static(
        "rewards of the agents -> one", default=jnp.mean
    )

    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """The call of `jaxrl.envs.make` that gives this environment, for files."""
        found = recall(_made, self.env, "jaxmarl")
        own = {"agents": self.agents, "others": self.others, "team": self.team}
        return found and (found[0], found[1] | own)

    @property
    def time_limit(self) -> int | None:
        return None if self.clock is None else max(1, self.clock)

    def reset(self, key: Key) -> tuple[Team, PyTree]:
        obs, state = self.env.reset(jax.random.key_data(key))
        return self._carried(state, obs), self._joined(state, obs)

    def step(self, state: Team, action: jax.Array, key: Key) -> tuple[Team, Step]:
        if self.rest:
            key, *keys = jax.random.split(key, 1 + len(self.rest))
        else:
            keys = []
        actions = self._split(action)
        for name, its_key in zip(self.rest, keys):
            actions[name] = self._choose(name, state.seen[name], its_key)
        obs, inner, rewards, ends, info = self.env.step_env(
            jax.random.key_data(key), state.state, actions
        )
        paid = jnp.stack([jnp.asarray(rewards[a], jnp.float32).reshape(()) for a in self.agents])
        over = jnp.asarray(ends["__all__"], bool).reshape(())
        cut = over if self.clock is not None else jnp.zeros((), bool)
        if isinstance(info, dict) and "truncation" in info:  # Brax's wrapper knows the difference
            cut = over & (jnp.asarray(info["truncation"]).reshape(()) > 0)
        reward = self.team(paid).astype(jnp.float32).reshape(())
        step = Step(self._joined(inner, obs), reward, over & ~cut, cut)
        return self._carried(inner, obs), step

    def _choose(self, name: str, seen: PyTree, key: Key) -> jax.Array:
        space = convert(self.env.action_space(name))
        if self.others is not None:
            return jnp.asarray(self.others(name, seen, key), space.dtype)
        if self.masked and isinstance(space, spaces.Discrete):
            return jax.random.categorical(key, jnp.where(seen["action_mask"], 0.0, -jnp.inf))
        return space.sample(key)

    def _split(self, action: jax.Array) -> dict[str, jax.Array]:
        """The joint action, agent by agent."""
        if len(self.agents) == 1:
            return {self.agents[0]: action}
        actions: dict[str, jax.Array] = {}
        start = 0
        for name in self.agents:
            space = convert(self.env.action_space(name))
            size = math.prod(space.shape)
            actions[name] = action[start : start + size].reshape(space.shape)
            start += size
        return actions

    def _carried(self, state: PyTree, obs: dict[str, Any]) -> Team:
        seen: dict[str, PyTree] = {}
        for name in self.rest:
            seen[name] = settled(obs[name])
            if self.masked:
                mask = self.env.get_avail_actions(state)[name]
                seen[name] = {"observation": seen[name], "action_mask": jnp.asarray(mask, bool)}
        return Team(settled(state), seen)

    def _joined(self, state: PyTree, obs: dict[str, Any]) -> PyTree:
        seen = settled(join([obs[name] for name in self.agents]))
        if not self.masked:
            return seen
        available = self.env.get_avail_actions(state)
        mask = jnp.concatenate([jnp.asarray(available[a], bool).reshape(-1) for a in self.agents])
        return {"observation": seen, "action_mask": mask}


def join(parts: list[Any]) -> jax.Array:
    """Observations of several agents as one: [D1], [D2] -> [D1 + D2]; [H, W, C] each ->
    [H, W, sum of C]; all others flat."""
    alike = all(hasattr(x, "shape") and x.shape == parts[0].shape for x in parts)
    if len(parts) == 1 and alike:
        return jnp.asarray(parts[0])
    if alike and parts[0].ndim == 3:
        return jnp.concatenate(parts, axis=-1)
    leaves = [jnp.asarray(x, jnp.float32).reshape(-1) for x in jax.tree.leaves(parts)]
    return jnp.concatenate(leaves)


def convert(space: Any) -> Simple:
    """One agent's action space as one of ours."""
    match type(space).__name__:
        case "Discrete":
            return spaces.Discrete(int(space.n))
        case "MultiDiscrete":
            return spaces.MultiDiscrete(tuple(int(n) for n in np.asarray(space.num_categories)))
        case "Box":
            low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
            return spaces.Box(low, high, space.shape, np.float32)
        case other:
            raise TypeError(f"jaxmarl: no counterpart here for an action space {other}.")


def joint(actions: Sequence[Simple], name: str) -> Simple:
    """The action spaces of several agents as one."""
    if len(actions) == 1:
        return actions[0]
    if all(isinstance(space, spaces.Box) for space in actions):
        flat = [np.broadcast_to(s.low, s.shape).ravel() for s in actions]  # pyright: ignore
        high = [np.broadcast_to(s.high, s.shape).ravel() for s in actions]  # pyright: ignore
        return spaces.Box(np.concatenate(flat), np.concatenate(high))
    counts: list[int] = []
    for space in actions:
        match space:
            case spaces.Discrete(n):
                counts.append(n)
            case spaces.MultiDiscrete(nvec):
                counts.extend(nvec)
            case spaces.Box():
                raise TypeError(
                    f"jaxmarl/{name} mixes choices and real numbers; control fewer agents."
                )
    return spaces.MultiDiscrete(tuple(counts))


def names() -> list[str]:
    """What `make` accepts after "jaxmarl/"."""
    return sorted(library("jaxmarl", "jaxmarl").registered_envs)


_made: dict[Any, Any] = {}


def _build(name: str, options: dict[str, Any]) -> Any:
    """The environment; a limit beside natural ends is put out of reach."""
    env = library("jaxmarl", "jaxmarl").make(name, **options)
    inner = getattr(env, "_env", env)  # SMAX against an enemy holds SMAX
    if not name.startswith(CLOCK) and hasattr(inner, "max_steps"):
        inner.max_steps += 1
    return env


def _masked(env: Any, state: Any) -> bool:
    try:
        jax.eval_shape(env.get_avail_actions, state)
    except NotImplementedError:
        return False
    return all(isinstance(convert(env.action_space(a)), spaces.Discrete) for a in env.agents)


def _clock(env: Any, name: str) -> int:
    if hasattr(env, "max_steps"):
        return int(env.max_steps) + name.startswith(LATE)
    return int(getattr(env, "num_inner_steps", 0)) * int(getattr(env, "num_outer_steps", 0))


def make(
    name: str,
    agents: tuple[str, ...] | None = None,
    others: Others | None = None,
    team: Callable[[jax.Array], jax.Array] = jnp.mean,
    **options: Any,
) -> Env:
    """A JaxMARL environment by its name there."""
    check_name(name, "jaxmarl", names())
    env = once(_made, (name, *sorted(options.items())), lambda: _build(name, options))
    everyone = tuple(env.agents)
    agents = everyone if agents is None else tuple(agents)
    unknown = [a for a in agents if a not in everyone]
    if unknown or not agents:
        raise ValueError(f"agents={agents!r}: jaxmarl/{name} has {', '.join(map(str, everyone))}.")
    obs, state = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
    masked = _masked(env, state)
    action_space = joint([convert(env.action_space(a)) for a in agents], name)
    seen = jax.eval_shape(lambda obs: settled(join([obs[a] for a in agents])), obs)
    obs_space: spaces.Space = box(seen)
    if masked:
        bits = spaces.Box(0, 1, (spaces.size(action_space),), np.bool_)
        obs_space = spaces.Dict({"observation": obs_space, "action_mask": bits})
    adapted = JaxMarl(
        env=env,
        agents=agents,
        rest=tuple(a for a in everyone if a not in agents),
        obs_space=obs_space,
        action_space=action_space,
        masked=masked,
        clock=_clock(env, name) if name.startswith(CLOCK) else None,
        others=others,
        team=team,
    )
    inner = getattr(env, "_env", env)
    if adapted.clock is not None or not hasattr(inner, "max_steps"):
        return cast(Env, adapted)
    limit = int(inner.max_steps) - 1 + name.startswith(LATE)
    return cast(Env, TimeLimit(adapted, limit))
