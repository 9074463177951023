"""The bsuite tasks against gymnax where it has them right, and against episodes worked by hand."""

import functools
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl.envs
from jaxrl.envs.bsuite.catch import Falling
from jaxrl.envs.bsuite.memory_chain import Chain

KEY = jax.random.key(0)


@functools.cache
def programs(cls: type) -> Any:
    return jax.jit(lambda env, state, action: env.step(state, action, KEY))


def walk(env: Any, state: Any, actions: Any) -> list[Any]:
    """Steps from a state on, without resets."""
    steps = []
    for action in actions:
        state, step = programs(type(env))(env, state, jnp.asarray(action, jnp.int32))
        steps.append(step)
    return steps


def gymnax_walk(name: str, change: dict[str, Any], params: dict[str, Any], actions: Any) -> Any:
    """-> obs, reward, terminated of each step, from gymnax's start with some fields changed."""
    env, defaults = gymnax.make(name)
    params = defaults.replace(**params)
    _, state = env.reset_env(KEY, params)
    state = state.replace(**{k: jnp.asarray(v) for k, v in change.items()})
    step = jax.jit(lambda state, action: env.step_env(KEY, state, action, params))
    for action in actions:
        obs, state, reward, terminated, _ = step(state, jnp.asarray(action, jnp.int32))
        yield np.asarray(obs), float(reward), bool(terminated)


def same(ours: list[Any], theirs: Any) -> None:
    theirs = list(theirs)
    assert len(ours) == len(theirs)
    for step, (obs, reward, terminated) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.float32(step.obs), obs, atol=1e-6)
        assert float(step.reward) == pytest.approx(reward, abs=1e-6)
        assert bool(step.terminated) == terminated
        assert not step.truncated


@pytest.mark.parametrize("column", range(5))
def test_catch_is_that_of_gymnax(column: int) -> None:
    actions = np.random.default_rng(column).integers(0, 3, 9)
    env = jaxrl.envs.make("Catch-bsuite")
    start = Falling(jnp.asarray([0, column], jnp.int32), jnp.asarray(2, jnp.int32))
    steps = walk(env, start, actions)
    same(steps, gymnax_walk("Catch-bsuite", {"ball_x": column}, {}, actions))
    assert [bool(s.terminated) for s in steps] == [False] * 8 + [True]


def test_catch_by_hand() -> None:
    """Column 4, paddle at 2: two steps to the right catch it, one does not."""
    env = jaxrl.envs.make("Catch-bsuite")
    start = Falling(jnp.asarray([0, 4], jnp.int32), jnp.asarray(2, jnp.int32))
    assert [float(s.reward) for s in walk(env, start, [2, 2] + [1] * 7)] == [0] * 8 + [1]
    assert [float(s.reward) for s in walk(env, start, [2] + [1] * 8)] == [0] * 8 + [-1]
    # The wall holds the paddle.
    assert float(walk(env, start, [2] * 9)[-1].reward) == 1


@pytest.mark.parametrize("seed", range(4))
def test_deep_sea_is_that_of_gymnax(seed: int) -> None:
    env = jaxrl.envs.make("DeepSea-bsuite", mapping_seed=None)
    actions = np.random.default_rng(seed).integers(0, 2, 8)
    params = {"randomize_actions": False}
    same(walk(env, env.reset(KEY)[0], actions), gymnax_walk("DeepSea-bsuite", {}, params, actions))


def test_deep_sea_pays_for_the_diagonal_alone() -> None:
    env = jaxrl.envs.make("DeepSea-bsuite", size=5, mapping_seed=7)
    state, total, rights = env.reset(KEY)[0], 0.0, []
    for _ in range(5):
        rights.append(int(env.right_action(state)))
        state, step = env.step(state, env.right_action(state), KEY)
        total += float(step.reward)
    assert step.terminated and not step.obs.any()
    assert total == pytest.approx(1 - 0.01)
    # One wrong turn, anywhere, and the treasure is out of reach.
    for wrong in range(5):
        state, total = env.reset(KEY)[0], 0.0
        for i in range(5):
            right = env.right_action(state)
            state, step = env.step(state, 1 - right if i == wrong else right, KEY)
            total += float(step.reward)
        assert total == pytest.approx(-0.01 * 4 / 5, abs=1e-6)


def test_deep_sea_maps_differ_between_seeds_and_use_both_actions() -> None:
    def right_actions(seed: jax.Array) -> jax.Array:
        env = jaxrl.envs.DeepSea(size=6, mapping_seed=seed)
        cells = jnp.stack(jnp.meshgrid(jnp.arange(6), jnp.arange(6), indexing="ij"), -1)
        return jax.vmap(env.right_action)(cells.reshape(36, 2))

    maps = jax.vmap(right_actions)(jnp.arange(50))  # [50, 36]
    assert len(np.unique(maps, axis=0)) == 50
    assert 0.45 < maps.mean() < 0.55
    assert maps.mean(0).min() > 0.2 and maps.mean(0).max() < 0.8


def test_stochastic_deep_sea_slips_once_in_size_steps() -> None:
    env = jaxrl.envs.DeepSea(size=4, mapping_seed=None, stochastic=True)
    keys = jax.random.split(KEY, 20_000)
    start = jnp.asarray([1, 1], jnp.int32)
    after, step = jax.vmap(lambda k: env.step(start, jnp.asarray(1), k))(keys)
    assert float((after[:, 1] == 1).mean()) == pytest.approx(1 / 4, abs=0.015)
    assert np.unique(step.reward).size == 1  # noise is for the corners alone
    corner = jnp.asarray([3, 3], jnp.int32)
    _, step = jax.vmap(lambda k: env.step(corner, jnp.asarray(1), k))(keys)
    assert float(step.reward.mean()) == pytest.approx(1 - 0.01 / 4, abs=0.03)
    assert float(step.reward.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("answer", [0, 1])
def test_memory_chain_is_that_of_gymnax(bit: int, answer: int) -> None:
    env = jaxrl.envs.make("MemoryChain-bsuite")
    zero = jnp.zeros((), jnp.int32)
    steps = walk(env, Chain(jnp.asarray([bit], jnp.int32), zero, zero), [0, 1, 0, 1, 0, answer])
    theirs = gymnax_walk("MemoryChain-bsuite", {"context": [bit]}, {}, [0, 1, 0, 1, 0, answer])
    same(steps, theirs)
    assert float(steps[-1].reward) == (1 if answer == bit else -1)


def test_memory_chain_asks_for_one_of_several_bits() -> None:
    env = jaxrl.envs.make("MemoryChain-bsuite", num_bits=3, memory_length=2)
    zero = jnp.zeros((), jnp.int32)
    state = Chain(jnp.asarray([1, 0, 1], jnp.int32), jnp.asarray(1, jnp.int32), zero)
    steps = walk(env, state, [1, 1, 0])
    np.testing.assert_allclose(steps[0].obs, [1, 0, 1, -1, 1])
    np.testing.assert_allclose(steps[1].obs, [0.5, 1, 0, 0, 0])
    assert [float(s.reward) for s in steps] == [0, 0, 1]  # bit 1 is 0


@pytest.mark.parametrize("chain", range(5))
def test_discounting_chain_is_that_of_gymnax(chain: int) -> None:
    """But for its end: bsuite terminates after 100 steps, gymnax truncates."""
    env = jaxrl.envs.make("DiscountingChain-bsuite", best=2)
    actions = np.random.default_rng(chain).integers(0, 5, 100)
    actions[0] = chain
    steps = walk(env, env.reset(KEY)[0], actions)
    rewards = jnp.ones(5).at[2].set(1.1)
    theirs = list(gymnax_walk("DiscountingChain-bsuite", {"rewards": rewards}, {}, actions))
    same(steps[:-1], theirs[:-1])
    assert steps[-1].terminated and not steps[-1].truncated
    paid = {t: float(s.reward) for t, s in enumerate(steps, 1) if s.reward}
    assert paid == {(1, 3, 10, 30, 100)[chain]: pytest.approx(1.1 if chain == 2 else 1.0)}
