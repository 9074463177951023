"""Advantages of groups, length shaping, diagnostics and presets, by hand and by NumPy."""

from __future__ import annotations

import importlib
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm.losses import (
    advantages,
    aggregate,
    diagnostics,
    dpo,
    kl,
    kto,
    ppo,
    presets,
    ratios,
    reference_free,
    shaping,
    surrogates,
)
from jaxrl.llm.losses.aggregate import Layout

NAN = np.nan
REWARD = np.array(
    [
        [1.0, 0.0, 0.0, 1.0],
        [0.1, 0.1, 0.1, 0.1],  # degenerate
        [2.0, NAN, -1.0, 0.5],  # one could not be scored
        [NAN, NAN, 3.0, NAN],  # a group of one
        [NAN, NAN, NAN, NAN],
    ]
)
USEFUL = [0, 2]


def loop(how: str, ddof: int, eps: float) -> np.ndarray:
    out = np.zeros_like(REWARD)
    known = [[g for g in range(4) if not math.isnan(REWARD[p, g])] for p in range(5)]
    everything = np.array([REWARD[p, g] for p in range(5) for g in known[p]])
    for p in USEFUL:
        values = np.array([REWARD[p, g] for g in known[p]])
        for g in known[p]:
            others = np.array([REWARD[p, j] for j in known[p] if j != g])
            near, far = REWARD[p, g] - values.mean(), REWARD[p, g] - others.mean()
            scale = 1.0
            if how == "group":
                scale = values.std(ddof=ddof) + eps
            elif how == "batch":
                scale = everything.std(ddof=ddof) + eps
            elif how == "others std" and len(set(others)) > 1:
                scale = others.std(ddof=ddof) + eps
            out[p, g] = (far if how.startswith("others") else near) / scale
    return out


@pytest.mark.parametrize(
    ("how", "function"),
    [
        ("none", advantages.centred),
        ("group", advantages.standardised),
        ("batch", advantages.batch_standardised),
        ("others", advantages.leave_one_out),
        ("others std", advantages.leave_one_out_standardised),
    ],
)
@pytest.mark.parametrize(("ddof", "eps"), [(1, 1e-4), (0, 1e-2)])
def test_advantages(how: str, function: Any, ddof: int, eps: float) -> None:
    scaled = how not in ("none", "others")
    got = function(jnp.asarray(REWARD), **(dict(ddof=ddof, eps=eps) if scaled else {}))
    np.testing.assert_allclose(got, loop(how, ddof, eps), rtol=2e-5, atol=2e-6)


def test_the_two_conventions_of_the_deviation_differ() -> None:
    """open-instruct and EasyDeL divide by G, verl, TRL and Tunix by G - 1."""
    r = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    one = advantages.standardised(r, ddof=1, eps=1e-4)[0, 0]
    zero = advantages.standardised(r, ddof=0, eps=1e-8)[0, 0]
    assert float(one) == pytest.approx(0.75 / 0.5001, rel=1e-6)
    assert float(zero) == pytest.approx(0.75 / 0.4330127, rel=1e-6)


@pytest.mark.parametrize("size", [3, 7, 16])
def test_equal_rewards_give_exactly_nothing(size: int) -> None:
    """Rounding leaves 1e-9 above the mean; an epsilon of 1e-9 would make an advantage of it."""

    @jax.jit
    def run(r: jax.Array) -> list[jax.Array]:
        return [
            advantages.standardised(r, eps=1e-9),
            advantages.leave_one_out(r),
            advantages.leave_one_out_standardised(r, eps=1e-9),
        ]

    values = jnp.array([0.1, 1 / 3, 0.7, 1e4 + 0.3])
    for got in run(jnp.tile(values[:, None], (1, size))):
        np.testing.assert_array_equal(got, 0.0)


def test_others_that_agree_leave_the_difference_alone() -> None:
    got = advantages.leave_one_out_standardised(jnp.array([[0.1, 0.1, 0.1, 1.0]]))
    assert float(got[0, 3]) == pytest.approx(0.9, rel=1e-5)  # NeMo-RL: no division by 0 + 1e-6
    assert float(got[0, 0]) == pytest.approx(-0.3 / (math.sqrt(0.27) + 1e-6), rel=1e-5)


def test_degenerate() -> None:
    got = advantages.degenerate(jnp.asarray(REWARD))
    np.testing.assert_array_equal(got, [False, True, False, True, True])


def test_combine_leaves_out_what_cannot_be_scored() -> None:
    rewards = jnp.array([[[1.0, NAN, NAN]], [[2.0, 4.0, NAN]]])
    got = advantages.combine(rewards, jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(got, [[2.0, 2.0, NAN]])


def test_remax() -> None:
    got = advantages.remax(jnp.array([[1.0, NAN], [0.5, 3.0]]), jnp.array([0.25, 1.0]))
    np.testing.assert_allclose(got, [[0.75, 0.0], [-0.5, 2.0]])


def test_gdpo() -> None:
    rng = np.random.default_rng(3)
    rewards = np.stack([rng.normal(size=(3, 4)), 100 * rng.normal(size=(3, 4))])
    single = (rewards - rewards.mean(-1, keepdims=True)) / (
        rewards.std(-1, ddof=1, keepdims=True) + 1e-4
    )
    total = 0.7 * single[0] + 0.3 * single[1]
    want = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    got = advantages.gdpo(jnp.asarray(rewards), jnp.array([0.7, 0.3]))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_reinforce_plus_plus() -> None:
    # Token rewards 0 0 1 and 2 (one tool token in between): sums to the end 1 1 1 and 2 2.
    where = Layout(jnp.array([[1, 1, 1, 0], [1, 0, 1, 0]], bool))
    reward = jnp.array([[0, 0, 1.0, 9], [0, 9, 2.0, 9]])
    flat = np.array([1, 1, 1, 2, 2])
    want = (flat - flat.mean()) / flat.std(ddof=1)
    got = np.asarray(advantages.reinforce_plus_plus(reward, where))
    np.testing.assert_allclose(got[np.asarray(where.mask)], want, rtol=1e-5)
    assert not got[~np.asarray(where.mask)].any()


# Lengths.


def test_overlong_penalty() -> None:
    """DAPO's numbers: limit 20480, buffer 4096."""
    length = jnp.array([100, 16384, 16385, 18432, 20480, 30000])
    got = shaping.overlong_penalty(length, 20480, 4096)
    np.testing.assert_allclose(got, [0, 0, -1 / 4096, -0.5, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(shaping.overlong_penalty(length, 20480, 4096, 0.5), got / 2)


def test_overlong_penalty_counts_tokens() -> None:
    """Tunix gives it the number of characters: about four times as many."""
    text = "a sentence of six short words"
    tokens = jnp.ones((1, 6), bool)
    assert float(shaping.overlong_penalty(Layout(tokens).lengths(), 20, 10)[0]) == 0.0
    assert float(shaping.overlong_penalty(jnp.array(len(text)), 20, 10)) == -1.0


def test_truncated_completions_say_nothing() -> None:
    reward = shaping.truncated_reward(jnp.array([[1.0, 0.0, 5.0]]), jnp.array([[1, 1, 0]]))
    np.testing.assert_allclose(advantages.centred(reward), [[0.5, -0.5, 0.0]])


# Diagnostics.

WHERE = Layout(jnp.array([[True, True, False], [True, True, False]]))


def scalars(metrics: dict[str, jax.Array]) -> dict[str, float]:
    assert all(v.shape == () for v in metrics.values())
    return {k: float(v) for k, v in metrics.items()}


def test_kl_estimates() -> None:
    lp = jnp.array([[-1.0, -1.0, NAN], [-1.0, -1.0, -jnp.inf]])
    ref = jnp.array([[-1.5, -0.5, 0.0], [-1.5, -1.5, -jnp.inf]])
    got = scalars(diagnostics.kl_estimates(lp, ref, WHERE))
    assert got["policy/kl_k1"] == pytest.approx(0.25)
    assert got["policy/kl_k2"] == pytest.approx(0.125)
    assert got["policy/kl_k3"] == pytest.approx((3 * 0.1065307 + 0.1487213) / 4, rel=1e-5)


def test_effective_sample_size() -> None:
    x = jnp.log(jnp.array([1.0, 1.0, 2.0, 50.0]))
    keep = jnp.array([True, True, True, False])
    assert float(diagnostics.effective_sample_size(x, keep)) == pytest.approx(16 / (3 * 6))
    assert float(diagnostics.effective_sample_size(x + 500, keep)) == pytest.approx(16 / 18)
    assert math.isnan(float(diagnostics.effective_sample_size(x, jnp.zeros(4, bool))))


def test_clip_fractions_by_sign() -> None:
    where = Layout(jnp.array([[1, 1, 1, 1, 1, 0]], bool))
    x = jnp.log(jnp.array([[1.5, 0.5, 0.5, 1.5, 0.95, 0.1]]))
    advantage = jnp.array([[1.0, 1.0, -1.0, -1.0, -1.0, -1.0]])
    got = scalars(diagnostics.clip_fractions(x, advantage, where, 0.2, 0.2))
    assert got["policy/clip_positive"] == 0.5  # 1.5; that 0.5 is low does not clip
    assert got["policy/clip_negative"] == pytest.approx(1 / 3)
    none = scalars(diagnostics.clip_fractions(x, jnp.abs(advantage), where, 0.2, 0.2))
    assert math.isnan(none["policy/clip_negative"])


def test_length_diagnostics() -> None:
    length = np.array([10.0, 20.0, 30.0, 44.0, 99.0])
    reward = np.array([1.0, 0.0, 0.0, 1.0, NAN])
    got = scalars(
        diagnostics.length_by_correctness(jnp.asarray(length[:4]), jnp.asarray(reward[:4]))
    )
    assert got == {"length/correct": 27.0, "length/wrong": 25.0}
    r = diagnostics.length_reward_correlation(jnp.asarray(length), jnp.asarray(reward))
    assert float(r) == pytest.approx(np.corrcoef(length[:4], reward[:4])[0, 1], rel=1e-5)
    flat = diagnostics.length_reward_correlation(jnp.asarray(length), jnp.ones(5))
    assert math.isnan(float(flat))


def test_gold_diagnostics_look_at_answers_with_both_scores() -> None:
    reward, gold = jnp.array([1.0, 2.0, 3.0, NAN, 9.0]), jnp.array([1.0, 0.0, -1.0, 5.0, NAN])
    got = scalars(diagnostics.gold_gap(reward, gold))
    assert got["reward/gold_gap"] == 2.0  # 0, 2, 4
    assert got["reward/gold_correlation"] == pytest.approx(-1.0, rel=1e-6)


def test_group_metrics() -> None:
    got = scalars(diagnostics.group_metrics(jnp.asarray(REWARD)))
    assert got["group/degenerate"] == pytest.approx(3 / 5)
    assert got["group/unscored"] == pytest.approx(1 / 5)
    want = np.mean([0.5, 0.0, np.std([2.0, -1.0, 0.5]), 0.0])
    assert got["group/std"] == pytest.approx(want, abs=1e-6)


def test_sampler_mismatch() -> None:
    trainer = jnp.array([[-1.0, -2.0, NAN], [-0.5, -3.0, -jnp.inf]])
    sampler = jnp.array([[-1.0, -2.2, 0.0], [-0.5, -2.9, -jnp.inf]])
    got = scalars(diagnostics.sampler_mismatch(trainer, sampler, WHERE))
    assert got["sampler/max_difference"] == pytest.approx(0.2, rel=1e-5)
    assert got["sampler/mean_difference"] == pytest.approx(0.075, rel=1e-5)
    assert got["sampler/max_prob_difference"] == pytest.approx(
        math.exp(-2) - math.exp(-2.2), rel=1e-5
    )
    ratio = np.exp([0, 0.2, 0, -0.1])
    assert got["sampler/mean_ratio"] == pytest.approx(ratio.mean(), rel=1e-6)
    assert got["sampler/kl"] == pytest.approx((ratio - 1 - np.log(ratio)).mean(), rel=1e-4)
    same = scalars(diagnostics.sampler_mismatch(trainer, trainer, WHERE))
    assert same["sampler/kl"] == 0 and same["sampler/ess"] == 1


def test_entropy() -> None:
    assert float(diagnostics.entropy(jnp.array([[1.0, 2.0, NAN], [3.0, 4.0, NAN]]), WHERE)) == 2.5


# Presets: the table of defaults, one line each.

CLIPS = {
    # low, high, dual, aggregate, level, log clamp, group
    "trl/grpo": (0.2, 0.2, None, aggregate.ByToken, ratios.token, None, 8),
    "trl/grpo-paper": (0.2, 0.2, None, aggregate.BySequence, ratios.token, None, 8),
    "trl/dr_grpo": (0.2, 0.2, None, aggregate.ByLength, ratios.token, None, 8),
    "trl/rloo": (0.2, 0.2, None, aggregate.BySequence, ratios.product, None, 2),
    "verl/grpo": (0.2, 0.2, 3.0, aggregate.ByToken, ratios.token, 20.0, 1),
    "verl/grpo-kl": (0.2, 0.2, 3.0, aggregate.ByToken, ratios.token, 20.0, 1),
    "verl/ppo": (0.2, 0.2, 3.0, aggregate.ByToken, ratios.token, 20.0, 1),
    "openrlhf/ppo": (0.2, 0.2, None, aggregate.ByToken, ratios.token, 20.0, 1),
    "openrlhf/grpo": (0.2, 0.2, None, aggregate.ByToken, ratios.token, 20.0, 1),
    "nemo-rl/grpo": (0.2, 0.2, None, aggregate.ByToken, ratios.token, None, 16),
    "tunix/grpo": (0.2, 0.2, None, aggregate.BySequence, ratios.token, None, 2),
    "tunix/dapo": (0.2, 0.28, None, aggregate.ByToken, ratios.token, None, 2),
    "tunix/ppo": (0.2, 0.2, None, aggregate.ByToken, ratios.token, None, 1),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_presets(name: str) -> None:
    low, high, dual, how, level, clamp, group = CLIPS[name]
    preset = presets.POLICY[name]
    surrogate = preset.loss.surrogate
    assert isinstance(surrogate, surrogates.Clipped) and isinstance(preset.loss.aggregate, how)
    assert (surrogate.low, surrogate.high, surrogate.dual) == (low, high, dual)
    assert (preset.loss.level, preset.loss.log_clamp, preset.group) == (level, clamp, group)
    if isinstance(preset.loss.aggregate, aggregate.BySequence):
        assert preset.loss.aggregate.empty is name.startswith("trl/")


GROUP = jnp.array([[1.0, 0.0, 0.0, 0.5]])
CENTRED = np.array([0.625, -0.375, -0.375, 0.125])
DEVIATION = float(np.std([1, 0, 0, 0.5], ddof=1))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("trl/grpo", CENTRED / (DEVIATION + 1e-4)),
        ("verl/grpo", CENTRED / (DEVIATION + 1e-6)),
        ("openrlhf/grpo", CENTRED / (DEVIATION + 1e-9)),
        ("tunix/grpo", CENTRED / (DEVIATION + 1e-6)),
        ("trl/rloo", CENTRED * 4 / 3),
        ("nemo-rl/grpo", [5 / 6 / (np.std([0, 0, 0.5], ddof=1) + 1e-6), -1, -1, 0.28867]),
    ],
)
def test_advantages_of_presets(name: str, want: Any) -> None:
    advantage = presets.POLICY[name].advantage
    assert advantage is not None
    np.testing.assert_allclose(advantage(GROUP)[0], want, rtol=2e-5, atol=1e-6)


def test_kl_of_presets() -> None:
    def penalty(name: str) -> kl.KLPenalty:
        found = presets.POLICY[name].loss.kl
        assert found is not None
        return found

    x = jnp.array([0.7, -3.0, -30.0])
    zero = jnp.zeros(3)
    k3 = np.array([math.exp(-0.7) - 0.3, 10.0, 10.0])
    np.testing.assert_allclose(penalty("verl/grpo-kl")(x, zero), 0.001 * k3, rtol=2e-5)
    np.testing.assert_allclose(penalty("nemo-rl/grpo")(x, zero), 0.01 * k3, rtol=2e-5)
    np.testing.assert_allclose(penalty("tunix/grpo")(x, zero), 0.04 * x, rtol=2e-5)
    reward = {n: p.reward_kl for n, p in presets.POLICY.items() if p.reward_kl is not None}
    assert {n: (r.beta, r.estimator, r.limit) for n, r in reward.items()} == {
        "trl/rloo": (0.05, kl.k1, None),
        "openrlhf/ppo": (0.01, kl.k1, 10.0),
        "openrlhf/grpo": (0.01, kl.k1, 10.0),
        "tunix/ppo": (0.04, kl.k3, None),
    }


def test_critics_of_presets() -> None:
    critics = {n: p.critic for n, p in presets.POLICY.items() if p.critic is not None}
    assert {n: (c.gamma, c.lam, c.value_clip, c.eps) for n, c in critics.items()} == {
        "verl/ppo": (1.0, 1.0, 0.5, 1e-8),
        "openrlhf/ppo": (1.0, 1.0, 0.5, 1e-8),
        "tunix/ppo": (1.0, 0.95, 0.2, 1e-8),
    }
    for name, preset in presets.POLICY.items():
        assert (preset.advantage is None) == (name in critics)
        assert (preset.score_limit == 10.0) == name.startswith("openrlhf/")


def test_other_surrogates_of_presets() -> None:
    cispo, sapo = presets.POLICY["trl/cispo"].loss, presets.POLICY["trl/sapo"].loss
    assert isinstance(cispo.surrogate, surrogates.Cispo) and cispo.surrogate.high == 5.0
    assert isinstance(cispo.aggregate, aggregate.ByToken)
    assert isinstance(sapo.surrogate, surrogates.Sapo)
    assert (sapo.surrogate.positive, sapo.surrogate.negative) == (1.0, 1.05)
    vespo = presets.POLICY["trl/vespo"].loss
    assert isinstance(vespo.surrogate, surrogates.Vespo) and vespo.level is ratios.product


def test_preference_presets() -> None:
    one = jnp.array([-2.0])
    pairs = dpo.Pairs(one, 2 * one, one, one, -2 * one, -one)  # d = 2, lengths 4 and 2

    def value(name: str, *x: Any) -> float:
        return float(np.sum(presets.PREFERENCE[name].loss(*x)))

    assert value("trl/dpo", pairs) == pytest.approx(math.log1p(math.exp(-0.2)), rel=1e-5)
    assert value("openrlhf/dpo", pairs) == value("trl/dpo", pairs)
    assert value("trl/ipo", pairs) == pytest.approx((0 + 2 / 2 - 5) ** 2)
    assert value("openrlhf/ipo", pairs) == pytest.approx((2 - 5) ** 2)
    bco = math.log(2) + math.log1p(math.exp(-0.2))
    mpo = 0.8 * math.log1p(math.exp(-0.2)) + 0.2 * bco
    assert value("trl/mpo", pairs) == pytest.approx(mpo, rel=1e-5)
    assert value("trl/kto", one, jnp.array([True]), 0.0) == pytest.approx(
        float(kto.kto(one, jnp.array([True]), 0.0, 0.1)[0])
    )
    assert value("trl/cpo", one, 2 * one) == pytest.approx(math.log1p(math.exp(-0.2)), rel=1e-5)
    assert value("trl/simpo", one, 2 * one) == pytest.approx(math.log1p(math.exp(0.3)), rel=1e-5)
    assert value("trl/orpo", one, 2 * one) == pytest.approx(
        0.1 * float(reference_free.orpo(one, 2 * one)[0])
    )
    assert value("trl/reward", one, 2 * one) == pytest.approx(math.log1p(math.exp(-2)), rel=1e-5)
    weights = {n: p.nll for n, p in presets.PREFERENCE.items() if p.nll}
    assert set(weights) == {"trl/mpo", "trl/cpo", "trl/simpo", "trl/orpo", "tunix/orpo"}
    assert set(weights.values()) == {1.0}
    assert presets.PREFERENCE["trl/orpo"].nll_prompt


def test_presets_run() -> None:
    """Every policy preset, from rewards to a finite loss and gradient."""
    rng = np.random.default_rng(2)
    where = Layout(jnp.asarray(rng.uniform(size=(4, 5)) < 0.8))
    lp, old, ref = (jnp.asarray(rng.normal(-1, 0.3, (4, 5)), jnp.float32) for _ in range(3))
    reward = jnp.array([[1.0, 0.0], [0.5, 0.25]])

    @jax.jit
    def run() -> Any:
        out = {}
        for name, preset in presets.POLICY.items():
            if preset.advantage is None:
                assert preset.critic is not None
                score = ppo.token_rewards(reward.ravel(), old - ref, where, beta=0.1)
                advantage = ppo.gae(score, 0 * lp, where, lam=preset.critic.lam)[0]
            else:
                advantage = preset.advantage(reward).ravel()
            loss = partial(preset.loss, old=old, advantage=advantage, layout=where, ref=ref)
            out[name] = jax.value_and_grad(loss, has_aux=True)(lp)
        return out

    for name, ((value, metrics), grad) in run().items():
        assert math.isfinite(float(value)) and np.asarray(grad).any(), name
        assert float(metrics["loss/total"]) == pytest.approx(float(value)), name
    assert len(set(presets.names())) == len(presets.POLICY) + len(presets.PREFERENCE)


def test_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs/llm_losses.md").read_text()
    scope: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "llm_losses.md", "exec"), scope)
    assert math.isfinite(float(scope["value"]))
    # Every loss in the tables exists under its name.
    modules = ["grpo", "dpo", "advantages", "kl"]
    for name in re.findall(r"^\| `([a-z_0-9]+)`", page, re.MULTILINE):
        assert any(
            hasattr(importlib.import_module(f"jaxrl.llm.losses.{m}"), name) for m in modules
        ), name
    for module, name in re.findall(r"`([a-z_]+)\.([A-Za-z_]+)`", page):
        if module != "diagnostics" or name != "*":
            assert hasattr(importlib.import_module(f"jaxrl.llm.losses.{module}"), name), name
