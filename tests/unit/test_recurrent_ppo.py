"""PPO with memory: sequences, resets, values at time limits, and tasks that only memory solves."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import networks, optim, rollout
from jaxrl.agents.policy.ppo import Batch
from jaxrl.struct import static, struct
from jaxrl.types import Rollout, Spec

KEY = jax.random.key(0)
GRU, LSTM, MLP = networks.GRU(6), networks.LSTM(5), networks.MLP((6,))


def played(agent: jaxrl.PPO, env: Any, rollouts: int = 2) -> tuple[Any, Rollout]:
    spec = Spec(env.obs_space, env.action_space, env.time_limit, 10_000)
    state = agent.init(KEY, spec)
    streams = rollout.start(agent, env, jax.random.key(1))
    collect = jax.jit(lambda t, k: rollout.collect(agent, env, spec, state, t, k))
    for i in range(rollouts):
        streams, got, _ = collect(streams, jax.random.key(i + 2))
    return state, got


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(("actor", "critic"), [(GRU, LSTM), (LSTM, MLP), (MLP, GRU)])
def test_p3_the_first_minibatch_has_ratio_one(env: str, actor: Any, critic: Any) -> None:
    # Also over resets inside a rollout that began in the middle of an episode.
    agent = jaxrl.PPO(num_steps=24, epochs=1, minibatches=1, actor=actor, critic=critic)
    state, got = played(agent, jaxrl.envs.make(env, max_steps=10))
    assert got.first[1:].any() and not got.first[0].any()
    _, metrics = jax.jit(agent.update)(state, got, KEY)
    assert abs(float(metrics["policy/kl"])) < 1e-6
    assert metrics["policy/clip_fraction"] == 0


def test_only_what_remembers_has_a_memory() -> None:
    assert jaxrl.PPO().initial_memory(3) is None
    memory = jaxrl.PPO(actor=GRU).initial_memory(3)
    assert memory["actor"].shape == (3, 6) and memory["critic"] is None


def test_s1_values_at_time_limits_have_the_memory_of_their_episode() -> None:
    """Against a loop; wrong are the next episode's observation, an empty memory, a later one."""
    agent = jaxrl.PPO(num_envs=3, num_steps=12, minibatches=1, actor=MLP, critic=GRU)
    state, got = played(agent, jaxrl.envs.make("CartPole-v1", max_steps=5))
    assert got.truncated.sum() > 3
    value, after = agent._values(state, got)
    memory = got.memory["critic"]
    assert jnp.abs(memory).max() > 1e-3
    for t in range(12):
        memory = jnp.where(got.first[t][:, None], 0.0, memory)
        v, memory = agent._value(state.params, got.obs[t], memory)
        np.testing.assert_allclose(value[t], v, atol=1e-5)
        following = got.last_obs if t == 11 else got.obs[t + 1]
        following = jnp.where(got.truncated[t][:, None], got.final_obs[t // 5], following)
        v, _ = agent._value(state.params, following, memory)
        going = ~got.terminated[t]
        np.testing.assert_allclose(after[t][going], v[going], atol=1e-5)


@struct
class Watched(jaxrl.PPO):
    """Shows its minibatches."""

    seen: object = static(default=None)

    def learn(self, state, batch, key):
        jax.debug.callback(self.seen, batch, ordered=True)
        return jaxrl.PPO.learn(self, state, batch, key)


def test_minibatches_are_whole_environments() -> None:
    """p14 for sequences: observation, first step, advantage and memory of one environment stay
    together, and each environment is seen once per epoch."""
    seen: list[Batch] = []
    agent = Watched(
        num_envs=6, num_steps=8, minibatches=3, epochs=2, actor=GRU, critic=GRU, seen=seen.append
    )
    state, got = played(agent, jaxrl.envs.make("CartPole-v1", max_steps=5))
    number = jnp.broadcast_to(jnp.arange(6.0), (8, 6))
    got = dataclasses.replace(got, extras=(got.extras[0], number))
    agent.update(state, got, KEY)
    jax.effects_barrier()
    assert len(seen) == 6
    value, _ = agent._values(state, got)
    for epoch in (seen[:3], seen[3:]):
        envs = np.concatenate([b.log_prob[:, 0] for b in epoch]).astype(int)
        assert sorted(envs) == list(range(6))
        for b in epoch:
            env = np.asarray(b.log_prob[:, 0]).astype(int)
            np.testing.assert_array_equal(b.obs, jnp.swapaxes(got.obs, 0, 1)[env])
            np.testing.assert_array_equal(b.first, got.first.T[env])
            np.testing.assert_array_equal(b.memory["actor"], got.memory["actor"][env])
            np.testing.assert_allclose(b.value, value.T[env], atol=1e-5)


def test_refusals() -> None:
    env = jaxrl.envs.make("CartPole-v1")
    spec = Spec(env.obs_space, env.action_space, env.time_limit)
    with pytest.raises(ValueError, match=r"num_envs=6, whose sequences stay whole.*minibatches=3"):
        jaxrl.PPO(num_envs=6, minibatches=4, actor=GRU).init(KEY, spec)


def test_a_policy_with_memory_is_played_step_by_step() -> None:
    env = jaxrl.envs.make("CartPole-v1")
    agent = jaxrl.PPO(num_steps=8, minibatches=2, actor=GRU, critic=GRU)
    policy = jaxrl.train(agent, env, KEY, steps=64).policy
    obs = jax.random.normal(KEY, (5, 4))
    with pytest.raises(TypeError, match="policy.step"):
        policy(obs[0])
    one, many = policy.initial_memory(), policy.initial_memory(2)
    assert one["actor"].shape == (6,)
    for x in obs:
        action, one = policy.step(x, one)
        actions, many = policy.step(jnp.stack([x, x + 1]), many)
        assert action == actions[0]
    np.testing.assert_allclose(one["actor"], many["actor"][0], atol=1e-6)
    assert jnp.abs(one["actor"] - many["actor"][1]).max() > 1e-4


@struct
class Tiny(jaxrl.PPO):
    """Settings for small tasks."""

    lr: float = 5e-3
    gamma: float = 0.9
    num_envs: int = static(default=16)
    num_steps: int = static(default=16)
    actor: nn.Module = static(default=networks.GRU(16))
    critic: nn.Module = static(default=networks.GRU(16))
    anneal_lr: object = static(default=optim.constant)


def score(agent: Any, env: Any, steps: int) -> float:
    return jaxrl.evaluate(jaxrl.train(agent, env, KEY, steps=steps), env, episodes=256).mean


@pytest.mark.parametrize("torso", [networks.GRU(16), networks.LSTM(16)])
def test_probe_memory(torso: Any) -> None:
    env = jaxrl.envs.make("Probe-Memory")
    assert score(Tiny(actor=torso, critic=torso), env, 20_000) == pytest.approx(1.0)


def test_a_short_t_maze_needs_memory() -> None:
    env = jaxrl.envs.make("TMaze-v0", length=4)
    assert score(Tiny(), env, 40_000) > 3.9
    forgetful = Tiny(actor=networks.MLP((16,)), critic=networks.MLP((16,)))
    assert score(forgetful, env, 40_000) < 2.5  # 1.95 is the mean of both turns


def test_the_code_in_the_docs_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recurrence.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/recurrence.md", "exec"), names)
    assert names["action"].shape == ()
