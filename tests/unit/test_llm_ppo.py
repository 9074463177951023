"""PPO with a critic on a language model: rewards of tokens, targets and the weight of the KL."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.checks import task as checked
from jaxrl.llm import GRPO, PPO, Lora, Sampling, Transformer, answers
from tests.echo import CONFIG, NETWORK, Echo, played


def test_targets_and_losses_by_hand() -> None:
    """One step on everything; the critic's head begins at zero, so targets are sums of rewards."""
    agent = PPO(NETWORK, prompts=8, epochs=1, minibatches=1, parts=2, reward_kl=0.3, lam=0.9,
                kl_target=0.05, kl_horizon=100.0)  # fmt: skip
    state, rollout = played(agent, Echo(unscored=3))
    reference = jax.tree.map(lambda x: x * 1.5, state.params)
    state = dataclasses.replace(state, reference=reference)
    after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(3))

    rows = answers.from_rollout(rollout)
    score = jax.jit(lambda p: answers.score(NETWORK, p, rows, Sampling(), 64)[0])
    gap = np.asarray(rows.drawn.log_prob) - np.asarray(score(reference))
    reward, lost = np.asarray(rollout.reward[0]), np.asarray(rollout.truncated[0])
    assert 0 < lost.sum() < 8
    advantages, kls = [], []
    for row in np.flatnonzero(~lost):
        n = int(rows.mask[row].sum())
        token = -0.3 * gap[row, :n].astype(np.float64)
        token[-1] += reward[row]
        kls.append(gap[row, :n].sum())
        running, own = 0.0, []
        for r in token[::-1]:
            running = r + 0.9 * running
            own.append(running)
        advantages += own
    advantages = np.array(advantages)
    assert float(metrics["loss/value"]) == pytest.approx(0.5 * (advantages**2).mean(), rel=1e-4)
    assert float(metrics["reference/kl_answer"]) == pytest.approx(np.mean(kls), rel=1e-4)
    assert float(metrics["loss/policy"]) == pytest.approx(0.0, abs=1e-5)  # whitened, ratios of 1
    error = np.clip(np.mean(kls) / 0.05 - 1, -0.2, 0.2)
    assert float(after.beta) == pytest.approx(0.3 * (1 + error * 8 / 100), rel=1e-5)
    assert float(metrics["sampler/max_difference"]) <= 1e-5


@pytest.mark.slow
def test_it_learns_and_many_runs_are_the_same_as_one() -> None:
    # Where the end counts, "end, end" is half right in every row, all else is forgotten for it, and
    # a network this small takes long to come back. Without it every answer must become right.
    network = Transformer(dataclasses.replace(CONFIG, eos=()))
    agent = PPO(network, lr=2e-3, critic_lr=4e-3, prompts=64, epochs=2, minibatches=2,
                reward_kl=0.01)  # fmt: skip
    keys = jax.random.split(jax.random.key(5), 4)
    runs = jaxrl.train(agent, Echo(ends=False), keys, steps=64 * 150, log_every=640)
    reward = np.asarray(runs.metrics["reward/mean"])
    assert (reward[:, 0] < 0.25).all() and (reward[:, -1] > 0.95).all()
    keys = keys[:2]
    together = jaxrl.train(agent, Echo(), keys, steps=64 * 20, lanes=2)
    apart = jaxrl.train(agent, Echo(), keys[1], steps=64 * 20)
    np.testing.assert_allclose(
        together.metrics["reward/mean"][1], apart.metrics["reward/mean"], atol=0.02
    )


def test_begins_with_a_reward_model() -> None:
    agent = PPO(NETWORK, prompts=4, minibatches=2)
    spec = checked(agent, Echo(), 64)
    state = agent.init(jax.random.key(0), spec)
    other = GRPO(NETWORK).init(jax.random.key(1), spec)
    critic = {"trunk": other.params, "score": jnp.arange(16.0)}
    begun = agent.start_from(state, {"policy": other, "critic": critic})
    jax.tree.map(np.testing.assert_array_equal, begun.params, other.params)
    jax.tree.map(np.testing.assert_array_equal, begun.reference, other.params)
    jax.tree.map(np.testing.assert_array_equal, begun.critic, critic)
    plain = agent.start_from(state, other)
    jax.tree.map(np.testing.assert_array_equal, plain.critic["trunk"], other.params)
    adapted = PPO(NETWORK, prompts=4, minibatches=2, lora=Lora(rank=2))
    state = adapted.start_from(adapted.init(jax.random.key(0), spec), other)
    jax.tree.map(np.testing.assert_array_equal, state.critic["trunk"].base, other.params)
    assert state.reference is None


def test_bad_input_is_refused() -> None:
    for agent, said in (
        (PPO(NETWORK, prompts=6, minibatches=4), "minibatches=4"),
        (PPO(NETWORK, prompts=8, minibatches=2, parts=3), "parts=3"),
    ):
        with pytest.raises(ValueError, match=said):
            jaxrl.train(agent, Echo(), jax.random.key(0), steps=64)
