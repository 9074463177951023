"""REINFORCE, complete: the least an agent can be."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxrl
from jaxrl import networks
from jaxrl.distributions import Categorical
from jaxrl.returns import discounted
from jaxrl.spaces import Discrete
from jaxrl.struct import Float, param, static, struct
from jaxrl.types import ActOut, Key, Metrics, PyTree, Rollout, Spec


@struct
class State:
    params: PyTree
    opt: optax.OptState
    spec: Spec = static()


@struct
class Reinforce:
    lr: Float = param("Adam's step size", default=3e-3, above=0)
    gamma: Float = param("discount", default=0.99, low=0, high=1)
    num_envs: int = static("parallel environments", default=16, low=1)
    num_steps: int = static("steps per environment and update", default=128, low=1)

    def net(self, spec: Spec) -> networks.Headed:
        assert isinstance(spec.action_space, Discrete)
        return networks.Headed(networks.MLP((64,)), outputs=spec.action_space.n, scale=0.01)

    def init(self, key: Key, spec: Spec) -> State:
        params = self.net(spec).init(key, networks.example(spec.obs_space))
        return State(params, optax.adam(self.lr).init(params), spec)

    def policy(self, params: PyTree, spec: Spec, obs: PyTree) -> Categorical:
        logits: Any = self.net(spec).apply(params, networks.prepare(spec.obs_space, obs))
        return Categorical(logits)

    def act(self, state: State, obs: PyTree, key: Key, explore: bool = True) -> ActOut:
        policy = self.policy(state.params, state.spec, obs)
        return ActOut(policy.sample(key) if explore else policy.mode())

    def update(self, state: State, rollout: Rollout, key: Key) -> tuple[State, Metrics]:
        ended = rollout.terminated | rollout.truncated
        nothing = jnp.zeros_like(rollout.reward[0])  # what lies beyond the rollout is not counted
        returns = discounted(rollout.reward, nothing, ended, self.gamma)  # [T, N]
        weight = (returns - returns.mean()) / (returns.std() + 1e-8)

        def loss(params: PyTree) -> jax.Array:
            policy = self.policy(params, state.spec, rollout.obs)
            return -jnp.mean(policy.log_prob(rollout.action) * weight)

        value, gradient = jax.value_and_grad(loss)(state.params)
        direction, opt = optax.adam(self.lr).update(gradient, state.opt)
        params: Any = optax.apply_updates(state.params, direction)
        return State(params, opt, state.spec), {"loss/policy": value}


if __name__ == "__main__":
    env = jaxrl.envs.make("CartPole-v1")
    runs = jaxrl.train(Reinforce(), env, jax.random.split(jax.random.key(0), 4), steps=500_000)
    print(jaxrl.evaluate(runs, env, episodes=32))
