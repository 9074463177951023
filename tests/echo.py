"""A task small enough to be worked by hand: repeat the prompt, then the end token (1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl import rollout as rollouts
from jaxrl import spaces
from jaxrl.checks import task as checked
from jaxrl.llm.config import Config, Rope
from jaxrl.llm.model import Transformer
from jaxrl.struct import static, struct
from jaxrl.types import Step

VOCAB, END = 8, 1

CONFIG = Config(VOCAB, width=16, layers=1, heads=2, hidden=32, rope=Rope(8), eos=(END,))
NETWORK = Transformer(CONFIG)


@struct
class Echo:
    """The reward is the share of positions that are right. Prompts that begin with `unscored`
    cannot be scored; those that begin with `free` are right whatever is answered."""

    length: int = static("tokens of a prompt", default=2)
    unscored: int = static("", default=-2)
    free: int = static("", default=-2)
    ends: bool = static("the end token counts as well", default=True)

    @property
    def obs_space(self) -> spaces.Box:
        return spaces.Box(-1, VOCAB - 1, (self.length + 1,), jnp.int32)

    @property
    def action_space(self) -> spaces.Box:
        return spaces.Box(-1, VOCAB - 1, (self.length + 1,), jnp.int32)

    @property
    def time_limit(self) -> int:
        return 1

    def reset(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        words = jax.random.randint(key, (self.length,), 2, VOCAB)
        prompt = jnp.concatenate([jnp.array([-1]), words]).astype(jnp.int32)  # padded on the left
        return prompt, prompt

    def step(self, state: jax.Array, action: jax.Array, key: jax.Array) -> tuple[jax.Array, Step]:
        right = action == jnp.append(state[1:], END)
        right = right if self.ends else right[:-1]
        reward = jnp.where(state[1] == self.free, 1.0, right.mean())
        lost = state[1] == self.unscored
        return state, Step(state, jnp.where(lost, 0.0, reward).astype(jnp.float32), ~lost, lost)


ECHO = Echo()


def played(agent: Any, env: Any = ECHO) -> tuple[Any, Any]:
    """An agent's state, of a run planned for 64 steps, and its first rollout."""
    spec = checked(agent, env, 64)
    state = jax.jit(lambda k: agent.init(k, spec))(jax.random.key(0))
    streams = rollouts.start(agent, env, jax.random.key(1), 1)
    collect = jax.jit(lambda s, t, k: rollouts.collect(agent, env, spec, s, t, k, 0, 1)[1])
    return state, collect(state, streams, jax.random.key(2))
