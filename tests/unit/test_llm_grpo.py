"""GRPO: what a group is, one gradient step by hand, and everything around it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rollout as rollouts
from jaxrl.checks import task as checked
from jaxrl.llm import GRPO, Lora, Sampling, Transformer, answers, methods, tuning
from jaxrl.llm.generate import generate
from jaxrl.llm.losses import advantages, grpo, kl
from jaxrl.llm.tasks import Scored
from jaxrl.struct import struct
from tests.echo import CONFIG, END, NETWORK, Echo, played

TASK = Echo()
SMALL: dict[str, Any] = {"prompts": 2, "group": 4, "lr": 1e-2}
PLAIN = tuning.AdamW(max_grad_norm=1e9)


@pytest.fixture(scope="module")
def one() -> tuple[GRPO, Any, Any]:
    agent = GRPO(NETWORK, optimizer=PLAIN, **SMALL)
    return (agent, *played(agent))


def test_a_group_answers_one_prompt(one: Any) -> None:
    _, _, rollout = one
    prompts = np.asarray(rollout.obs[0]).reshape(2, 4, -1)
    assert (prompts == prompts[:, :1]).all()
    assert (prompts[0, 0] != prompts[1, 0]).any()
    groups = np.asarray(rollout.action[0]).reshape(2, 4, -1)
    assert len({tuple(row) for row in groups[0]}) > 1  # and answers differently


@pytest.mark.slow
def test_prompts_are_fresh_in_every_iteration() -> None:
    agent = GRPO(NETWORK, **SMALL)
    seen: list[Any] = []

    env, spec = TASK, checked(agent, TASK, 64)
    streams = rollouts.start(agent, env, jax.random.key(1), 1)
    state = agent.init(jax.random.key(0), spec)
    collect = jax.jit(lambda t, k, n: rollouts.collect(agent, env, spec, state, t, k, n, 1))
    for n in range(4):
        streams, rollout, _ = collect(streams, jax.random.key(10 + n), n)
        seen.append(tuple(np.asarray(rollout.obs[0]).ravel()))
    assert len(set(seen)) == 4
    assert agent.reset_every == 1  # which is what the driver asks


def by_hand(agent: GRPO, params: Any, rollout: Any) -> Any:
    """The gradient of the loss at the first step, where every ratio is 1, row by row and without
    padding: -sum A grad log pi / tokens."""
    prompt, action = np.asarray(rollout.obs[0]), np.asarray(rollout.action[0])
    reward = np.asarray(rollout.reward[0], np.float64).reshape(agent.prompts, agent.group)
    mean, std = reward.mean(1, keepdims=True), reward.std(1, ddof=1, keepdims=True)
    advantage = ((reward - mean) / (std + 1e-4)).ravel()
    count = (action >= 0).sum()

    def loss(params: Any) -> jax.Array:
        total = jnp.zeros(())
        for row in range(len(action)):
            before = prompt[row][prompt[row] >= 0]
            own = action[row][action[row] >= 0]
            ids = jnp.asarray(np.concatenate([before, own]))[None]
            logits, _ = NETWORK.apply({"params": params}, ids)
            each = jax.nn.log_softmax(logits[0])
            at = np.arange(len(own)) + len(before) - 1
            total += advantage[row] * each[at, own].sum()
        return -total / count

    return jax.grad(loss)(params)


def test_one_step_by_hand(one: Any) -> None:
    agent, state, rollout = one
    after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(3))
    expected = by_hand(agent, state.params, rollout)
    moments = after.opt[1].mu  # Adam's first mean of gradients: 0.1 times the first gradient
    for ours, right in zip(jax.tree.leaves(moments), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours / 0.1, right, rtol=2e-4, atol=2e-6)
    size = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(expected)))
    assert float(metrics["policy/gradient_norm"]) == pytest.approx(size, rel=1e-4)
    assert float(metrics["sampler/max_difference"]) <= 1e-5
    assert float(metrics["reference/kl_k3"]) <= 1e-9
    rewards = np.asarray(rollout.reward[0])
    assert float(metrics["reward/mean"]) == pytest.approx(rewards.mean(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"parts": 4}, {"chunk": 1}], ids=str)
def test_parts_change_nothing(one: Any, changes: dict[str, int]) -> None:
    agent, state, rollout = one
    whole, seen = jax.jit(agent.update)(state, rollout, jax.random.key(3))
    other = dataclasses.replace(agent, **changes)
    cut, also = jax.jit(other.update)(state, rollout, jax.random.key(3))
    for name in ("loss/total", "policy/gradient_norm", "policy/entropy"):
        tolerance = 1e-5 if name != "policy/entropy" else 0.05  # of parts of different lengths
        assert float(also[name]) == pytest.approx(float(seen[name]), rel=tolerance, abs=1e-6)
    for x, y in zip(jax.tree.leaves(whole.opt[1].mu), jax.tree.leaves(cut.opt[1].mu), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)


SAMPLINGS = {
    "cold": Sampling(temperature=0.5),
    "hot": Sampling(temperature=2.0),
    "few": Sampling(top_k=3),
    "nucleus": Sampling(top_p=0.7),
}


@pytest.mark.parametrize(
    "name",
    [n if n == "nucleus" else pytest.param(n, marks=pytest.mark.slow) for n in SAMPLINGS],
)
def test_sampler_and_trainer_agree(name: str) -> None:
    agent = GRPO(NETWORK, sampling=SAMPLINGS[name], epochs=1, **SMALL)
    state, rollout = played(agent)
    _, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(3))
    assert float(metrics["sampler/max_difference"]) <= 1e-5
    assert float(metrics["sampler/mean_ratio"]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_sampler_and_trainer_agree_in_bfloat16() -> None:
    network = Transformer(CONFIG, dtype=jnp.bfloat16)
    agent = GRPO(network, **SMALL)
    state, rollout = played(agent)
    after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(3))
    assert float(metrics["sampler/max_difference"]) <= 2e-2
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after.params))  # master weights


def test_what_cannot_be_scored_is_not_zero() -> None:
    agent = GRPO(NETWORK, prompts=8, group=4)
    state, rollout = played(agent, Echo(unscored=2))
    lost = np.asarray(rollout.truncated[0])
    assert 0 < lost.sum() < len(lost)
    rows = answers.from_rollout(rollout)
    batch, metrics, _ = jax.jit(agent._prepared)(state, rows)
    advantage = np.asarray(batch.advantage)
    assert (advantage[lost] == 0).all() and np.abs(advantage[~lost]).max() > 0
    assert float(metrics["reward/mean"]) == pytest.approx(
        np.asarray(rollout.reward[0])[~lost].mean(), rel=1e-6
    )
    assert float(metrics["reward/unscored"]) == pytest.approx(lost.mean())


def test_rewards_as_they_count(one: Any) -> None:
    """Limit, length and KL change the reward in front of the groups' means."""
    _, state, rollout = one
    moved = dataclasses.replace(state, reference=jax.tree.map(lambda x: x * 1.3, state.params))
    agent = GRPO(
        NETWORK,
        reward_limit=0.5,
        overlong=2.0,
        reward_kl=0.3,
        advantage=advantages.centred,
        **SMALL,
    )
    rows = answers.from_rollout(rollout)
    batch, *_ = jax.jit(agent._prepared)(moved, rows)
    score = jax.jit(lambda p, rows: answers.score(NETWORK, p, rows, Sampling(), 64))
    ref, _ = score(moved.reference, rows)
    mask = np.asarray(rows.mask)
    gap = np.where(mask, np.asarray(rows.drawn.log_prob) - np.asarray(ref), 0).sum(1)
    lengths = mask.sum(1)
    reward = np.clip(np.asarray(rollout.reward[0]), -0.5, 0.5)
    reward = reward - np.clip((lengths - (3 - 2)) / 2, 0, 1) - 0.3 * gap
    groups = reward.reshape(2, 4)
    expected = (groups - groups.mean(1, keepdims=True)).ravel()
    assert np.abs(gap).max() > 1e-3
    np.testing.assert_allclose(batch.advantage, expected, atol=1e-5)


@pytest.mark.slow
def test_groups_that_teach_nothing_are_drawn_again() -> None:
    """Half of the prompts or so give the same reward whatever is answered."""

    @struct
    class Half(Echo):
        def step(self, state: Any, action: Any, key: Any) -> Any:
            state, step = super().step(state, action, key)
            flat = state[1] % 2 == 0
            return state, dataclasses.replace(step, reward=jnp.where(flat, 1.0, step.reward))

    agent = GRPO(NETWORK, prompts=4, group=4, lr=1e-2, rounds=5)
    env = Half()
    spec = checked(agent, env, 4096)
    state = agent.init(jax.random.key(0), spec)
    streams = rollouts.start(agent, env, jax.random.key(1), 1)

    @jax.jit
    def turn(state: Any, streams: Any, key: Any, n: Any) -> Any:
        streams, rollout, _ = rollouts.collect(agent, env, spec, state, streams, key, n, 1)
        after, metrics = agent.update(state, rollout, key)
        return after, streams, metrics, rollout

    held, waited, learned = 0, 0, 0
    for n in range(12):
        after, streams, metrics, rollout = turn(state, streams, jax.random.key(20 + n), n)
        groups = np.asarray(rollout.reward[0]).reshape(4, 4)
        good = int((groups.max(1) > groups.min(1)).sum())
        assert float(metrics["group/accepted"]) == good / 4
        held = min(4, held + good)
        same = all(
            bool((x == y).all())
            for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params))
        )
        if held == 4:
            learned += 1
            assert not same and float(metrics["group/learned"]) == 4
            held = 0
        else:
            waited += 1
            assert same and np.isnan(metrics["loss/total"])
        assert int(after.pending.groups) == held
        if held:  # what waits are groups that differ, whole and of one prompt
            rows = after.pending.batch.rows
            kept = np.asarray(rows.reward).reshape(4, 4)[:held]
            assert (kept.max(1) > kept.min(1)).all()
            prompts = np.asarray(rows.prompt).reshape(4, 4, -1)[:held]
            assert (prompts == prompts[:, :1]).all()
        state = after
    assert waited and learned
    assert turn._cache_size() == 1


@pytest.mark.slow
def test_after_so_many_rollouts_it_learns_from_what_there_is() -> None:
    agent = GRPO(NETWORK, prompts=4, group=2, rounds=2)
    env = Echo()
    state, rollout = played(agent, env)
    rows = answers.from_rollout(rollout)
    flat = jnp.array([0.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])  # one group that differs
    rollout = dataclasses.replace(rollout, reward=flat[None], truncated=rollout.truncated & False)
    update = jax.jit(agent.update)
    waiting, first = update(state, rollout, jax.random.key(5))
    assert np.isnan(first["loss/total"]) and int(waiting.pending.groups) == 1
    rollout = dataclasses.replace(rollout, reward=jnp.full_like(flat, 0.5)[None])
    after, second = update(waiting, rollout, jax.random.key(6))
    assert float(second["group/learned"]) == 1 and int(after.pending.groups) == 0
    # The mean over tokens is that of the one group alone.
    alone = dataclasses.replace(agent, prompts=1, rounds=1)
    part = answers.take(dataclasses.replace(rows, reward=flat), slice(0, 2))
    batch, *_ = jax.jit(alone._prepared)(dataclasses.replace(state, pending=None), part)
    _, right = jax.jit(alone.learn)(
        dataclasses.replace(state, pending=None), batch, jax.random.key(0)
    )
    assert float(second["policy/gradient_norm"]) == pytest.approx(
        float(right["policy/gradient_norm"]), rel=1e-4
    )


@pytest.mark.slow
def test_remax_compares_with_the_greedy_answer() -> None:
    agent = methods.ReMax(NETWORK, prompts=3, group=3)
    state, rollout = played(agent)
    prompts = np.maximum(np.asarray(rollout.obs[0][::3]), 0)
    mask = np.asarray(rollout.obs[0][::3]) >= 0
    best = generate(
        NETWORK, state.params, jnp.asarray(prompts), jnp.asarray(mask), jax.random.key(9),
        Sampling(greedy=True), max_new=3, stop=(END,),
    )  # fmt: skip
    right = np.where(best.mask, best.tokens, -1)
    np.testing.assert_array_equal(np.asarray(rollout.action[0]).reshape(3, 3, -1)[:, 2], right)
    batch, *_ = jax.jit(agent._prepared)(state, answers.from_rollout(rollout))
    reward = np.asarray(rollout.reward[0]).reshape(3, 3)
    np.testing.assert_allclose(batch.advantage, (reward[:, :2] - reward[:, 2:]).ravel(), atol=1e-6)
    assert len(batch.rows.tokens) == 6  # nothing is learned from the greedy ones


@pytest.mark.slow
def test_learning_ends_beyond_the_kl(one: Any) -> None:
    _, state, rollout = one
    agent = GRPO(NETWORK, max_kl=1e-3, **SMALL)
    moved = dataclasses.replace(state, reference=jax.tree.map(lambda x: x * 1.5, state.params))
    update = jax.jit(agent.update)
    near, _ = update(state, rollout, jax.random.key(1))
    assert not bool(near.stopped)
    far, metrics = update(moved, rollout, jax.random.key(1))
    assert bool(far.stopped) and float(metrics["reference/stopped"]) == 1.0
    over, _ = update(far, rollout, jax.random.key(2))
    for x, y in zip(jax.tree.leaves(far.params), jax.tree.leaves(over.params), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_adapters_learn_and_their_base_is_the_reference(one: Any) -> None:
    _, _, rollout = one
    agent = GRPO(NETWORK, lora=Lora(rank=2), loss=grpo.grpo(kl=kl.KLPenalty(beta=0.1)), **SMALL)
    spec = checked(agent, TASK, 64)
    start = GRPO(NETWORK, **SMALL).init(jax.random.key(7), spec).params
    state = agent.start_from(agent.init(jax.random.key(0), spec), start)
    assert state.reference is None  # no second copy
    after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(1))
    for x, y in zip(jax.tree.leaves(after.params.base), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(x, y)
    moved = [jnp.abs(x - y).max() for x, y in zip(
        jax.tree.leaves(after.params.lora), jax.tree.leaves(state.params.lora), strict=True
    )]  # fmt: skip
    assert max(float(x) for x in moved) > 0
    assert float(metrics["loss/kl"]) == pytest.approx(0.0, abs=1e-7)


def test_it_learns() -> None:
    network = Transformer(dataclasses.replace(CONFIG, eos=()))
    agent = GRPO(network, lr=2e-3, prompts=8, group=8, epochs=2, minibatches=2)
    keys = jax.random.split(jax.random.key(5), 4)
    runs = jaxrl.train(agent, Echo(ends=False), keys, steps=64 * 150, log_every=640)
    reward = np.asarray(runs.metrics["reward/mean"])
    assert (reward[:, 0] < 0.25).all() and (reward[:, -1] > 0.95).all()


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    agent = GRPO(NETWORK, prompts=2, group=2, lr=1e-2)
    key = jax.random.key(4)
    options: dict[str, Any] = {"log_every": 8}
    whole = jaxrl.train(agent, TASK, key, steps=80, **options)
    path = tmp_path / "run"
    jaxrl.train(agent, TASK, key, steps=40, checkpoint=path, **options)
    both = jaxrl.train(agent, TASK, key, steps=80, checkpoint=path, resume=True, **options)
    for x, y in zip(jax.tree.leaves(whole.state), jax.tree.leaves(both.state), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(whole.metrics["reward/mean"], both.metrics["reward/mean"])


def test_bad_input_is_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (GRPO(NETWORK, group=1), "group=1"),
        (GRPO(NETWORK, prompts=3, group=3, minibatches=2), "minibatches=2"),
        (GRPO(NETWORK, prompts=2, group=3, parts=4), "parts=4"),
        (GRPO(NETWORK, watch=False, reward_kl=0.1), "watch=False"),
        (GRPO(NETWORK, greedy=1, rounds=3), "rounds"),
        (GRPO(Transformer(dataclasses.replace(CONFIG, vocab=4))), "vocab=8"),
    ]
    for agent, said in cases:
        with pytest.raises((ValueError, TypeError), match=said):
            jaxrl.train(agent, TASK, jax.random.key(0), steps=64)
    with pytest.raises(TypeError, match="token ids"):
        jaxrl.train(GRPO(NETWORK), jaxrl.envs.make("CartPole-v1"), jax.random.key(0), steps=64)
    wrong = Transformer(dataclasses.replace(CONFIG, width=8))
    params = wrong.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    with pytest.raises(ValueError, match="shape"):
        jaxrl.train(GRPO(NETWORK), TASK, jax.random.key(0), steps=64, start=params)
    with pytest.raises(TypeError, match="start_from"):
        env = jaxrl.envs.make("CartPole-v1")
        jaxrl.train(jaxrl.PPO(), env, jax.random.key(0), steps=512, start=params)


def test_a_learned_reward_is_watched_beside_the_gold_one() -> None:
    def liked(params: Any, prompt: jax.Array, completion: jax.Array) -> jax.Array:
        gold = TASK.step(prompt, completion, jax.random.key(0))[1].reward
        return params["scale"] * gold + 1.0

    agent = GRPO(NETWORK, **SMALL)
    for scale, agrees in ((2.0, 1.0), (-0.5, -1.0)):
        task = Scored(TASK, liked, {"scale": jnp.array(scale)})
        run = jaxrl.train(agent, task, jax.random.key(0), steps=8, progress=False)
        gold, gap = run.metrics["measure/gold"][0], run.metrics["reward/gold_gap"][0]
        assert 0.0 < gold < 1.0
        np.testing.assert_allclose(run.metrics["reward/mean"][0], scale * gold + 1, rtol=1e-5)
        np.testing.assert_allclose(gap, (scale - 1) * gold + 1, rtol=1e-5)
        np.testing.assert_allclose(run.metrics["reward/gold_correlation"][0], agrees, rtol=1e-5)
    blind = dataclasses.replace(task, watch=False)
    run = jaxrl.train(agent, blind, jax.random.key(0), steps=8, progress=False)
    assert not [name for name in run.metrics if "gold" in name]
    waits = dataclasses.replace(agent, rounds=2)  # what waits for an update has no gold score
    run = jaxrl.train(waits, task, jax.random.key(0), steps=16, progress=False)
    assert np.isfinite(run.metrics["measure/gold"]).all()
