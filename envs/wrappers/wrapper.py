"""A wrapper that changes nothing: the start of all others, and of your own."""

from __future__ import annotations

from typing import Any

import jax

from jaxrl.drawing import Picture, fps, render
from jaxrl.rollout import inherit
from jaxrl.spaces import Space
from jaxrl.struct import struct
from jaxrl.types import Env, Key, PyTree, Step


@struct
class Wrapper:
    """Passes everything through. A subclass overrides what it changes; it must keep the promise of
    `time_limit`, which is the inner one's unless the wrapper itself truncates."""

    env: Env

    # Whether the states, rewards and endings are those of `env`, time limits aside, so that its
    # model is also that of the wrapped one.
    keeps_model = False

    @property
    def obs_space(self) -> Space:
        return self.env.obs_space

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def time_limit(self) -> int | None:
        return self.env.time_limit

    def reset(self, key: Key) -> tuple[Any, PyTree]:
        return self.env.reset(key)

    def step(self, state: Any, action: jax.Array, key: Key) -> tuple[Any, Step]:
        return self.env.step(state, action, key)

    @property
    def fps(self) -> int:
        return fps(self.env)

    def render(self, state: Any) -> Picture:
        """A wrapper whose state is not the inner one's says where that is."""
        return render(self.env, state)

    def inherit(self, state: Any, fresh: Any) -> Any:
        """The same holds here."""
        return inherit(self.env, state, fresh)
