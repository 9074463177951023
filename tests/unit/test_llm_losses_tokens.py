"""Aggregation, KL estimates, chunked log-probabilities, SFT, PPO on tokens and distillation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm.losses import aggregate, distillation, kl, logprobs, ppo, sft, surrogates
from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.losses.grpo import PolicyLoss

RNG = np.random.default_rng(5)

# Two rows; three sequences in the first, one in the second, which starts with its prompt.
MASK = np.array([[1, 1, 0, 1, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 1, 0, 0, 0]], bool)
SEGMENT = np.array([[1, 1, 2, 2, 2, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1, 1, 0, 0]])
WHERE = Layout(jnp.asarray(MASK), jnp.asarray(SEGMENT), per_row=3)
SPOTS = [[(0, 0), (0, 1)], [(0, 3), (0, 4), (0, 5)], [(0, 7)], [(1, 2), (1, 4), (1, 5)], [], []]


def grid(values: Any) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


# Aggregation.


def test_layout_of_packed_rows() -> None:
    x = grid(np.arange(18).reshape(2, 9))
    np.testing.assert_array_equal(WHERE.total(x), [1, 12, 7, 11 + 13 + 14, 0, 0])
    np.testing.assert_array_equal(WHERE.lengths(), [2, 3, 1, 3, 0, 0])
    np.testing.assert_allclose(WHERE.mean(x), [0.5, 4, 7, 38 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(WHERE.exists(), [1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(
        WHERE.spread(jnp.arange(1.0, 7.0)), [[1, 1, 2, 2, 2, 2, 3, 3, 0], [4] * 7 + [0, 0]]
    )
    np.testing.assert_array_equal(np.asarray(WHERE.positions())[MASK], [1, 2, 1, 2, 3, 1, 1, 2, 3])
    ends = np.zeros((2, 9), bool)
    ends[0, [1, 5, 7]] = ends[1, 5] = True
    np.testing.assert_array_equal(WHERE.last(), ends)


def test_a_sequence_of_which_nothing_counts_still_exists() -> None:
    where = Layout(jnp.zeros((1, 4), bool), jnp.array([[1, 1, 2, 0]]), per_row=3)
    np.testing.assert_array_equal(where.exists(), [True, True, False])
    x = jnp.ones((1, 4))
    for how in (aggregate.ByToken(), aggregate.BySequence(), aggregate.BySequence(empty=True)):
        assert float(how(x, where)) == 0.0  # not NaN
    assert float(aggregate.BySequence(empty=True).count(where)) == 2
    assert float(aggregate.ByLength(length=8.0).count(where)) == 2
    assert float(aggregate.BySequence().count(where)) == 0


def test_aggregates_by_hand() -> None:
    # Losses 1, 2, 3 of one completion and 6 of another; one more row is empty.
    where = Layout(jnp.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool))
    x = jnp.array([[1.0, 2.0, 3.0], [jnp.nan, 6.0, 9.0], [9.0, 9.0, 9.0]])
    for how, want in [
        (aggregate.ByToken(), 12 / 4),
        (aggregate.BySequence(), (2 + 6) / 2),
        (aggregate.BySequence(empty=True), (2 + 6) / 3),
        (aggregate.BySequenceSum(), 12 / 2),
        (aggregate.BySequenceSum(empty=True), 12 / 3),
        (aggregate.ByLength(length=10.0), 12 / 30),
        (aggregate.ByConstant(constant=8.0), 12 / 8),
    ]:
        assert float(how(x, where)) == pytest.approx(want), how
    assert float(aggregate.ByToken()(x, where, 24.0)) == 0.5


def test_dr_grpo_ignores_the_padded_width() -> None:
    """Tunix and EasyDeL divide by it, so the loss depends on the longest of the batch."""
    where = Layout(jnp.array([[1, 1, 0, 0, 0, 0, 0]], bool))
    wide = aggregate.ByLength(length=10.0)(jnp.ones((1, 7)), where)
    narrow = aggregate.ByLength(length=10.0)(jnp.ones((1, 2)), Layout(where.mask[:, :2]))
    assert float(wide) == float(narrow) == pytest.approx(0.2)


# KL: expected gradients, by summing over a vocabulary of five.

THETA = RNG.normal(0.0, 1.0, 5)
REF = np.log(np.array([0.1, 0.3, 0.2, 0.15, 0.25]))
PI = np.exp(THETA - np.log(np.exp(THETA).sum()))
X = np.log(PI) - REF
REVERSE = PI * (X - (PI * X).sum())  # gradient of KL(pi || ref) for the logits
FORWARD = PI - np.exp(REF)  # of KL(ref || pi)


def expected_gradient(penalty: kl.KLPenalty) -> jax.Array:
    """sum_v pi(v) grad penalty(v): what sampling gives on average."""

    def mean(theta: jax.Array) -> jax.Array:
        lp = jax.nn.log_softmax(theta)
        old = jax.lax.stop_gradient(lp)
        return jnp.sum(jnp.exp(old) * penalty(lp - grid(REF), lp - old))

    return jax.jit(jax.grad(mean))(grid(THETA))


@pytest.mark.parametrize(
    ("estimator", "form", "want"),
    [
        (kl.k1, kl.plain, 0 * PI),  # Tunix's default for GRPO: no penalty at all
        (kl.k2, kl.plain, REVERSE),
        (kl.k3, kl.plain, FORWARD),
        (kl.k1, kl.weighted, REVERSE),
        (kl.k3, kl.weighted, REVERSE),
        (kl.k1, kl.corrected, REVERSE),
        (kl.k3, kl.corrected, REVERSE),
    ],
)
def test_expected_gradient_of_kl(estimator: kl.Estimator, form: kl.Form, want: np.ndarray) -> None:
    got = expected_gradient(kl.KLPenalty(beta=2.0, estimator=estimator, form=form))
    np.testing.assert_allclose(got, 2.0 * want, rtol=1e-4, atol=2e-6)


def test_kl_values() -> None:
    x = jnp.array([0.5, -0.5, 0.0, 3e-4])
    np.testing.assert_allclose(kl.k1(x), x)
    np.testing.assert_allclose(kl.k2(x), [0.125, 0.125, 0.0, 4.5e-8], rtol=1e-6)
    np.testing.assert_allclose(kl.k3(x), [0.1065307, 0.1487213, 0.0, 4.4995e-8], rtol=2e-5)
    value = kl.corrected(kl.k3, x, x)
    np.testing.assert_allclose(value, kl.k3(x), rtol=2e-5, atol=1e-12)
    far = kl.KLPenalty(beta=1.0, form=kl.plain, inside=20.0, outside=10.0)
    assert float(far(jnp.float32(-50.0), jnp.float32(0.0))) == 10.0
    assert float(far(jnp.float32(0.5), jnp.float32(0.0))) == pytest.approx(0.1065307, rel=1e-5)


def test_sequence_penalty() -> None:
    lp, ref = grid(np.full((2, 9), -1.0)), grid(np.full((2, 9), -1.5)).at[0, 8].set(jnp.nan)
    np.testing.assert_allclose(kl.sequence_penalty(lp, ref, WHERE), [1, 1.5, 0.5, 1.5, 0, 0])
    grad = jax.grad(lambda x: kl.sequence_penalty(x, ref, WHERE).sum())(lp)
    assert not np.asarray(grad).any()


@pytest.mark.parametrize(
    ("measured", "beta"), [(12.0, 0.2 * 1.00512), (6.6, 0.2 * 1.00256), (1.0, 0.2 * 0.99488)]
)
def test_adaptive_kl(measured: float, beta: float) -> None:
    # 256 samples of 10000: errors of 1, 0.1 and -0.83, within +-0.2.
    after = kl.AdaptiveKL(beta=0.2, target=6.0).step(jnp.float32(measured), 256.0)
    assert float(after.beta) == pytest.approx(beta, rel=1e-6)
    assert after.target == 6.0


# Log-probabilities in chunks.

N, D, V = 2, 4, 11
LENGTH = 7
HIDDEN = RNG.normal(0.0, 1.0, (N, LENGTH, D))
MATRIX = RNG.normal(0.0, 1.0, (D, V))
TOKEN = RNG.integers(0, V, (N, LENGTH))
HOW: dict[str, Any] = dict(scale=0.7, softcap=3.0, temperature=0.6)


def scores_loop(hidden: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    out = np.zeros((3, N, LENGTH))
    for i in range(N):
        for t in range(LENGTH):
            logit = 3.0 * np.tanh(0.7 * (hidden[i, t] @ matrix) / 3.0) / 0.6
            p = np.exp(logit) / np.exp(logit).sum()
            out[:, i, t] = np.log(p[TOKEN[i, t]]), -(p * np.log(p)).sum(), np.log((p * p).sum())
    return tuple(out)


WEIGHT = RNG.normal(0.0, 1.0, (3, N, LENGTH))


def weighted_loop(hidden: np.ndarray, matrix: np.ndarray) -> float:
    return float(sum((w * s).sum() for w, s in zip(WEIGHT, scores_loop(hidden, matrix))))


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_token_scores(chunk: int) -> None:
    def loss(hidden: jax.Array, matrix: jax.Array) -> tuple[jax.Array, Any]:
        s = logprobs.token_scores(hidden, matrix, jnp.asarray(TOKEN), chunk=chunk, **HOW)
        parts = (s.log_prob, s.entropy, s.log_collision)
        return sum((grid(w) * x).sum() for w, x in zip(WEIGHT, parts)), parts  # type: ignore

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, parts), (d_hidden, d_matrix) = run(grid(HIDDEN), grid(MATRIX))
    for got, want in zip(parts, scores_loop(HIDDEN, MATRIX)):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    for array, got in ((HIDDEN, d_hidden), (MATRIX, d_matrix)):
        for spot in [tuple(RNG.integers(0, array.shape)) for _ in range(6)]:
            values = []
            for h in (1e-5, -1e-5):
                moved = array.copy()
                moved[spot] += h
                values.append(
                    weighted_loop(moved, MATRIX)
                    if array is HIDDEN
                    else weighted_loop(HIDDEN, moved)
                )
            want = (values[0] - values[1]) / 2e-5
            assert float(got[spot]) == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_logits_of_a_whole_batch_never_exist() -> None:
    """Neither forward nor backward holds [tokens, V], seen in the program and in its memory."""
    rows, length, width, vocabulary, chunk = 2, 64, 8, 512, 8

    def loss(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
        token = jnp.zeros((rows, length), jnp.int32)
        s = logprobs.token_scores(hidden, matrix, token, chunk=chunk)
        return (s.log_prob - s.entropy).sum()

    shapes = (jnp.zeros((rows, length, width)), jnp.zeros((width, vocabulary)))
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    full = 4 * rows * length * vocabulary
    assert memory.temp_size_in_bytes < full


def test_bfloat16_is_summed_in_float32() -> None:
    got = logprobs.logits(
        jnp.ones((1, 4096), jnp.bfloat16) * 0.01, jnp.ones((4096, 2), jnp.bfloat16)
    )
    assert got.dtype == jnp.float32
    assert float(got[0, 0]) == pytest.approx(4096 * 0.010009765625, rel=1e-5)
    # The gradient of a float32 matrix adds up in float32, over 64 chunks of one.
    hidden = jnp.full((64, 1), 1.0 + 2**-7)

    def loss(matrix: jax.Array) -> jax.Array:
        token = jnp.zeros(64, jnp.int32)
        return logprobs.token_scores(
            hidden, matrix, token, chunk=1, dtype=jnp.bfloat16
        ).log_prob.sum()

    grad = jax.jit(jax.grad(loss))(jnp.zeros((1, 2)))
    assert grad.dtype == jnp.float32
    assert float(grad[0, 0]) == pytest.approx(32 * (1 + 2**-7), rel=1e-6)


def test_truncated_sampling_is_replayed() -> None:
    """Without the mass that top-k cut off, every ratio is wrong by it."""

    def top3(logit: jax.Array) -> jax.Array:
        return jnp.where(logit >= jnp.sort(logit)[..., -3:-2], logit, -jnp.inf)

    logit = HIDDEN @ MATRIX
    best = logit.argmax(-1)

    def loss(hidden: jax.Array) -> tuple[jax.Array, logprobs.Scores]:
        s = logprobs.token_scores(hidden, grid(MATRIX), jnp.asarray(best), chunk=3, transform=top3)
        return (s.log_prob + s.entropy + s.log_collision).sum(), s

    gradient, s = jax.jit(jax.grad(loss, has_aux=True))(grid(HIDDEN))
    kept = np.exp(np.sort(logit, -1)[..., -3:])
    p = kept / kept.sum(-1, keepdims=True)
    np.testing.assert_allclose(s.log_prob, np.log(p[..., -1]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(s.entropy, -(p * np.log(p)).sum(-1), rtol=1e-4)
    assert np.isfinite(gradient).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="transpose"):
        logprobs.token_scores(grid(HIDDEN), grid(MATRIX.T), jnp.asarray(TOKEN))
    with pytest.raises(ValueError, match="at least 1"):
        logprobs.token_scores(grid(HIDDEN), grid(MATRIX), jnp.asarray(TOKEN), chunk=0)


# SFT.


def test_sft() -> None:
    lp = RNG.normal(-2.0, 0.5, (2, 9))
    lp[~MASK] = np.nan
    value, gradient = jax.jit(jax.value_and_grad(sft.nll))(grid(lp), WHERE)
    assert float(value) == pytest.approx(-lp[MASK].mean(), rel=2e-5)
    np.testing.assert_allclose(gradient, np.where(MASK, -1 / 9, 0.0), rtol=1e-6)
    assert float(sft.nll(grid(lp), WHERE, count=18.0)) == pytest.approx(float(value) / 2)

    value, gradient = jax.jit(jax.value_and_grad(sft.dft))(grid(lp), WHERE)
    assert float(value) == pytest.approx(-(np.exp(lp) * lp)[MASK].mean(), rel=2e-5)
    np.testing.assert_allclose(
        gradient, np.where(MASK, -np.exp(np.where(MASK, lp, 0)) / 9, 0), rtol=1e-4
    )
    greedy = jnp.zeros((2, 9), int)
    token = jnp.asarray(~MASK).astype(int).at[0, 0].set(1)
    assert float(sft.accuracy(greedy, token, WHERE)) == pytest.approx(8 / 9)


# PPO on tokens.

SCORE = np.array([0.7, -20.0, 3.0, 0.25, 5.0, 5.0])
KL = RNG.normal(0.0, 0.5, (2, 9))
VALUE = RNG.normal(0.0, 1.0, (2, 9))


def rewards_loop(beta: float = 0.05, score_limit: float = np.inf, kl_limit: float = np.inf) -> Any:
    out = np.zeros((2, 9))
    for s, spots in enumerate(SPOTS):
        for spot in spots:
            out[spot] -= beta * np.clip(KL[spot], -kl_limit, kl_limit)
        if spots:
            out[spots[-1]] += np.clip(SCORE[s], -score_limit, score_limit)
    return out


def gae_loop(reward: np.ndarray, gamma: float, lam: float, last: np.ndarray) -> np.ndarray:
    out = np.zeros((2, 9))
    for s, spots in enumerate(SPOTS):
        for k, spot in enumerate(spots):  # as a sum over the future, not by recursion
            for j in range(k, len(spots)):
                after = VALUE[spots[j + 1]] if j + 1 < len(spots) else last[s]
                delta = reward[spots[j]] + gamma * after - VALUE[spots[j]]
                out[spot] += (gamma * lam) ** (j - k) * delta
    return out


def rubbish(x: np.ndarray) -> jax.Array:
    return grid(np.where(MASK, x, np.nan))


def test_token_rewards() -> None:
    got = ppo.token_rewards(grid(SCORE), rubbish(KL), WHERE, beta=0.05)
    np.testing.assert_allclose(got, rewards_loop(), rtol=2e-5, atol=1e-7)
    assert float(got[0, 1]) == pytest.approx(0.7 - 0.05 * KL[0, 1], rel=1e-5)  # not an integer
    got = ppo.token_rewards(
        grid(SCORE), rubbish(KL), WHERE, beta=0.05, score_limit=10.0, kl_limit=0.3
    )
    np.testing.assert_allclose(got, rewards_loop(0.05, 10.0, 0.3), rtol=2e-5, atol=1e-7)
    step = ppo.token_rewards(
        grid(SCORE), rubbish(KL), WHERE, beta=0.05, process=rubbish(0 * KL + 1)
    )
    np.testing.assert_allclose(step, rewards_loop() + MASK, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("last", [np.zeros(6), np.arange(6.0)], ids=["ended", "cut off"])
def test_gae(last: np.ndarray) -> None:
    reward = rewards_loop()
    gae = jax.jit(partial(ppo.gae, gamma=0.9, lam=0.8))
    advantage, target = gae(rubbish(reward), rubbish(VALUE), WHERE, last_value=grid(last))
    want = gae_loop(reward, 0.9, 0.8, last)
    np.testing.assert_allclose(advantage, want, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(target, np.where(MASK, want + VALUE, 0), rtol=2e-5, atol=2e-6)


def test_gae_by_hand() -> None:
    # gamma 1, lambda .5, V = 1 2 3, score 4: deltas 1, 1, 1; a tool's token lies in between.
    where = Layout(jnp.array([[True, True, False, True]]))
    reward, value = jnp.array([[0.0, 0, 9, 4]]), jnp.array([[1.0, 2, 9, 3]])
    advantage, target = ppo.gae(reward, value, where, lam=0.5)
    np.testing.assert_allclose(advantage, [[1.75, 1.5, 0, 1]])
    np.testing.assert_allclose(target, [[2.75, 3.5, 0, 4]])
    np.testing.assert_allclose(ppo.returns(reward, where, gamma=0.5), [[1, 2, 0, 4]])


def test_whiten() -> None:
    x = rubbish(KL)
    flat = KL[MASK]
    got = np.asarray(ppo.whiten(x, WHERE))
    want = (flat - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(got[MASK], want, rtol=2e-5, atol=1e-6)
    assert not got[~MASK].any()
    scaled = np.asarray(ppo.whiten(x, WHERE, ddof=0, eps=0.1, centre=False))
    np.testing.assert_allclose(scaled[MASK], flat / np.sqrt(flat.var() + 0.1), rtol=2e-5)


def value_loop(v: np.ndarray, target: np.ndarray, clip: float) -> float:
    total = 0.0
    for spot in [s for spots in SPOTS for s in spots]:
        kept = VALUE[spot] + min(max(v[spot] - VALUE[spot], -clip), clip)
        total += 0.5 * max((v[spot] - target[spot]) ** 2, (kept - target[spot]) ** 2)
    return total / 9


@pytest.mark.parametrize("clip", [0.2, 100.0])
def test_value_loss(clip: float) -> None:
    new, target = VALUE + RNG.normal(0, 0.4, (2, 9)), RNG.normal(0, 1, (2, 9))

    def loss(v: jax.Array) -> jax.Array:
        limit = None if clip == 100.0 else clip
        return ppo.value_loss(v, rubbish(VALUE), rubbish(target), WHERE, clip=limit)

    value, gradient = jax.jit(jax.value_and_grad(loss))(rubbish(new))
    assert float(value) == pytest.approx(value_loop(new, target, clip), rel=2e-5)
    for spot in np.ndindex(2, 9):
        up, down = new.copy(), new.copy()
        up[spot] += 1e-5
        down[spot] -= 1e-5
        want = (value_loop(up, target, clip) - value_loop(down, target, clip)) / 2e-5
        assert float(gradient[spot]) == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_dual_clip_by_hand() -> None:
    where = Layout(jnp.ones((1, 4), bool))
    loss = PolicyLoss(surrogate=surrogates.Clipped(dual=3.0))
    lp = jnp.log(jnp.array([[10.0, 2.0, 0.5, 10.0]]))
    advantage = jnp.array([[-1.0, -1.0, -1.0, 1.0]])

    def total(lp: jax.Array) -> jax.Array:
        return 4 * loss(lp, jnp.zeros((1, 4)), advantage, where)[0]

    value, gradient = jax.jit(jax.value_and_grad(total))(lp)
    assert float(value) == pytest.approx(3.0 + 2.0 + 0.8 - 1.2, rel=1e-6)
    np.testing.assert_allclose(gradient, [[0, 2, 0, 0]], atol=1e-6)


# Distillation.

STUDENT, TEACHER = RNG.normal(0, 1.5, (2, 5, V)), RNG.normal(0, 1.5, (2, 5, V))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def kl_loop(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * (np.log(p) - np.log(q))).sum(-1)


def jsd_loop(s: np.ndarray, t: np.ndarray, beta: float) -> np.ndarray:
    if beta == 0.0:
        return kl_loop(t, s)
    if beta == 1.0:
        return kl_loop(s, t)
    mixed = beta * t + (1 - beta) * s
    return beta * kl_loop(t, mixed) + (1 - beta) * kl_loop(s, mixed)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_distillation(beta: float) -> None:
    divergence: distillation.Divergence = {
        0.0: distillation.forward_kl,
        0.3: distillation.GeneralisedJSD(beta=0.3),
        1.0: distillation.reverse_kl,
    }[beta]

    @jax.jit
    def run(student: jax.Array, teacher: jax.Array) -> Any:
        def loss(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = distillation.token_divergence(
                divergence, lambda h: h / 2.0, lambda h: h / 2.0, student, teacher, chunk=2
            )
            return out.sum(), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(student, teacher)

    (d_student, d_teacher), out = run(grid(STUDENT), grid(TEACHER))
    want = jsd_loop(softmax(STUDENT / 2), softmax(TEACHER / 2), beta)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=1e-6)
    assert not np.asarray(d_teacher).any()
    for spot in [(0, 0, 0), (1, 4, 10), (1, 2, 5)]:
        values = []
        for h in (1e-5, -1e-5):
            moved = STUDENT.copy()
            moved[spot] += h
            values.append(jsd_loop(softmax(moved / 2), softmax(TEACHER / 2), beta).sum())
        assert float(d_student[spot]) == pytest.approx(
            (values[0] - values[1]) / 2e-5, rel=1e-4, abs=2e-6
        )


def test_distillation_allows_impossible_tokens() -> None:
    student = jax.nn.log_softmax(jnp.array([0.0, 1.0, -jnp.inf]))
    teacher = jax.nn.log_softmax(jnp.array([1.0, 0.0, -jnp.inf]))
    for divergence in (distillation.reverse_kl, distillation.GeneralisedJSD(beta=0.5)):
        value, gradient = jax.jit(jax.value_and_grad(divergence))(student, teacher)
        assert math.isfinite(float(value)) and float(value) > 0
        assert np.isfinite(gradient[:2]).all()
    with pytest.raises(ValueError, match="forward_kl"):
        distillation.GeneralisedJSD(beta=0.0)(student, teacher)
