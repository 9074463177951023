"""SAC: one gradient step by hand, action scales, warm-up, the update-to-data ratio, and probe
environments whose answer only right code finds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import networks, spaces
from jaxrl.agents.control.sac import SAC, State
from jaxrl.envs import probe
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.envs.wrappers.wrapper import Wrapper
from jaxrl.replay import Batch
from jaxrl.struct import static, struct
from jaxrl.train import train
from jaxrl.types import Counter, Rollout, Spec, Step

BOX = spaces.Box(-np.inf, np.inf, (3,))
SPEC = Spec(BOX, spaces.Box(-2.0, 4.0, (2,)), None, steps=1000)
TORSO = networks.MLP((8,))
SMALL = SAC(actor=TORSO, critic=TORSO, capacity=256, batch_size=8, learning_starts=8)


def batch(size: int = 8) -> Batch:
    keys = jax.random.split(jax.random.key(5), 4)
    return Batch(
        obs=jax.random.normal(keys[0], (size, 3)),
        action=jax.random.uniform(keys[1], (size, 2), minval=-2.0, maxval=4.0),
        reward=jax.random.normal(keys[2], (size,)),
        discount=jnp.where(jnp.arange(size) % 3 == 0, 0.0, 0.9),
        next_obs=jax.random.normal(keys[3], (size, 3)),
        weight=jnp.linspace(0.5, 1.5, size),
    )


def rollout(agent: SAC, seed: int = 0) -> Rollout:
    shape = (agent.num_steps, agent.num_envs)
    keys = jax.random.split(jax.random.key(seed), 3)
    return Rollout(
        obs=jax.random.normal(keys[0], (*shape, 3)),
        action=jnp.zeros((*shape, 2)),
        reward=jax.random.normal(keys[1], shape),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.zeros(shape, bool),
        first=jnp.zeros(shape, bool),
        last_obs=jax.random.normal(keys[2], (agent.num_envs, 3)),
        final_obs=jnp.zeros((0, agent.num_envs, 3)),
        extras=(),
        memory=None,
        last_memory=None,
    )


def close(a: object, b: object, atol: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.mark.parametrize("critics", [1, 2, 5])
def test_one_gradient_step_by_hand(critics: int) -> None:
    agent = dataclasses.replace(SMALL, critics=critics, alpha_start=0.3, target_entropy=-1.0)
    state: State = agent.init(jax.random.key(0), SPEC)
    state = dataclasses.replace(state, target=jax.tree.map(lambda x: x * 1.3, state.critic))
    data, key = batch(), jax.random.key(7)
    new, metrics = agent.learn(state, data, key)
    now_key, next_key = jax.random.split(key)
    scaled = (data.action - 1.0) / 3.0  # the box is -2 .. 4

    def single(params: object, member: int, x: jax.Array, a: jax.Array) -> jax.Array:
        member_params = jax.tree.map(lambda p: p[member], params)
        return agent.q(jax.tree.map(lambda p: p[None], member_params), x, a)[0]

    def least(params: object, x: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.min(jnp.stack([single(params, k, x, a) for k in range(critics)]), axis=0)

    a2, lp2 = agent._policy(state.actor, SPEC, data.next_obs).sample_and_log_prob(next_key)
    target = data.reward + data.discount * (least(state.target, data.next_obs, a2) - 0.3 * lp2)
    target = np.asarray(target)

    def critic_loss(params: object) -> jax.Array:
        each = [single(params, k, data.obs, scaled) - target for k in range(critics)]
        return sum(0.5 * jnp.mean(data.weight * e**2) for e in each)

    value, gradient = jax.value_and_grad(critic_loss)(state.critic)
    adam = optax.adam(1e-3)
    updates, _ = adam.update(gradient, adam.init(state.critic))
    critic = optax.apply_updates(state.critic, updates)
    assert metrics["loss/critic"] == pytest.approx(float(value), rel=1e-4)
    close(new.critic, critic, 1e-5)
    close(new.target, jax.tree.map(lambda t, o: 0.995 * t + 0.005 * o, state.target, critic), 1e-5)

    def actor_loss(params: object) -> jax.Array:  # with the critics as they are now
        a, lp = agent._policy(params, SPEC, data.obs).sample_and_log_prob(now_key)
        return jnp.mean(0.3 * lp - least(critic, data.obs, a))

    value, gradient = jax.value_and_grad(actor_loss)(state.actor)
    updates, _ = adam.update(gradient, adam.init(state.actor))
    assert metrics["loss/actor"] == pytest.approx(float(value), rel=1e-4)
    close(new.actor, optax.apply_updates(state.actor, updates), 2e-5)

    # C4: entropy above its target lowers the temperature, below raises it
    entropy = float(metrics["policy/entropy"])
    step = float(new.log_alpha - state.log_alpha)
    assert step == pytest.approx(-1e-3 * np.sign(entropy - -1.0), rel=1e-3)


def test_a_step_size_of_zero_keeps_the_temperature() -> None:
    for step_size in (0.0, 1e-2):
        agent = dataclasses.replace(SMALL, alpha_start=0.3, alpha_lr=step_size)
        state: State = agent.init(jax.random.key(0), SPEC)
        learned, _ = agent.learn(state, batch(), jax.random.key(7))
        assert bool(learned.log_alpha == state.log_alpha) == (step_size == 0.0)


def test_c4b_default_target_entropy_is_minus_the_number_of_actions() -> None:
    """Whatever the box: the sign of the temperature's step flips at -2 for two actions."""
    for high in (1.0, 50.0):
        spec = Spec(BOX, spaces.Box(-high, high, (2,)), None, 1000)
        state = SMALL.init(jax.random.key(0), spec)
        data = dataclasses.replace(batch(), action=jnp.zeros((8, 2)))
        _, metrics = SMALL.learn(state, data, jax.random.key(0))
        expected = -float(state.log_alpha) * (-float(metrics["policy/entropy"]) - 2.0)
        assert metrics["loss/temperature"] == pytest.approx(expected, abs=1e-5)
        again, _ = dataclasses.replace(SMALL, target_entropy=-2.0).learn(
            state, data, jax.random.key(0)
        )
        default, _ = SMALL.learn(state, data, jax.random.key(0))
        assert again.log_alpha == default.log_alpha


def test_c7_critics_differ_at_the_start() -> None:
    state = SMALL.init(jax.random.key(0), SPEC)
    kernels = [x for x in jax.tree.leaves(state.critic) if x.ndim == 3]
    assert len(kernels) == 2 and all(float(jnp.abs(k[0] - k[1]).max()) > 0.01 for k in kernels)


@pytest.mark.parametrize(("grad_steps", "per_step"), [(None, 16), (4, 4)])
def test_c8_update_to_data_ratio(grad_steps: int | None, per_step: int) -> None:
    agent = dataclasses.replace(
        SMALL, num_envs=16, capacity=256, learning_starts=0, grad_steps=grad_steps
    )
    state = agent.init(jax.random.key(0), SPEC)
    update = jax.jit(agent.update)
    for i in range(3):
        state, _ = update(state, rollout(agent, i), jax.random.key(i))
    counts = [x for x in jax.tree.leaves(state.critic_opt) if x.dtype == jnp.int32]
    assert int(counts[0]) == 3 * per_step


def test_c9_evaluation_plays_the_squashed_mean() -> None:
    state = SMALL.init(jax.random.key(0), SPEC)
    obs = jax.random.normal(jax.random.key(1), (5, 3)) * 3
    played = [SMALL.act(state, obs, jax.random.key(k), explore=False).action for k in range(2)]
    np.testing.assert_array_equal(played[0], played[1])
    loc = SMALL._policy(state.actor, SPEC, obs).loc
    np.testing.assert_allclose(played[0], 1.0 + 3.0 * np.tanh(loc), rtol=1e-5)


def test_c10_warm_up_is_uniform_in_the_box_of_the_environment() -> None:
    spec = Spec(BOX, spaces.Box(-2.0, 2.0, (1,)), None, 1000)
    state = SMALL.init(jax.random.key(0), spec)
    obs = jnp.ones((20_000, 3))
    action = SMALL.act(state, obs, jax.random.key(0)).action
    assert action.std() == pytest.approx(2 / np.sqrt(3), rel=0.01)
    assert action.min() < -1.99 and action.max() > 1.99
    narrow = jax.tree.map(lambda x: x * 0, state.actor)
    warm = dataclasses.replace(state, actor=narrow, env_steps=Counter(jnp.int32(8)))
    after = SMALL.act(warm, obs, jax.random.key(0)).action
    expected = 2 * np.tanh(np.exp(-1.5) * np.random.default_rng(0).normal(size=200_000)).std()
    assert after.std() == pytest.approx(expected, rel=0.03)


def test_warm_up_then_learning() -> None:
    state = SMALL.init(jax.random.key(0), SPEC)
    update = jax.jit(SMALL.update)
    for i in range(10):
        before = state.critic
        state, metrics = update(state, rollout(SMALL, i), jax.random.key(i))
        warm = i >= 7
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, state.critic)
        assert all(jax.tree.leaves(same)) != warm
        assert bool(np.isnan(metrics["loss/critic"])) != warm


@struct
class Spy(SAC):
    """Shows its batches."""

    seen: Any = static(default=None)

    def learn(self, state: State, batch: Batch, key: jax.Array) -> Any:
        jax.debug.callback(self.seen, batch)
        return SAC.learn(self, state, batch, key)


def test_batches_are_windows_of_n_steps_discounted_by_gamma() -> None:
    seen: list[Batch] = []
    agent = Spy(
        actor=TORSO, critic=TORSO, capacity=64, batch_size=32, learning_starts=8, num_steps=8,
        n_steps=3, gamma=0.7, grad_steps=1, seen=seen.append,
    )  # fmt: skip
    roll = rollout(agent)
    jax.block_until_ready(
        agent.update(agent.init(jax.random.key(0), SPEC), roll, jax.random.key(1))
    )
    jax.effects_barrier()
    (batch,) = seen
    r = np.asarray(roll.reward[:, 0])
    obs = np.asarray(roll.obs[:, 0])
    for i in range(32):
        t = int(np.flatnonzero((obs == batch.obs[i]).all(1))[0])
        assert batch.reward[i] == pytest.approx(r[t] + 0.7 * r[t + 1] + 0.49 * r[t + 2], abs=1e-5)
        following = obs[t + 3] if t < 5 else roll.last_obs[0]
        np.testing.assert_array_equal(batch.next_obs[i], following)
    np.testing.assert_allclose(batch.discount, 0.343, atol=1e-6)
    assert len({float(x) for x in batch.reward}) == 6  # every window that fits


def test_refusals() -> None:
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"jaxrl\.DQN"):
        SMALL.init(key, Spec(BOX, spaces.Discrete(2), None, 1000))
    with pytest.raises(ValueError, match="bounded"):
        SMALL.init(key, Spec(BOX, spaces.Box(-np.inf, np.inf, (1,)), None, 1000))
    with pytest.raises(ValueError, match="grad_steps=0"):
        dataclasses.replace(SMALL, grad_steps=0).init(key, SPEC)


@struct
class Continuous(Wrapper):
    """A probe of two actions, played by the sign of one number: 1 above zero, else 0."""

    @property
    def action_space(self) -> spaces.Space:
        return spaces.Box(-1.0, 1.0, (1,))

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, Step]:
        return self.env.step(state, (action[0] > 0).astype(jnp.int32), key)


# Hardly paid for entropy and at a fixed temperature, values are those of the docstrings in
# jaxrl/envs/probe.py.
PROBE = SAC(
    actor=networks.MLP((32,)),
    critic=networks.MLP((32,)),
    num_envs=8,
    capacity=4000,
    batch_size=64,
    learning_starts=200,
    grad_steps=4,
    actor_lr=3e-3,
    critic_lr=3e-3,
    alpha_lr=0.0,
    alpha_start=1e-3,
    tau=0.05,
    gamma=0.5,
)


def trained(env: Any, agent: SAC = PROBE, steps: int = 4000) -> Any:
    return train(agent, env, jax.random.key(0), steps=steps, progress=False)


def values(run: Any, obs: list[float]) -> np.ndarray:
    """Q [len(obs), actions] of the first critic, at actions -0.9 .. 0.9."""
    x = jnp.array(obs)[:, None]
    q = [run.agent.q(run.state.critic, x, jnp.full_like(x, a))[0] for a in (-0.9, 0.0, 0.9)]
    return np.stack(q, axis=-1)


def test_probe_value() -> None:
    q = values(trained(Continuous(probe.ProbeValue())), [0.0])
    np.testing.assert_allclose(q, 1.0, atol=0.05)  # 2 if a termination bootstraps


def test_probe_observation() -> None:
    q = values(trained(Continuous(probe.ProbeObservation())), [-1.0, 1.0])
    np.testing.assert_allclose(q, [[-1] * 3, [1] * 3], atol=0.05)


def test_probe_discount() -> None:
    q = values(trained(Continuous(probe.ProbeDiscount())), [0.0, 1.0])
    np.testing.assert_allclose(q, [[0.5] * 3, [1.0] * 3], atol=0.05)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_probe_truncation(n_steps: int) -> None:
    """1 and 0.5 if truncation is termination, 4/3 and 2/3 if it bootstraps from the next start."""
    agent = dataclasses.replace(PROBE, n_steps=n_steps)
    q = values(trained(TimeLimit(Continuous(probe.ProbeTruncation()), 2), agent), [0.0, 1.0])
    np.testing.assert_allclose(q, [[1.0] * 3, [2.0] * 3], atol=0.1)


def test_probe_credit() -> None:
    """The reward follows one step after the action that earned it."""
    run = trained(Continuous(probe.ProbeCredit()))
    assert run.policy(jnp.zeros(1))[0] > 0
    q = values(run, [0.0])[0]
    assert q[2] - q[0] == pytest.approx(1.0, abs=0.2)  # 0.5 after action 1, -0.5 after action 0


def test_probe_continuous() -> None:
    """The best policy for a reward of -(a - 0.3)^2 and a temperature alpha has the density
    exp(-(a - 0.3)^2 / alpha): the spread of the action is sqrt(alpha / 2)."""
    run = trained(probe.ProbeContinuous(), dataclasses.replace(PROBE, alpha_start=0.03), 12_000)
    assert float(run.policy(jnp.zeros(1))[0]) == pytest.approx(0.3, abs=0.03)
    u, (normal, _) = density(run, 0.0)
    mean = np.average(np.tanh(u), weights=normal)
    spread = np.sqrt(np.average((np.tanh(u) - mean) ** 2, weights=normal))
    assert spread == pytest.approx(np.sqrt(0.03 / 2), rel=0.15)
    assert values(run, [0.0])[0, 1] == pytest.approx(-0.09, abs=0.05)


def test_probe_continuous_policy() -> None:
    agent = dataclasses.replace(PROBE, alpha_start=0.03)
    run = trained(probe.ProbeContinuousPolicy(), agent, 12_000)
    for x in (-1.0, 1.0):
        assert float(run.policy(jnp.full(1, x))[0]) == pytest.approx(0.5 * x, abs=0.07)


def density(run: Any, x: float) -> tuple[np.ndarray, np.ndarray]:
    """The policy's density on a grid of actions, by the change of variables in NumPy."""
    policy = run.agent._policy(run.state.actor, run.spec, jnp.full((1, 1), x))
    u = np.linspace(-9.0, 9.0, 200_001)
    loc, std = float(policy.loc[0, 0]), float(np.exp(policy.log_std[0, 0]))
    normal = np.exp(-0.5 * ((u - loc) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    slope = 1.0 / np.cosh(u) ** 2
    return u, np.stack([normal, np.log(np.maximum(normal, 1e-300) / slope)])


def entropy(run: Any, x: float) -> float:
    """Of the squashed action, exactly."""
    u, (normal, log_density) = density(run, x)
    return float(-np.sum(normal * log_density) * (u[1] - u[0]))


def test_probe_entropy_is_part_of_the_value() -> None:
    """Where actions do nothing the best policy is nearly uniform on -1 .. 1, with log 2 nats. It is
    paid for the entropy of the second step, not of the first: Q(0) = g (1 + alpha H)."""
    agent = dataclasses.replace(PROBE, alpha_start=0.5)
    run = trained(Continuous(probe.ProbeDiscount()), agent, 8000)
    nats = entropy(run, 1.0)
    assert nats == pytest.approx(np.log(2), abs=0.05)
    np.testing.assert_allclose(
        values(run, [0.0, 1.0]), [[0.5 * (1 + 0.5 * nats)] * 3, [1.0] * 3], atol=0.05
    )


@pytest.mark.parametrize("goal", [-0.5, 0.3])
def test_probe_temperature_settles_at_the_target_entropy(goal: float) -> None:
    agent = dataclasses.replace(PROBE, alpha_start=0.2, alpha_lr=1e-2, target_entropy=goal)
    run = trained(probe.ProbeContinuous(), agent, 8000)
    assert entropy(run, 0.0) == pytest.approx(goal, abs=0.15)
