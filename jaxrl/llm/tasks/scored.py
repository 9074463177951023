"""Tasks whose reward is a function of the tokens, such as a learned reward model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.llm.tasks.task import Task
from jaxrl.llm.tokenizer import Tokenizer
from jaxrl.spaces import Space
from jaxrl.struct import static, struct
from jaxrl.types import Key, PyTree, Step

Reward = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(params, prompt [P], completion [C]) -> scalar"""


@struct
class Scored:
    """`task` with the reward `reward(params, prompt, completion)`. What the task itself would have
    given, the gold score, is `gold`: no agent learns from it, but it is measured beside the reward
    (`measure/gold`, and `reward/gold_gap` of the agents) unless `watch` is False, as where it is
    dear. `params` are data: new ones compile nothing anew. An evaluation in `task` itself shows the
    gold score, one in this the reward."""

    task: Task
    reward: Reward = static("of params, prompt and completion")
    params: PyTree = None
    watch: bool = static("measure the gold score too", default=True)

    @property
    def obs_space(self) -> Space:
        return self.task.obs_space

    @property
    def action_space(self) -> Space:
        return self.task.action_space

    @property
    def time_limit(self) -> int | None:
        return None  # everything can be scored

    @property
    def tokenizer(self) -> Tokenizer:
        return self.task.tokenizer

    @property
    def stop(self) -> tuple[int, ...]:
        return self.task.stop

    @property
    def max_new(self) -> int:
        return self.task.max_new

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        state, prompt = self.task.reset(key)
        return (state, prompt), prompt

    def step(self, state: PyTree, action: jax.Array, key: Key) -> tuple[PyTree, Step]:
        _, prompt = state
        reward = jnp.asarray(self.reward(self.params, prompt, action), jnp.float32)
        measures = {"gold": self.gold(state, action, key)} if self.watch else ()
        return state, Step(prompt, reward, jnp.array(True), jnp.array(False), measures)

    def gold(self, state: PyTree, action: jax.Array, key: Key) -> jax.Array:
        """The reward of the task itself, NaN where it has none to give."""
        step = self.task.step(state[0], action, key)[1]
        return jnp.where(step.truncated & ~step.terminated, jnp.nan, step.reward)

    def with_params(self, params: PyTree) -> Scored:
        return dataclasses.replace(self, params=params)
