"""A new world in every episode: domain randomisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.drawing import Picture, render
from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.rollout import inherit
from jaxrl.struct import static, struct
from jaxrl.types import Env, Key, PyTree, Step


@struct
class World:
    """The constants drawn for this episode, and the state of the environment they make."""

    inner: PyTree
    env: Env


@struct
class Randomize(Wrapper):
    """Every episode is played with constants of its own, drawn at its start by `draw(key, env)`:

        def draw(key, env):
            gravity = jax.random.uniform(key, minval=5, maxval=15)
            return dataclasses.replace(env, gravity=gravity)

        env = TimeLimit(Randomize(CartPole(), draw), 500)

    To give each *run* its own constants, vmap over the environment instead.
    """

    draw: Callable[[Key, Env], Env] = static(doc="draws the environment of an episode")

    def reset(self, key: Key) -> tuple[World, PyTree]:
        draw_key, reset_key = jax.random.split(key)
        env = self.draw(draw_key, self.env)
        if jax.tree.structure(env) != jax.tree.structure(self.env):
            raise TypeError(
                "draw(key, env) must return an environment with the static fields of the one it "
                "was given; write dataclasses.replace(env, ...) with its float constants only."
            )
        # Strong types: the state of the next step must have those of this one.
        env = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), env)
        state, obs = env.reset(reset_key)
        return World(state, env), obs

    def step(self, state: World, action: jax.Array, key: Key) -> tuple[World, Step]:
        inner, step = state.env.step(state.inner, action, key)
        return World(inner, state.env), step

    def render(self, state: World) -> Picture:
        return render(state.env, state.inner)

    def inherit(self, state: World, fresh: World) -> World:
        return dataclasses.replace(fresh, inner=inherit(self.env, state.inner, fresh.inner))
