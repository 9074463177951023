"""PPO: silent_bugs.md P3, P7, P12, P14, P15 and the probe environments."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrl
from jaxrl import networks, optim, policies, rollout, spaces
from jaxrl.agents.policy.ppo import Batch
from jaxrl.losses import policy as losses
from jaxrl.struct import static, struct
from jaxrl.types import Counter, PyTree, Spec, Step

CARTPOLE = jaxrl.envs.make("CartPole-v1")
KEY = jax.random.key(0)


def played(agent: jaxrl.PPO, env):
    spec = Spec(env.obs_space, env.action_space, env.time_limit, 10_000)
    state = agent.init(KEY, spec)
    streams = rollout.start(agent, env, jax.random.key(1))
    collect = jax.jit(lambda t, k: rollout.collect(agent, env, spec, state, t, k))
    streams, got, _ = collect(streams, jax.random.key(2))
    return state, got


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("CartPole-v1", policies.Gaussian),
        ("Pendulum-v1", policies.Gaussian),
        ("Pendulum-v1", policies.TanhGaussian),
    ],
)
def test_the_first_minibatch_has_ratio_one(name: str, policy: policies.Continuous) -> None:
    # One epoch of one minibatch: nothing has moved yet, so KL and clip fraction are exactly zero
    # unless log-probabilities are stored for another action or under other parameters.
    agent = jaxrl.PPO(num_steps=64, epochs=1, minibatches=1, policy=policy)
    state, got = played(agent, jaxrl.envs.make(name))
    _, metrics = jax.jit(agent.update)(state, got, KEY)
    assert abs(float(metrics["policy/kl"])) < 1e-6
    assert metrics["policy/clip_fraction"] == 0
    # The surrogate of normalised advantages at ratio one is their mean.
    assert abs(float(metrics["loss/policy"])) < 1e-5


def test_several_epochs_move_the_policy() -> None:
    agent = jaxrl.PPO(num_steps=64, lr=1e-3)
    state, got = played(agent, CARTPOLE)
    _, metrics = jax.jit(agent.update)(state, got, KEY)
    assert float(metrics["policy/kl"]) > 1e-6


def test_initial_gains() -> None:
    agent = jaxrl.PPO(actor=networks.MLP((64, 64)))
    spec = Spec(spaces.Box(-1, 1, (8,)), spaces.Discrete(4))
    params = agent.init(KEY, spec).params
    actor, critic = params["actor"]["params"]["Headed_0"], params["critic"]["params"]

    def gains(kernel: jax.Array) -> jax.Array:
        return jnp.linalg.svd(kernel, compute_uv=False)

    np.testing.assert_allclose(gains(actor["Dense_0"]["kernel"]), 0.01, rtol=1e-4)
    np.testing.assert_allclose(gains(critic["Dense_0"]["kernel"]), 1.0, rtol=1e-4)
    np.testing.assert_allclose(gains(critic["torso"]["Dense_1"]["kernel"]), 2**0.5, rtol=1e-4)
    assert not critic["torso"]["Dense_1"]["bias"].any()
    out = agent.act(agent.init(KEY, spec), jax.random.normal(KEY, (256, 8)), KEY)
    _, log_prob = out.extras
    assert -float(log_prob.mean()) == pytest.approx(1.3863, abs=2e-3)


def test_environment_and_time_are_not_mixed() -> None:
    # Give every (t, n) an observation and an action of its own, and look at what `learn` is given.
    agent = jaxrl.PPO(num_envs=3, num_steps=4, minibatches=2, epochs=1)
    state, got = played(agent, CARTPOLE)
    number = jnp.arange(12.0).reshape(4, 3)
    raw, log_prob = got.extras
    got = dataclasses.replace(
        got, obs=jnp.broadcast_to(number[..., None], (4, 3, 4)), extras=(raw, -number)
    )
    seen: list[Batch] = []

    @struct
    class Spy(jaxrl.PPO):
        def learn(self, state, batch, key):
            jax.debug.callback(lambda b: seen.append(b), batch)
            return jaxrl.PPO.learn(self, state, batch, key)

    spy = Spy(num_envs=3, num_steps=4, minibatches=2, epochs=1)
    jax.block_until_ready(spy.update(state, got, KEY))
    jax.effects_barrier()
    assert len(seen) == 2
    for batch in seen:
        np.testing.assert_array_equal(batch.obs[:, 0], -batch.log_prob)
    together = np.sort(np.concatenate([b.obs[:, 0] for b in seen]))
    np.testing.assert_array_equal(together, np.arange(12))


@struct
class Watched(jaxrl.PPO):
    """Shows its minibatches."""

    seen: object = static(default=None)

    def learn(self, state, batch, key):
        jax.debug.callback(self.seen, batch, ordered=True)
        return jaxrl.PPO.learn(self, state, batch, key)


def test_what_the_minibatches_hold() -> None:
    """Advantages and targets against a loop in NumPy, over time limits and falls; each epoch has
    every step once, in an order of its own."""
    seen: list[Batch] = []
    agent = Watched(
        num_envs=8, num_steps=40, minibatches=2, epochs=2, gamma=0.9, lam=0.6,
        normalize_batch=losses.normalize, seen=seen.append,
    )  # fmt: skip
    state, got = played(agent, jaxrl.envs.make("CartPole-v1", max_steps=15))
    assert got.truncated.any() and got.terminated.any()
    number = jnp.arange(320.0).reshape(40, 8)  # in place of log-probabilities, to tell steps apart
    got = dataclasses.replace(got, extras=(got.extras[0], number))
    new, _ = agent.update(state, got, KEY)
    jax.effects_barrier()
    assert new.updates.value == 1 and len(seen) == 4

    value = np.asarray(agent.value(state, got.obs))
    final = np.asarray(agent.value(state, got.final_obs))
    following = np.concatenate([value[1:], np.asarray(agent.value(state, got.last_obs))[None]])
    advantage, carry = np.zeros((40, 8)), np.zeros(8)
    for t in reversed(range(40)):
        after = np.where(got.truncated[t], final[t // 15], following[t])
        after = np.where(got.terminated[t], 0.0, after)
        going = ~np.asarray(got.terminated[t] | got.truncated[t])
        carry = np.asarray(got.reward[t]) + 0.9 * after - value[t] + 0.9 * 0.6 * going * carry
        advantage[t] = carry
    target = advantage + value
    normalized = (advantage - advantage.mean()) / advantage.std()

    orders: list[np.ndarray] = []
    obs = np.asarray(got.obs).reshape(320, 4)
    for epoch in (seen[:2], seen[2:]):
        order = np.concatenate([b.log_prob for b in epoch]).astype(int)
        np.testing.assert_array_equal(np.sort(order), np.arange(320))
        np.testing.assert_array_equal(np.concatenate([b.obs for b in epoch]), obs[order])
        orders.append(order)
        for name, expected in (("value", value), ("target", target), ("advantage", normalized)):
            held = np.concatenate([getattr(b, name) for b in epoch])
            np.testing.assert_allclose(held, expected.ravel()[order], atol=2e-4, err_msg=name)
    assert (orders[0] != orders[1]).any()
    assert all((order != np.arange(320)).any() for order in orders)


def test_one_gradient_step_by_hand() -> None:
    """Every term of the loss with its own weight, the schedules half way, clipping and Adam."""
    agent = jaxrl.PPO(
        lr=0.01, clip=0.1, entropy=0.07, value_weight=0.3, max_grad_norm=0.05, adam_eps=0.1,
        anneal_clip=optim.linear, value_loss=losses.ClippedValueError(0.02),
    )  # fmt: skip
    spec = Spec(CARTPOLE.obs_space, CARTPOLE.action_space, 500, 10 * 512)
    state = agent.init(KEY, spec)
    state = dataclasses.replace(state, updates=Counter(jnp.int32(5)))  # of 10
    state.params["actor"]["params"]["Headed_0"]["Dense_0"]["bias"] = jnp.array([0.4, -0.4])
    k = jax.random.split(jax.random.key(9), 6)
    data = Batch(
        obs=jax.random.normal(k[0], (32, 4)),
        mask=None,
        raw=jax.random.randint(k[1], (32,), 0, 2),
        log_prob=-0.7 + 0.3 * jax.random.normal(k[2], (32,)),
        value=jax.random.normal(k[3], (32,)) * 0.1,
        advantage=3.0 + 2.0 * jax.random.normal(k[4], (32,)),
        target=jax.random.normal(k[5], (32,)),
    )

    def loss(params: PyTree) -> jax.Array:
        logits = agent._actor(spec).apply(params["actor"], data.obs)
        log_p = jax.nn.log_softmax(logits)
        ratio = jnp.exp(log_p[jnp.arange(32), data.raw] - data.log_prob)
        advantage = (data.advantage - data.advantage.mean()) / data.advantage.std()
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.95, 1.05) * advantage)
        v = agent._value(params, data.obs)[0]
        kept = jnp.clip(v, data.value - 0.02, data.value + 0.02)
        error = jnp.maximum((v - data.target) ** 2, (kept - data.target) ** 2) / 2
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        return -surrogate.mean() + 0.3 * error.mean() - 0.07 * entropy.mean()

    adam = optax.chain(optax.clip_by_global_norm(0.05), optax.adam(0.01 * 0.5, eps=0.1))
    updates, _ = adam.update(jax.grad(loss)(state.params), adam.init(state.params))
    new, _ = agent.learn(state, data, KEY)
    jax.tree.map(
        lambda a, b, old: np.testing.assert_allclose(a - old, b, atol=2e-7),
        new.params,
        updates,
        state.params,
    )


def test_target_kl_stops_the_epochs() -> None:
    # The estimate is never negative, so the comparison works whatever the direction of change.
    free = jaxrl.PPO(num_steps=64, lr=1e-2, epochs=8)
    state, got = played(free, CARTPOLE)
    stopped = dataclasses.replace(free, target_kl=1e-6)
    after = [jax.jit(a.update)(state, got, KEY)[0].params for a in (free, stopped)]

    def moved(params: PyTree) -> float:
        gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).sum()), params, state.params)
        return sum(jax.tree.leaves(gaps))

    far, near = map(moved, after)
    assert near < far / 2
    never = dataclasses.replace(free, target_kl=1e9)
    same = jax.jit(never.update)(state, got, KEY)[0].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), same, after[0])


def test_the_learning_rate_is_annealed_to_the_last_update() -> None:
    agent = jaxrl.PPO(num_envs=1, num_steps=10, minibatches=1)
    spec = Spec(CARTPOLE.obs_space, CARTPOLE.action_space, 500, 100)
    state = agent.init(KEY, spec)
    shares = []
    for _ in range(10):
        shares.append(float(agent.anneal_lr(agent._share(state))))
        state = dataclasses.replace(state, updates=state.updates.add(1))
    np.testing.assert_allclose(shares, np.arange(10, 0, -1) / 10, atol=1e-6)


def test_entropy_is_raised_by_its_bonus() -> None:
    batch = Batch(
        obs=jnp.ones((8, 4)),
        mask=None,
        raw=jnp.zeros(8, jnp.int32),
        log_prob=jnp.full(8, jnp.log(0.9)),
        value=jnp.zeros(8),
        advantage=jnp.zeros(8),
        target=jnp.zeros(8),
    )
    agent = jaxrl.PPO(entropy=1.0, value_weight=0.0, normalize_minibatch=optim.identity, lr=1e-2)
    spec = Spec(CARTPOLE.obs_space, CARTPOLE.action_space, 500, 10_000)
    state = agent.init(KEY, spec)
    state.params["actor"]["params"]["Headed_0"]["Dense_0"]["bias"] = jnp.array([2.0, -2.0])
    before = agent.learn(state, batch, KEY)[1]["policy/entropy"]
    for _ in range(50):
        state, metrics = agent.learn(state, batch, KEY)
    assert metrics["policy/entropy"] > before + 0.1


def test_a_mask_is_never_crossed() -> None:
    @struct
    class Masked:
        """Five actions, of which the observation allows some; a forbidden one costs a million."""

        time_limit = None
        obs_space = spaces.Dict(
            {"observation": spaces.Box(-1, 1, (5,)), "action_mask": spaces.Box(0, 1, (5,), bool)}
        )
        action_space = spaces.Discrete(5)
        weight: float = 1.0

        def observe(self, key):
            mask = jax.random.bernoulli(key, 0.5, (5,)).at[2].set(True)
            return {"observation": mask.astype(jnp.float32), "action_mask": mask}

        def reset(self, key):
            obs = self.observe(key)
            return obs["action_mask"], obs

        def step(self, state, action, key):
            reward = jnp.where(state[action], action * 0.25 * self.weight, -1e6)
            obs = self.observe(key)
            false = jnp.zeros((), bool)
            return obs["action_mask"], Step(obs, reward, ~false, false)

    agent = jaxrl.PPO(num_envs=8, num_steps=16, lr=3e-3, anneal_lr=optim.constant)
    env = Masked()
    result = jaxrl.train(agent, env, KEY, steps=20_000, reset_every=1)
    returns = np.asarray(result.metrics["episode/return"])
    assert returns.min() >= 0
    # The best allowed action: mean of max over {2} and a random half of the others.
    best = 0.25 * (4 * 0.5 + 3 * 0.25 + 2 * 0.25)
    assert jaxrl.evaluate(result, env, episodes=2048).mean > 0.95 * best


@pytest.mark.parametrize("nvec", [(2, 3)])
def test_multi_discrete_actions(nvec: tuple[int, ...]) -> None:
    @struct
    class Lock:
        """One step; reward 1 for the one right combination."""

        time_limit = None
        obs_space = spaces.Box(0, 1, (1,))
        action_space = spaces.MultiDiscrete(nvec)
        prize: float = 1.0

        def reset(self, key):
            return jnp.zeros(1), jnp.zeros(1)

        def step(self, state, action, key):
            right = (action == jnp.array([1, 2])).all()
            false = jnp.zeros((), bool)
            return state, Step(state, right * self.prize, ~false, false)

    agent = jaxrl.PPO(num_envs=8, num_steps=16, lr=3e-3)
    result = jaxrl.train(agent, Lock(), KEY, steps=20_000)
    assert jaxrl.evaluate(result, Lock(), episodes=8).mean == 1


@struct
class Tiny(jaxrl.PPO):
    """Settings for the probes: small, quick, without entropy."""

    lr: float = 3e-3
    entropy: float = 0.0
    gamma: float = 0.9
    num_envs: int = static(default=8)
    num_steps: int = static(default=16)
    actor: nn.Module = static(default=networks.MLP((16,)))
    critic: nn.Module = static(default=networks.MLP((16,)))
    anneal_lr: object = static(default=optim.constant)
    value_loss: object = static(default=losses.value_error)


def probe(name: str, steps: int = 20_000):
    env = jaxrl.envs.make(name)
    result = jaxrl.train(Tiny(), env, KEY, steps=steps, reset_every=1)

    def value(obs: float) -> float:
        return float(result.agent.value(result.state, jnp.array([obs])))

    return result, value, env


def test_probe_value() -> None:
    _, value, _ = probe("Probe-Value", 10_000)
    assert value(0.0) == pytest.approx(1.0, abs=0.05)  # 10 if a termination bootstraps


def test_probe_discount() -> None:
    _, value, _ = probe("Probe-Discount")
    assert value(0.0) == pytest.approx(0.9, abs=0.05)
    assert value(1.0) == pytest.approx(1.0, abs=0.05)


def test_probe_truncation() -> None:
    _, value, _ = probe("Probe-Truncation", 60_000)
    assert value(1.0) == pytest.approx(10.0, rel=0.05)  # 1 if truncation is termination
    assert value(0.0) == pytest.approx(9.0, rel=0.05)


def test_probe_policy() -> None:
    result, _, env = probe("Probe-Policy")
    assert jaxrl.evaluate(result, env, episodes=64).mean == pytest.approx(1.0)


def test_probe_credit() -> None:
    result, _, env = probe("Probe-Credit")
    assert jaxrl.evaluate(result, env, episodes=64).mean == pytest.approx(1.0)


def test_probe_continuous() -> None:
    result, _, env = probe("Probe-Continuous", 40_000)
    assert float(result.policy(jnp.zeros(1))[0]) == pytest.approx(0.3, abs=0.05)
