"""DQN: targets, copies, exploration, and probe environments whose answer only right code finds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl import networks, optim, priority, replay, spaces
from jaxrl.agents.value.dqn import DQN, Hard, Polyak
from jaxrl.losses import value as losses
from jaxrl.networks.dueling import Dueling
from jaxrl.priority import Prioritized
from jaxrl.replay import Batch
from jaxrl.struct import static, struct
from jaxrl.types import Counter, Rollout, Spec

BOX = spaces.Box(-np.inf, np.inf, (2,))
SPEC = Spec(BOX, spaces.Discrete(3), None, steps=1000)
SMALL = DQN(torso=networks.MLP((8,)), num_envs=2, capacity=64, batch_size=4, learning_starts=8)


def batch(seed: int = 0, size: int = 4) -> Batch:
    keys = jax.random.split(jax.random.key(seed), 4)
    return Batch(
        obs=jax.random.normal(keys[0], (size, 2)),
        action=jax.random.randint(keys[1], (size,), 0, 3),
        reward=jax.random.normal(keys[2], (size,)),
        discount=jnp.array([0.9, 0.0, 0.9, 0.9]),
        next_obs=jax.random.normal(keys[3], (size, 2)),
        weight=jnp.linspace(0.5, 1.5, size),
    )


def rollout(agent: DQN, seed: int = 0) -> Rollout:
    shape = (agent.num_steps, agent.num_envs)
    keys = jax.random.split(jax.random.key(seed), 3)
    return Rollout(
        obs=jax.random.normal(keys[0], (*shape, 2)),
        action=jnp.zeros(shape, jnp.int32),
        reward=jax.random.normal(keys[1], shape),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.zeros(shape, bool),
        first=jnp.zeros(shape, bool),
        last_obs=jax.random.normal(keys[2], (agent.num_envs, 2)),
        final_obs=jnp.zeros((0, agent.num_envs, 2)),
        extras=(),
        memory=None,
        last_memory=None,
    )


@pytest.mark.parametrize("rule", [losses.double_value, losses.max_value])
def test_one_gradient_step_by_hand(rule: object) -> None:
    """d1, d16: the gradient is that of the squared error to a constant target."""
    agent = dataclasses.replace(SMALL, target=rule, max_grad_norm=1e9, copy=Polyak(0.25))
    state = agent.init(jax.random.key(0), SPEC)
    state = dataclasses.replace(state, target=jax.tree.map(lambda x: x * -1.5, state.params))
    data = batch()
    online, target = (
        np.asarray(agent.q(p, SPEC, data.next_obs)) for p in (state.params, state.target)
    )
    best = online.argmax(1) if rule is losses.double_value else target.argmax(1)
    goal = np.asarray(data.reward) + np.asarray(data.discount) * target[np.arange(4), best]

    def loss(params: object) -> jax.Array:
        q = agent.q(params, SPEC, data.obs)[jnp.arange(4), data.action]
        return 0.5 * (data.weight * jnp.square(q - goal)).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, _ = optax.adam(2.5e-4).update(gradient, optax.adam(2.5e-4).init(state.params))
    new, metrics = agent.learn(state, data, jax.random.key(0))
    assert metrics["loss/td"] == pytest.approx(float(value), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        new.params,
        optax.apply_updates(state.params, updates),
    )
    jax.tree.map(  # the copy follows the parameters as they are after the step
        lambda a, t, o: np.testing.assert_allclose(a, 0.75 * t + 0.25 * o, atol=1e-6),
        new.target,
        state.target,
        new.params,
    )


def test_the_loss_is_a_field() -> None:
    state = SMALL.init(jax.random.key(0), SPEC)
    data = dataclasses.replace(batch(), reward=jnp.array([9.0, -9.0, 0.3, -0.2]))
    _, squared = SMALL.learn(state, data, jax.random.key(0))
    _, huber = dataclasses.replace(SMALL, loss=losses.huber).learn(state, data, jax.random.key(0))
    q = np.asarray(agent_q(state, data.obs))[np.arange(4), data.action]
    best = np.asarray(agent_q(state, data.next_obs)).max(1)  # target and online are equal
    error = np.abs(np.asarray(data.reward + data.discount * best - q))
    weight = np.asarray(data.weight)
    assert squared["loss/td"] == pytest.approx(np.mean(weight * error**2 / 2), rel=1e-4)
    line = np.where(error < 1, error**2 / 2, error - 0.5)
    assert huber["loss/td"] == pytest.approx(np.mean(weight * line), rel=1e-4)


def agent_q(state: Any, obs: jax.Array) -> jax.Array:
    return SMALL.q(state.params, SPEC, obs)


def moved(before: Any, after: Any) -> float:
    """Euclidean length of a step of the parameters."""
    squares = jax.tree.map(lambda a, b: float(jnp.sum((a - b) ** 2)), before, after)
    return float(np.sqrt(sum(jax.tree.leaves(squares))))


def test_the_learning_rate_is_annealed_and_gradients_are_clipped() -> None:
    """With a large epsilon Adam's first step is lr times the gradient, here of norm 0.001."""
    agent = dataclasses.replace(
        SMALL, lr=0.5, adam_eps=1.0, max_grad_norm=1e-3, anneal_lr=optim.linear
    )
    state = agent.init(jax.random.key(0), SPEC)  # 1000 steps over 2 environments
    for env_steps, factor in ((0, 1.0), (250, 0.5), (400, 0.2)):
        state = dataclasses.replace(state, env_steps=Counter(jnp.int32(env_steps)))
        new, _ = agent.learn(state, batch(), jax.random.key(0))
        assert moved(state.params, new.params) == pytest.approx(0.5 * factor * 1e-3, rel=0.01)


@struct
class Spy(DQN):
    """Shows its batches."""

    seen: Any = static(default=None)

    def _step(self, state: Any, batch: Batch) -> Any:
        jax.debug.callback(self.seen, batch)
        return DQN._step(self, state, batch)


def spied(roll_seed: int = 0, env_steps: int = 0, **fields: Any) -> tuple[Rollout, Batch]:
    """The batch of one update after one rollout."""
    seen: list[Batch] = []
    agent = Spy(
        torso=networks.MLP((8,)), num_envs=1, num_steps=8, capacity=64, batch_size=32,
        learning_starts=8, seen=seen.append, **fields,
    )  # fmt: skip
    state, roll = agent.init(jax.random.key(0), SPEC), rollout(agent, roll_seed)
    if isinstance(agent.sampler, Prioritized):  # as if the first window had a priority of 3
        wait = dataclasses.replace(agent, learning_starts=64)
        state, _ = wait.update(state, roll, jax.random.key(2))
        tree = priority.put(state.sampler.tree, jnp.array([0]), jnp.array([3.0]))
        state = dataclasses.replace(state, sampler=priority.Priorities(tree, jnp.float32(1.0)))
    state = dataclasses.replace(state, env_steps=Counter(jnp.int32(env_steps)))
    jax.block_until_ready(agent.update(state, roll, jax.random.key(1)))
    jax.effects_barrier()
    (batch,) = seen
    return roll, batch


def test_batches_are_windows_of_n_steps_discounted_by_gamma() -> None:
    roll, batch = spied(n_steps=3, gamma=0.7)
    r, obs = np.asarray(roll.reward[:, 0]), np.asarray(roll.obs[:, 0])
    for i in range(32):
        t = int(np.flatnonzero((obs == batch.obs[i]).all(1))[0])
        assert batch.reward[i] == pytest.approx(r[t] + 0.7 * r[t + 1] + 0.49 * r[t + 2], abs=1e-5)
        following = obs[t + 3] if t < 5 else roll.last_obs[0]
        np.testing.assert_array_equal(batch.next_obs[i], following)
    np.testing.assert_allclose(batch.discount, 0.343, atol=1e-6)
    assert len({float(x) for x in batch.reward}) == 6  # every window that fits


def test_the_correction_of_priorities_grows_with_the_run() -> None:
    """No correction at the start; at the end a window drawn three times as often counts a third."""
    sampler = Prioritized(alpha=1.0, beta=0.0, beta_end=1.0)
    _, early = spied(sampler=sampler)
    np.testing.assert_allclose(early.weight, 1.0, atol=0.03)
    _, late = spied(sampler=sampler, env_steps=1000)
    assert sorted({round(float(w), 3) for w in late.weight}) == [0.333, 1.0]


def test_s11_target_copies_count_gradient_steps() -> None:
    """8 envs, 8000 env steps, an update every 4 vector steps: 250 gradient steps, 5 copies."""
    agent = dataclasses.replace(
        SMALL, num_envs=8, num_steps=4, capacity=320, learning_starts=0, copy=Hard(50)
    )
    state = agent.init(jax.random.key(0), SPEC)
    fixed = rollout(agent)

    def step(state: object, key: jax.Array) -> tuple:
        before = state.target
        state, _ = agent.update(state, fixed, key)
        leaves = zip(jax.tree.leaves(before), jax.tree.leaves(state.target), strict=True)
        copied = jnp.any(jnp.array([jnp.any(a != b) for a, b in leaves]))
        return state, (copied, state.grad_steps.value)

    keys = jax.random.split(jax.random.key(1), 250)
    state, (copied, counts) = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(state, keys)
    assert int(counts[-1]) == 250
    np.testing.assert_array_equal(np.flatnonzero(copied) + 1, [50, 100, 150, 200, 250])


def test_polyak_copy_moves_by_tau() -> None:
    new = Polyak(0.25)({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)}, Counter.zero())
    assert new["w"] == pytest.approx(1.5)


def test_s18_each_environment_explores_on_its_own() -> None:
    agent = dataclasses.replace(SMALL, num_envs=1000, capacity=64_000, epsilon_start=0.3)
    state = agent.init(jax.random.key(0), SPEC)
    obs = jnp.zeros((1000, 2))
    greedy = int(agent.act(state, obs, jax.random.key(0), explore=False).action[0])
    keys = jax.random.split(jax.random.key(1), 400)
    actions = jax.jit(jax.vmap(lambda k: agent.act(state, obs, k).action))(keys)
    other = np.asarray(actions != greedy).mean(1)  # a third of what is random is greedy too
    assert other.mean() == pytest.approx(0.3 * 2 / 3, abs=0.005)
    assert other.std() == pytest.approx(np.sqrt(0.2 * 0.8 / 1000), rel=0.15)
    assert set(np.unique(actions)) == {0, 1, 2}


def test_epsilon_falls_with_the_run() -> None:
    state = SMALL.init(jax.random.key(0), SPEC)  # 1000 steps over 2 environments
    for env_steps, epsilon in ((0, 1.0), (125, 0.525), (250, 0.05), (500, 0.05)):
        state = dataclasses.replace(state, env_steps=Counter(jnp.int32(env_steps)))
        assert SMALL.epsilon(state) == pytest.approx(epsilon, abs=1e-6)


def test_masked_actions_are_never_played_nor_bootstrapped() -> None:
    space = spaces.Dict({"observation": BOX, "action_mask": spaces.Box(0, 1, (3,), bool)})
    spec = Spec(space, spaces.Discrete(3), None, 1000)
    state = SMALL.init(jax.random.key(0), spec)
    mask = jnp.array([[False, True, True], [True, False, False]])
    obs = {"observation": jnp.ones((2, 2)), "action_mask": mask}
    for explore in (True, False):
        for seed in range(40):
            action = SMALL.act(state, obs, jax.random.key(seed), explore).action
            assert mask[jnp.arange(2), action].all()
    data = batch()
    only = jnp.tile(jnp.array([False, False, True]), (4, 1))
    data = dataclasses.replace(
        data,
        obs={"observation": data.obs, "action_mask": jnp.ones((4, 3), bool)},
        next_obs={"observation": data.next_obs, "action_mask": only},
    )
    q = SMALL.q(state.params, spec, data.obs)[jnp.arange(4), data.action]
    boot = SMALL.q(state.target, spec, data.next_obs)[:, 2]
    error = data.reward + data.discount * boot - q
    expected = 0.5 * (data.weight * jnp.square(error)).mean()
    _, metrics = SMALL.learn(state, data, jax.random.key(0))
    assert metrics["loss/td"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("sampler", [replay.Uniform(), Prioritized()])
def test_warm_up_then_grad_steps_per_update(sampler: object) -> None:
    agent = dataclasses.replace(SMALL, grad_steps=3, n_steps=2, sampler=sampler)
    state = agent.init(jax.random.key(0), SPEC)
    update = jax.jit(agent.update)
    for i in range(6):  # 2 environments: 8 steps are there after the fourth update
        before = state.params
        state, metrics = update(state, rollout(agent, i), jax.random.key(i))
        warm = i >= 3
        assert int(state.grad_steps.value) == 3 * max(0, i - 2)
        assert bool(np.isnan(metrics["loss/td"])) != warm
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, state.params)
        assert all(jax.tree.leaves(same)) != warm


def test_d4_update_stores_the_errors_as_priorities() -> None:
    """Unweighted: from the second of the gradient steps on, which hardly move, weights differ."""
    agent = dataclasses.replace(
        SMALL, sampler=Prioritized(alpha=1.0), learning_starts=2, grad_steps=6, lr=1e-12
    )
    state = agent.init(jax.random.key(0), SPEC)
    roll = rollout(agent)
    new, _ = agent.update(state, roll, jax.random.key(0))
    q = agent.q(state.params, SPEC, roll.obs[0])[:, 0]
    boot = agent.q(state.params, SPEC, roll.last_obs).max(1)
    error = jnp.abs(roll.reward[0] + agent.gamma * boot - q)
    leaves = new.sampler.tree.levels[0].ravel()[:2]
    drawn = np.abs(np.asarray(leaves) - 1.0) > 1e-6  # both begin with 1, the largest so far
    assert drawn.any()
    np.testing.assert_allclose(leaves[drawn], error[drawn], rtol=1e-4)


def test_dueling_head_is_a_field() -> None:
    agent = dataclasses.replace(SMALL, head=Dueling)
    state = agent.init(jax.random.key(0), SPEC)
    assert agent.q(state.params, SPEC, jnp.zeros((5, 2))).shape == (5, 3)
    shapes = {x.shape for x in jax.tree.leaves(state.params)}
    assert (8, 1) in shapes and (8, 3) in shapes


def test_refusals() -> None:
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"jaxrl\.SAC"):
        SMALL.init(key, Spec(BOX, spaces.Box(-1, 1, (1,)), None, 1000))
    with pytest.raises(ValueError, match="batch_size=65"):
        dataclasses.replace(SMALL, batch_size=65).init(key, SPEC)
    with pytest.raises(ValueError, match="lower learning_starts"):
        dataclasses.replace(SMALL, learning_starts=65).init(key, SPEC)
    with pytest.raises(ValueError, match="capacity=42"):
        dataclasses.replace(SMALL, n_steps=19, num_envs=2, capacity=40, batch_size=4).init(
            key, SPEC
        )


def test_memory_is_what_init_makes() -> None:
    for sampler in (replay.Uniform(), Prioritized()):
        agent = dataclasses.replace(SMALL, sampler=sampler, capacity=20_000)
        state = agent.init(jax.random.key(0), SPEC)
        held = sum(x.nbytes for x in jax.tree.leaves((state.replay, state.sampler)))
        assert agent.memory(SPEC) == pytest.approx(held, rel=0.02)


PROBE = DQN(
    torso=networks.MLP((32,)),
    num_envs=8,
    capacity=4000,
    batch_size=64,
    learning_starts=200,
    lr=3e-3,
    gamma=0.5,
    grad_steps=2,
    epsilon_end=0.5,
    copy=Polyak(0.05),
)


def probe_values(agent: DQN, env: object, obs: list[float]) -> np.ndarray:
    from jaxrl.train import train

    run = train(agent, env, jax.random.key(0), steps=8000, progress=False)
    return np.asarray(agent.q(run.state.params, run.spec, jnp.array(obs)[:, None]))


def test_probe_discount() -> None:
    from jaxrl.envs import probe

    q = probe_values(PROBE, probe.ProbeDiscount(), [0.0, 1.0])
    np.testing.assert_allclose(q.max(1), [0.5, 1.0], atol=0.05)


def test_probe_policy() -> None:
    from jaxrl.envs import probe

    q = probe_values(PROBE, probe.ProbePolicy(), [-1.0, 1.0])
    np.testing.assert_allclose(q, [[1, -1], [-1, 1]], atol=0.05)


def test_probe_truncation_over_three_steps() -> None:
    from jaxrl.envs import probe
    from jaxrl.envs.wrappers import TimeLimit

    agent = dataclasses.replace(PROBE, n_steps=3, sampler=Prioritized())
    q = probe_values(agent, TimeLimit(probe.ProbeTruncation(), 5), [0.0, 1.0])
    np.testing.assert_allclose(q.max(1), [1.0, 2.0], atol=0.1)
