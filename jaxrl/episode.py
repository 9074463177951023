"""One episode, step by step on the host: for pictures of it.

It is the very episode that `jaxrl.evaluate(policy, env, episodes=1, key=key)` plays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxrl import checks
from jaxrl.evaluate import Function, Stage, advance, open_stage
from jaxrl.result import Policy, Result
from jaxrl.types import Env, Key, PyTree, Spec, Step

MAX_STEPS = 1000

Player = Callable[[Stage, Key], tuple[Stage, Step]]


@dataclasses.dataclass(frozen=True)
class Frame:
    """What is seen after `t` steps, which brought `total`."""

    picture: np.ndarray[Any, Any]  # uint8 [H, W, 3]
    t: int
    total: float
    over: bool


def task(policy: Any, env: Env | None) -> Env:
    """The environment to play in: the one given, or that of the result."""
    if env is None:
        env = policy.env if isinstance(policy, Result) else None
    if env is None:
        raise ValueError(
            "env is needed here: only what jaxrl.train returned outside of jit and vmap knows its "
            "own. Write env=jaxrl.envs.make(...)."
        )
    return env


def _step(
    agent: Any, env: Env, state: Any, stage: Stage, key: Key, explore: bool
) -> tuple[Stage, Step]:
    return advance(agent, env, state, stage, key, explore)


_step_jit = jax.jit(_step, static_argnames="explore")
_open_jit = jax.jit(open_stage, static_argnames="episodes")


def _player(policy: Any, env: Env, key: Key, explore: bool) -> tuple[Stage, Key, Player]:
    if isinstance(policy, Result | Policy):
        if policy.runs is not None:
            raise TypeError(
                f"this result holds {policy.runs} runs, and a picture shows one: write result[0]."
            )
        checks.same_task(policy.spec, Spec(env.obs_space, env.action_space, env.time_limit))
        agent, state = policy.agent, policy.state
        stage, key = _open_jit(agent, env, key, episodes=1)
        return stage, key, lambda s, k: _step_jit(agent, env, state, s, k, explore=explore)
    if not callable(policy):
        raise TypeError(
            f"policy is {type(policy).__name__}; give what jaxrl.train returned, one policy of it, "
            "or a function from observations to actions."
        )
    chosen: Any = policy
    function = Function(chosen)
    stage, key = open_stage(function, env, key, 1)
    return stage, key, jax.jit(lambda s, k: advance(function, env, (), s, k))


def frames(
    policy: Result | Policy | Callable[[PyTree], jax.Array],
    env: Env,
    *,
    key: Key | None = None,
    max_steps: int = MAX_STEPS,
    explore: bool = False,
) -> Iterator[Frame]:
    """The first frame is the start, the last one the end of the episode, or what is seen after
    `max_steps` steps."""
    from jaxrl import drawing

    checks.positive_int(max_steps, "max_steps")
    key, count = checks.keys(jax.random.key(0) if key is None else key, None)
    if count is not None:
        raise ValueError(f"key holds {count} keys for one episode: give one key.")
    stage, key, play = _player(policy, env, key, explore)

    def picture(stage: Stage) -> np.ndarray[Any, Any]:
        state = jax.tree.map(lambda x: x[0], jax.device_get(stage.env_state))
        found = np.asarray(drawing.render(env, state))
        if found.dtype != np.uint8 or found.ndim != 3 or found.shape[-1] != 3:
            raise TypeError(
                f"render(state) of {type(env).__name__} gave {found.dtype}{list(found.shape)}; "
                "a picture is uint8[height, width, 3]."
            )
        return found

    total, over = 0.0, False
    yield Frame(picture(stage), 0, total, over)
    for t in range(1, max_steps + 1):
        stage, step = play(stage, key)
        total += float(step.reward[0])
        over = bool(step.terminated[0] | step.truncated[0])
        yield Frame(picture(stage), t, total, over)
        if over:
            return
