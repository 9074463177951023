"""Playing episodes without exploration and without learning, and saying how good they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import checks, host, lanes, rollout
from jaxrl.host import HostEnv
from jaxrl.result import Policy, Result
from jaxrl.statistics import bootstrap_interval, iqm
from jaxrl.struct import struct
from jaxrl.types import ActOut, Env, Key, PyTree, Spec, Step

MAX_STEPS = 100_000
"""Episodes are stopped here if the environment never ends them; `Evaluation.unfinished` counts."""


@struct
class Played:
    """E episodes, each in an environment of its own."""

    returns: jax.Array  # [E]
    lengths: jax.Array  # [E] int32
    finished: jax.Array  # [E] bool


@struct
class Stage:
    """E environments in the middle of their episodes."""

    env_state: PyTree  # [E, ...]
    obs: PyTree  # [E, ...]
    memory: PyTree  # [E, ...] or None
    t: jax.Array  # int32: steps made


def open_stage(agent: Any, env: Env, key: Key, episodes: int) -> tuple[Stage, Key]:
    """-> the first observations, and the key to play with."""
    reset_key, play_key = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    memory = rollout.initial_memory(agent, episodes)
    return Stage(env_state, obs, memory, jnp.zeros((), jnp.int32)), play_key


def advance(
    agent: Any, env: Env, state: Any, stage: Stage, key: Key, explore: bool = False
) -> tuple[Stage, Step]:
    """One step in each environment."""
    episodes = jax.tree.leaves(stage.obs)[0].shape[0]
    act_key, env_key = jax.random.split(jax.random.fold_in(key, stage.t))
    first = jnp.broadcast_to(stage.t == 0, (episodes,))
    out = rollout.act(agent, state, stage.obs, act_key, stage.memory, first, explore)
    env_keys = jax.random.split(env_key, episodes)
    env_state, step = jax.vmap(env.step)(stage.env_state, out.action, env_keys)
    return Stage(env_state, step.obs, out.memory, stage.t + 1), step


def play(
    agent: Any,
    env: Env,
    spec: Spec,
    state: Any,
    key: Key,
    episodes: int,
    max_steps: int,
    explore: bool = False,
) -> Played:
    """One episode in each of `episodes` environments."""
    stage, key = open_stage(agent, env, key, episodes)
    returns = jnp.zeros(episodes)
    lengths = jnp.zeros(episodes, jnp.int32)
    finished = jnp.zeros(episodes, bool)

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        stage, *_, finished = carry
        return (stage.t < max_steps) & ~finished.all()

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        stage, returns, lengths, finished = carry
        stage, result = advance(agent, env, state, stage, key, explore)
        returns = returns + jnp.where(finished, 0, result.reward)
        lengths = lengths + ~finished
        finished = finished | result.terminated | result.truncated
        return stage, returns, lengths, finished

    carry = (stage, returns, lengths, finished)
    _, returns, lengths, finished = jax.lax.while_loop(unfinished, step, carry)
    return Played(returns, lengths, finished)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Returns of finished episodes, seeds x episodes (one row for a single policy)."""

    returns: np.ndarray
    lengths: np.ndarray
    unfinished: int = 0

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def iqm(self) -> float:
        """Interquartile mean of the seeds' mean returns (of the episodes, for one seed)."""
        return iqm(self._scores)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of `iqm`, resampling seeds (episodes, for one seed)."""
        return bootstrap_interval(self._scores, iqm)

    @property
    def _scores(self) -> np.ndarray:
        return self.returns.mean(1) if len(self.returns) > 1 else self.returns[0]

    def __repr__(self) -> str:
        seeds, episodes = self.returns.shape
        low, high = self.interval
        text = (
            f"Evaluation(return: mean {self.mean:.2f}, IQM {self.iqm:.2f} "
            f"[95% {low:.2f}, {high:.2f}], {seeds} seed{'s' * (seeds > 1)} x {episodes} episodes, "
            f"mean length {self.lengths.mean():.1f} steps"
        )
        if self.unfinished:
            text += f", {self.unfinished} stopped before their end"
        return text + ")"


@struct
class Function:
    """A plain `obs -> action` function in the place of an agent."""

    function: Callable[[PyTree], jax.Array]

    def act(self, state: Any, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        del state, key, explore
        return ActOut(self.function(obs))


def _play_all(
    shared: PyTree, own: PyTree, spec: Spec, episodes: int, max_steps: int, plan: lanes.Lanes
) -> Played:
    def one(shared: PyTree, own: PyTree) -> Played:
        common, env = shared
        agent, state, key = own
        agent = common if agent is None else agent
        return play(agent, env, spec, state, key, episodes, max_steps)

    return lanes.each(one, shared, own, plan)


_play_jit = jax.jit(_play_all, static_argnames=("spec", "episodes", "max_steps", "plan"))


def evaluate(
    policy: Result | Policy | Callable[[PyTree], jax.Array],
    env: Env,
    *,
    episodes: int = 128,
    key: Key | None = None,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Play `episodes` episodes per seed in fresh environments, without exploration.

    `policy` is what `train` returned (all its runs are played), one policy of it, or any function
    from a batch of observations to a batch of actions. The default key is `jax.random.key(0)`, so
    that two evaluations meet the same starts.
    """
    checks.positive_int(episodes, "episodes")
    checks.positive_int(max_steps, "max_steps")
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    if isinstance(policy, Result | Policy):
        agent, state, count = policy.agent, policy.state, policy.runs
        checks.same_task(policy.spec, spec)
    elif callable(policy):
        agent, state, count = Function(policy), (), None
    else:
        raise TypeError(
            f"policy is {type(policy).__name__}; give what jaxrl.train returned, one policy of it, "
            "or a function from observations to actions."
        )
    key = jax.random.key(0) if key is None else key
    key, key_count = checks.keys(key, None)
    if key_count not in (None, count):
        raise ValueError(f"key holds {key_count} keys for {count or 1} runs: give one key.")
    if isinstance(env, HostEnv):
        plan = host.arrange(count or 1, None)
    else:
        plan = lanes.arrange(count or 1, None, local=True)
    stacked = count is not None and checks.stacked(agent)
    shared = (None if stacked else agent, env)
    # Every seed meets the same starts: differences between seeds are differences of policy.
    if key_count is None:
        key = jnp.broadcast_to(key, (count or 1,))
    if count is None:
        state = lanes.stack_one(state)
    state = lanes.shared_counters(state)
    own = lanes.pad((agent if stacked else None, state, key), plan)
    if isinstance(env, HostEnv):
        from jaxrl import host_play

        function: Any = policy if isinstance(agent, Function) else None
        played = host_play.play(shared[0], own, env, episodes, max_steps, plan, function)
    elif isinstance(agent, Function):
        played = jax.device_get(play(agent, env, spec, (), key[0], episodes, max_steps))
        played = jax.tree.map(lambda x: x[None], played)
    else:
        played = _play_jit(shared, own, spec, episodes, max_steps, plan)
        played = jax.device_get(lanes.trim(played, plan))
    return Evaluation(
        returns=np.asarray(played.returns),
        lengths=np.asarray(played.lengths),
        unfinished=int((~played.finished).sum()),
    )
