"""Learning from datasets of tokens: every method's first step against numbers worked out alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.llm import (
    CPO,
    DPO,
    KTO,
    ORPO,
    SFT,
    Distill,
    Lora,
    RewardModel,
    SimPO,
    StepModel,
    examples,
    rejection,
    tuning,
)
from jaxrl.llm.losses import dpo, sft
from jaxrl.types import Counter, Spec
from tests.echo import END, NETWORK, Echo

KEY = jax.random.key(0)
PROMPTS = [[2, 3], [4], [5, 6, 7], [3, 3]]
GOOD = [[2, 3], [4, 4], [5], [6]]
BAD = [[7], [2, 2, 2], [3, 4], [5]]
SPEC: Any = Spec(None, None, None, 100)  # pyright: ignore
PLAIN = tuning.AdamW(max_grad_norm=1e9)


@jax.jit
def log_probs(params: Any, ids: jax.Array) -> jax.Array:
    logits, _ = NETWORK.apply({"params": params}, ids[None])
    each = jax.nn.log_softmax(logits[0])
    return jnp.take_along_axis(each[:-1], ids[1:, None], axis=1)[:, 0]


def sums(params: Any, side: list[list[int]], prompts: Any = PROMPTS) -> np.ndarray:
    """Summed log-probability of each answer with its end, one unpadded row at a time."""
    found = []
    for prompt, answer in zip(prompts, side, strict=True):
        ids = jnp.asarray([*prompt, *answer, END])
        found.append(float(log_probs(params, ids)[len(prompt) - 1 :].sum()))
    return np.array(found)


def lengths(side: list[list[int]]) -> np.ndarray:
    return np.array([len(answer) + 1 for answer in side])


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def one_step(agent: Any, arrays: Any, moved: float | None = None) -> tuple[Any, Any, Any]:
    """-> state before, state after, metrics. `moved`: the reference is another model."""
    state = agent.init(KEY, SPEC)
    if moved is not None:
        state = tuning.Tuned(
            state.params, jax.tree.map(lambda x: x * moved, state.params), state.opt,
            state.updates, state.spec,
        )  # fmt: skip
    batch = jax.tree.map(jnp.asarray, arrays)
    after, metrics = jax.jit(agent.learn)(state, batch, KEY)
    return state, after, {name: float(x) for name, x in metrics.items()}


def test_examples_are_joined_as_ids_and_end() -> None:
    data = examples.supervised(PROMPTS, [*GOOD[:3], [6, END]], room=8, eos=END)
    tokens, mask = data.arrays["tokens"], data.arrays["mask"]
    assert tokens[0].tolist() == [2, 3, 2, 3, END, 0, 0, 0]
    assert mask[0].tolist() == [False, False, True, True, True, False, False, False]
    assert (tokens[mask] == END).sum() == 4  # every trained answer ends, once
    with pytest.raises(ValueError, match="room=4"):
        examples.supervised(PROMPTS, GOOD, room=4, eos=END)


def test_fine_tuning_packed_and_padded() -> None:
    agent = SFT(NETWORK, batch_size=4, optimizer=PLAIN)
    padded = examples.supervised(PROMPTS, GOOD, room=8, eos=END).arrays
    state, after, metrics = one_step(agent, padded)
    expected = -sums(state.params, GOOD).sum() / lengths(GOOD).sum()
    assert metrics["loss/total"] == pytest.approx(expected, rel=1e-5)

    rows = examples.packed(PROMPTS, GOOD, room=12, eos=END).arrays
    assert len(rows["tokens"]) == 2 and rows["segments"].max() == 2
    denser = SFT(NETWORK, batch_size=2, parts=2, optimizer=PLAIN)
    _, packed, same = one_step(denser, rows)
    assert same["loss/total"] == pytest.approx(expected, rel=1e-5)
    for x, y in zip(
        jax.tree.leaves(after.opt[1].mu), jax.tree.leaves(packed.opt[1].mu), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)


def pairs(room: int = 8) -> Any:
    return examples.preferences(PROMPTS, GOOD, BAD, room=room, eos=END).arrays


def test_preferences_against_a_reference() -> None:
    agent = DPO(NETWORK, batch_size=4, nll=0.5, optimizer=PLAIN)
    state, _, metrics = one_step(agent, pairs(), moved=1.2)
    l_c = sums(state.params, GOOD) - sums(state.reference, GOOD)
    l_r = sums(state.params, BAD) - sums(state.reference, BAD)
    assert np.abs(l_c - l_r).min() > 1e-3
    right = -np.log(sigmoid(0.1 * (l_c - l_r))).mean()
    assert metrics["loss/preference"] == pytest.approx(right, rel=1e-5)
    nll = -sums(state.params, GOOD).sum() / lengths(GOOD).sum()
    assert metrics["loss/total"] == pytest.approx(right + 0.5 * nll, rel=1e-5)
    assert metrics["reward/accuracy"] == (l_c > l_r).mean()


@pytest.mark.slow
def test_preferences_in_parts_and_the_tail() -> None:
    whole = one_step(DPO(NETWORK, batch_size=4, optimizer=PLAIN), pairs(), moved=1.2)
    parts = one_step(DPO(NETWORK, batch_size=4, parts=4, optimizer=PLAIN), pairs(), moved=1.2)
    assert parts[2]["loss/total"] == pytest.approx(whole[2]["loss/total"], rel=1e-6)
    assert parts[2]["policy/gradient_norm"] == pytest.approx(
        whole[2]["policy/gradient_norm"], rel=1e-4
    )
    cut = one_step(DPO(NETWORK, batch_size=4, tail=0.0), pairs(), moved=1.2)[2]
    assert cut["loss/total"] != pytest.approx(whole[2]["loss/total"], rel=1e-4)
    same = one_step(DPO(NETWORK, batch_size=4, tail=1.0), pairs(), moved=1.2)[2]
    assert same["loss/total"] == pytest.approx(whole[2]["loss/total"], rel=1e-6)
    with pytest.raises(ValueError, match="parts=1"):
        DPO(NETWORK, loss=partial(dpo.aot, beta=0.1), parts=2).init(KEY, SPEC)


def test_preferences_without_a_reference() -> None:
    state, _, metrics = one_step(SimPO(NETWORK, batch_size=4), pairs())
    mean_c = sums(state.params, GOOD) / lengths(GOOD)
    mean_r = sums(state.params, BAD) / lengths(BAD)
    right = -np.log(sigmoid(2.0 * (mean_c - mean_r) - 0.5)).mean()
    assert metrics["loss/total"] == pytest.approx(right, rel=1e-5)


@pytest.mark.slow
def test_likelihood_of_answers_or_of_prompts_too() -> None:
    state, _, metrics = one_step(CPO(NETWORK, batch_size=4), pairs())
    gap = sums(state.params, GOOD) - sums(state.params, BAD)
    nll = -sums(state.params, GOOD).sum() / lengths(GOOD).sum()
    assert metrics["loss/total"] == pytest.approx(
        -np.log(sigmoid(0.1 * gap)).mean() + nll, rel=1e-5
    )
    state, _, metrics = one_step(ORPO(NETWORK, batch_size=4), pairs())
    total, count = 0.0, 0
    for prompt, answer in zip(PROMPTS, GOOD, strict=True):
        each = log_probs(state.params, jnp.asarray([*prompt, *answer, END]))
        total, count = total - float(each.sum()), count + len(each)
    assert metrics["loss/nll"] == pytest.approx(total / count, rel=1e-5)


def test_thumbs() -> None:
    good = [True, False, True, False]
    data = examples.thumbs(PROMPTS, GOOD, good, prompt_room=4, answer_room=5, eos=END).arrays
    state, _, metrics = one_step(KTO(NETWORK, batch_size=4), data, moved=1.2)
    ratio = sums(state.params, GOOD) - sums(state.reference, GOOD)
    others = [GOOD[-1], *GOOD[:-1]]  # the answer of the row before
    z = max(0.0, (sums(state.params, others) - sums(state.reference, others)).mean())
    assert metrics["reference/point"] == pytest.approx(z, rel=1e-4, abs=1e-6)
    gain = np.where(good, 1 - sigmoid(0.1 * (ratio - z)), 1 - sigmoid(0.1 * (z - ratio)))
    assert metrics["loss/total"] == pytest.approx(gain.mean(), rel=1e-5)


def test_a_reward_model_reads_the_last_token() -> None:
    agent = RewardModel(NETWORK, batch_size=4, centring=0.1)
    state = agent.init(KEY, SPEC)
    head = jax.random.normal(KEY, state.params["score"].shape)
    state = agent.start_from(state, {**state.params, "score": head})
    data = examples.preferences(
        PROMPTS, GOOD, BAD, room=8, eos=END, margin=[0.1, 0.2, 0.3, 0.4]
    ).arrays
    _, metrics = jax.jit(agent.learn)(state, jax.tree.map(jnp.asarray, data), KEY)

    @jax.jit
    def last(ids: jax.Array) -> jax.Array:
        x, _ = NETWORK.apply({"params": state.params["trunk"]}, ids[None], method="hidden")
        return x[0, -1] @ head

    scores = [
        np.array([float(last(jnp.asarray([*p, *a, END]))) for p, a in zip(PROMPTS, side)])
        for side in (GOOD, BAD)
    ]
    gap = scores[0] - scores[1] - np.array([0.1, 0.2, 0.3, 0.4])
    right = (-np.log(sigmoid(gap)) + 0.1 * (scores[0] + scores[1]) ** 2).mean()
    assert float(metrics["loss/total"]) == pytest.approx(right, rel=1e-4)
    assert float(metrics["reward/accuracy"]) == (scores[0] > scores[1]).mean()


def test_a_model_of_steps() -> None:
    agent = StepModel(NETWORK, batch_size=2, parts=2)
    tokens = jnp.array([[2, 3, 4, 5], [6, 7, 2, 0]])
    batch = {
        "tokens": tokens,
        "segments": (tokens > 0).astype(jnp.int32),
        "ends": jnp.array([[0, 1, 0, 1], [0, 0, 1, 0]], bool),
        "label": jnp.array([[0.0, 1, 0, 0], [0, 0, 1, 0]]),
    }
    state = agent.init(KEY, SPEC)
    state = agent.start_from(state, {**state.params, "score": jnp.ones(16)})
    scores = np.asarray(jax.jit(agent.scores)(state.params, tokens, batch["segments"]))
    _, metrics = jax.jit(agent.learn)(state, batch, KEY)
    s = np.array([scores[0, 1], scores[0, 3], scores[1, 2]])
    right = (np.log1p(np.exp(s)) - np.array([1, 0, 1]) * s).mean()  # three steps, alike
    assert float(metrics["loss/total"]) == pytest.approx(right, rel=1e-5)


@pytest.mark.slow
def test_a_student_becomes_its_teacher() -> None:
    agent = Distill(NETWORK, NETWORK, lr=3e-3, prompts=16)
    teacher = jax.tree.map(lambda x: 3 * x, agent.init(jax.random.key(9), _task_spec()).teacher)
    run = jaxrl.train(agent, Echo(), KEY, steps=16 * 200, start={"teacher": teacher}, log_every=160)
    loss = np.asarray(run.metrics["loss/total"])
    assert loss[0] > 0.01 and loss[-1] < loss[0] / 10
    jax.tree.map(np.testing.assert_array_equal, run.state.teacher, teacher)


def _task_spec() -> Spec:
    env = Echo()
    return Spec(env.obs_space, env.action_space, 1, 100)


@pytest.mark.slow
def test_rejection_sampling_and_what_it_teaches() -> None:
    """The best of many random answers are right; fine-tuned on them, the model is better."""
    env, network = Echo(), NETWORK
    start = tuning.fresh(network, KEY, None)
    data = rejection.gather(network, start, env, KEY, prompts=256, group=64, least=1.0)
    rows = data.arrays["tokens"]
    assert len(rows) > 8
    for row in rows:
        assert row[1:3].tolist() == row[3:5].tolist() and row[5] == END
    agent = SFT(network, lr=3e-3, batch_size=8)
    run = jaxrl.fit(agent, data, KEY, steps=200, start=start)
    before = jaxrl.fit(SFT(network, lr=1e-9, batch_size=8), data, KEY, steps=1, start=start)
    score = [jaxrl.evaluate(r, env, episodes=256).mean for r in (before, run)]
    assert score[1] > score[0] + 0.2
    with pytest.raises(ValueError, match="none of 4"):
        rejection.gather(network, start, env, KEY, prompts=4, group=1, least=2.0)


@pytest.mark.slow
def test_adapters_alone_are_fitted() -> None:
    agent = SFT(NETWORK, batch_size=4, lora=Lora(rank=2), lr=1e-2)
    arrays = examples.supervised(PROMPTS, GOOD, room=8, eos=END)
    run = jaxrl.fit(agent, arrays, KEY, steps=20, start=tuning.fresh(NETWORK, KEY, None))
    base = tuning.fresh(NETWORK, KEY, None)
    jax.tree.map(np.testing.assert_array_equal, run.state.params.base, base)
    assert run.metrics["loss/total"][-1] < run.metrics["loss/total"][0]


def test_dynamic_fine_tuning_is_another_loss() -> None:
    padded = examples.supervised(PROMPTS, GOOD, room=8, eos=END).arrays
    state, _, metrics = one_step(SFT(NETWORK, batch_size=4, loss=sft.dft), padded)
    total = 0.0
    for prompt, answer in zip(PROMPTS, GOOD, strict=True):
        each = log_probs(state.params, jnp.asarray([*prompt, *answer, END]))[len(prompt) - 1 :]
        total -= float((jnp.exp(each) * each).sum())
    assert metrics["loss/total"] == pytest.approx(total / lengths(GOOD).sum(), rel=1e-5)


def test_the_share_of_a_run_that_lies_behind_us() -> None:
    shares = [float(tuning.share(Counter.zero().add(n), 12)) for n in (0, 3, 12, 20)]
    assert shares == [0.0, 0.25, 1.0, 1.0]
    assert float(tuning.share(Counter.zero().add(1), 0)) == 1.0
