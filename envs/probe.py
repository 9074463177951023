"""Probe environments: a minute of training that ends in a number only right code gives.

Each isolates one ability, in the order in which to try them: an agent that fails one will fail the
next ones too. The docstrings give the number of right code and that of the usual mistakes, with
`g` for the agent's discount. No probe needs a network larger than a few units.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.spaces import Box, Discrete, Space
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import Key, Step


class Probe:
    """Observations are one number in [-1, 1]; there are two actions; no episode is truncated."""

    @property
    def obs_space(self) -> Space:
        return Box(-1.0, 1.0, (1,))

    @property
    def action_space(self) -> Space:
        return Discrete(2)

    @property
    def time_limit(self) -> None:
        return None


def _step(obs: jax.Array, reward: jax.Array | float, terminated: jax.Array | bool) -> Step:
    reward = jnp.asarray(reward).astype(jnp.float32)
    return Step(obs, reward, jnp.asarray(terminated, bool), jnp.zeros((), bool))


def _sign(key: Key) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key), 1.0, -1.0).astype(jnp.float32)[None]


@struct
class ProbeValue(Probe):
    """One step, reward 1. The value of observation 0 is 1, and so is that of both actions.

    Wrong: 1 / (1 - g) if the value after a termination is counted; 0 if nothing is learned."""

    reward: Float = param("the reward", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del action, key
        return state, _step(state, self.reward, True)


@struct
class ProbeObservation(Probe):
    """One step, observation -1 or 1 at random, reward equal to it. The value of x is x.

    Wrong: 0 for both if observations do not reach the value, or are paired with another step's."""

    scale: Float = param("reward per unit of observation", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        obs = _sign(key)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del action, key
        return state, _step(state, self.scale * state[0], True)


@struct
class ProbeDiscount(Probe):
    """Two steps, observations 0 then 1, rewards 0 then 1. Values: g at 0, 1 at 1.

    Wrong: V(0) = 1 without discount, 0 without bootstrapping, g^2 with one discount too many."""

    reward: Float = param("the reward of the second step", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del action, key
        second = state[0] == 1
        obs = jnp.ones_like(state)
        return obs, _step(obs, self.reward * second, second)


@struct
class ProbeAction(Probe):
    """One step, reward 1 for action 1 and -1 for action 0. Action values: -1 and 1; the policy's
    return goes to 1.

    Wrong: return -1 if the sign of the policy gradient is wrong, 0 if advantages vanish."""

    reward: Float = param("reward of action 1; action 0 gets minus this", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        return state, _step(state, jnp.where(action == 1, self.reward, -self.reward), True)


@struct
class ProbePolicy(Probe):
    """One step, observation -1 or 1 at random; reward 1 for action 0 at -1 and action 1 at 1, else
    -1. The return goes to 1; action values are +-1.

    Wrong: 0 if the policy does not see the observation, or if actions, observations and advantages
    of a batch are shuffled apart."""

    reward: Float = param("reward of the right action; the wrong one gets minus this", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        obs = _sign(key)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        right = (action == 1) == (state[0] > 0)
        return state, _step(state, jnp.where(right, self.reward, -self.reward), True)


@struct
class ProbeCredit(Probe):
    """Two steps. The first action decides: the second observation is 1 (after action 1) or -1, and
    so is the reward of the second step, whatever is done there. Q(0, 1) = g, Q(0, 0) = -g,
    V(1) = 1, V(-1) = -1; the return goes to 1.

    Wrong: Q(0, .) = 0 without bootstrapping; +-1 without discount; a return of 0 if the reward is
    credited to the action of its own step."""

    reward: Float = param("reward after action 1; after action 0 it is minus this", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        second = state[0] != 0
        chosen = jnp.where(action == 1, 1.0, -1.0).astype(jnp.float32)
        obs = jnp.where(second, state, chosen[None])
        return obs, _step(obs, jnp.where(second, self.reward * state[0], 0.0), second)


@struct
class ProbeTruncation(Probe):
    """Observation 0 with reward 0, then observation 1 with reward 1 for ever; registered with a
    time limit of two steps. V(1) = 1 / (1 - g) and V(0) = g / (1 - g): with g = 0.9, 10 and 9.

    Wrong, with g = 0.9: V(1) = 1 if truncation is taken for termination; 1 / (1 - g^2) = 5.26 if
    the value of the next episode's first observation is used instead of the true last one."""

    reward: Float = param("reward of every step but the first", default=1.0)

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del action, key
        obs = jnp.ones_like(state)
        return obs, _step(obs, self.reward * state[0], False)


@struct
class Recalled:
    cue: jax.Array  # float32, -1 or 1
    t: jax.Array  # int32


@struct
class ProbeMemory(Probe):
    """The first observation is a cue, -1 or 1; `delay` observations of 0 follow; the action at the
    last of them should be 0 for -1 and 1 for 1: reward 1, else -1. The return goes to 1.

    Wrong: 0 without memory, or if memory is lost between rollouts or reset at the wrong step."""

    reward: Float = param("reward of the right answer; the wrong one gets minus this", default=1.0)
    delay: int = static("steps between the cue and the answer", default=3, low=1)

    def reset(self, key: Key) -> tuple[Recalled, jax.Array]:
        cue = _sign(key)
        return Recalled(cue[0], jnp.zeros((), jnp.int32)), cue

    def step(self, state: Recalled, action: jax.Array, key: Key) -> tuple[Recalled, Step]:
        del key
        last = state.t == self.delay
        right = (action == 1) == (state.cue > 0)
        reward = jnp.where(right, self.reward, -self.reward)
        step = _step(jnp.zeros(1, jnp.float32), jnp.where(last, reward, 0.0), last)
        return Recalled(state.cue, state.t + 1), step


@struct
class ProbeContinuous(Probe):
    """One step, reward -(a - target)^2 for an action a in [-1, 1]. The action goes to 0.3, the
    return to 0.

    Wrong: a = -1, return -1.69, with a wrong sign; a = 0, return -0.09, if nothing is learned."""

    target: Float = param("the best action", default=0.3)

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (1,))

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        del key
        obs = jnp.zeros(1, jnp.float32)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        return state, _step(state, -((action[0] - self.target) ** 2), True)


@struct
class ProbeContinuousPolicy(Probe):
    """One step, observation x = -1 or 1 at random, reward -(a - 0.5 x)^2 for an action a in
    [-1, 1]. The action goes to 0.5 x, the return to 0.

    Wrong: a = 0, return -0.25, if the policy does not see the observation."""

    slope: Float = param("the best action per unit of observation", default=0.5)

    @property
    def action_space(self) -> Space:
        return Box(-1.0, 1.0, (1,))

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        obs = _sign(key)
        return obs, obs

    def step(self, state: jax.Array, action: jax.Array, key: Key) -> tuple[jax.Array, Step]:
        del key
        return state, _step(state, -((action[0] - self.slope * state[0]) ** 2), True)
