"""An environment of one's own: walk along a line to its right end."""

import jax
import jax.numpy as jnp

import jaxrl
from jaxrl.spaces import Box, Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


@struct
class Line:
    slip: Float = param("probability that a step goes the other way", default=0.1, low=0, high=1)
    length: int = static("places on the line", default=8, low=2)

    @property
    def obs_space(self) -> Box:
        return Box(0.0, 1.0, (self.length,))

    @property
    def action_space(self) -> Discrete:
        return Discrete(2)

    @property
    def time_limit(self) -> None:  # it never truncates by itself
        return None

    def see(self, place: jax.Array) -> jax.Array:
        return jax.nn.one_hot(place, self.length)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        place = jnp.zeros((), jnp.int32)
        return place, self.see(place)

    def step(self, place: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        slips = jax.random.bernoulli(key, self.slip)
        move = jnp.where((action == 1) ^ slips, 1, -1)
        place = jnp.clip(place + move, 0, self.length - 1)
        arrived = place == self.length - 1
        return place, Step(self.see(place), jnp.float32(-1.0), arrived, jnp.bool(False))


jaxrl.envs.register("Line-v0", Line, max_steps=100)

if __name__ == "__main__":
    env = jaxrl.envs.make("Line-v0", slip=0.2)
    run = jaxrl.train(jaxrl.PPO(), env, jax.random.key(0), steps=100_000)
    print(jaxrl.evaluate(run, env, episodes=128))
