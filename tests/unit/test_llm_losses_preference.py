"""Losses of preferences and of rewards against plain formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm.losses import divergence, dpo, kto, reference_free, reward
from jaxrl.llm.losses.aggregate import Layout, average
from jaxrl.llm.losses.dpo import Pairs

RNG = np.random.default_rng(11)
P = 6
C = RNG.normal(-9.0, 2.0, P)
R = RNG.normal(-9.0, 2.0, P)
REF_C = C + RNG.normal(0.0, 1.5, P)
REF_R = R + RNG.normal(0.0, 1.5, P)
N_C = np.array([4.0, 9.0, 3.0, 12.0, 7.0, 1.0])
N_R = np.array([6.0, 2.0, 3.0, 10.0, 8.0, 5.0])
B, E = 0.3, 0.15


def ls(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def smooth(x: float, e: float = E) -> float:
    return -(1 - e) * ls(x) - e * ls(-x)


def exo_loop(d: float) -> float:
    q = sig(B * d)
    return q * (math.log(q) - math.log(1 - E)) + (1 - q) * (math.log(1 - q) - math.log(E))


def discopop_loop(d: float) -> float:
    x = B * d
    s = sig(x / 0.05)
    return (1 - s) * -ls(x) + s * math.exp(-x)


def alpha_loop(x: float, a: float = 0.6) -> float:
    return (math.exp((a - 1) * x) - 1) / (a - 1)


def odds(mean: float) -> float:
    p = math.exp(mean)
    return math.log(p / (1 - p))


Pair = Callable[[float, float, float, float], float]  # l_c, l_r, n_c, n_r
Many = Callable[[np.ndarray, np.ndarray], float]  # sums of all pairs -> mean loss


def per_pair(pair: Pair, f: Callable[[float], float] = lambda x: x) -> Many:
    def loss(c: np.ndarray, r: np.ndarray) -> float:
        rows = [pair(f(c[i] - REF_C[i]), f(r[i] - REF_R[i]), N_C[i], N_R[i]) for i in range(P)]
        return sum(rows) / P

    return loss


def aot_loop(c: np.ndarray, r: np.ndarray) -> float:
    gaps = np.sort(c - r) - np.sort(REF_C - REF_R)
    return sum(smooth(B * x) for x in gaps) / P


def aot_unpaired_loop(c: np.ndarray, r: np.ndarray) -> float:
    return sum(smooth(B * x) for x in np.sort(c - REF_C) - np.sort(r - REF_R)) / P


def free(pair: Callable[[float, float], float], mean: bool) -> Many:
    """Of sums or of means, without a reference."""

    def loss(c: np.ndarray, r: np.ndarray) -> float:
        n, m = (N_C, N_R) if mean else (np.ones(P), np.ones(P))
        return sum(pair(c[i] / n[i], r[i] / m[i]) for i in range(P)) / P

    return loss


def alpha_po_loop(c: float, r: float) -> float:
    value = [(1 - math.exp(x) ** -0.4) / 0.4 for x in (c, r)]
    return -ls(2 * (value[0] - value[1]) - 0.5)


def chosen_nll_loop(c: np.ndarray, r: np.ndarray) -> float:
    return -c.sum() / N_C.sum()


MPO = ((0.8, partial(dpo.dpo, beta=B)), (0.2, partial(dpo.bco, beta=B)))
BOUND = dict(beta=B, smoothing=E)
Loss = Callable[[Pairs], jax.Array]


def means(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Loss:
    return lambda p: loss(p.chosen / p.chosen_length, p.rejected / p.rejected_length)


def under(f: Any) -> Loss:
    return lambda p: dpo.dpo(
        Pairs(p.chosen, p.rejected, p.ref_chosen, p.ref_rejected, p.chosen_length,
              p.rejected_length, divergence=f), B)  # fmt: skip


def plain(c: float, r: float, n: float, m: float) -> float:
    return -ls(B * (c - r))


METHODS: dict[str, tuple[Loss, Many]] = {
    "dpo": (partial(dpo.dpo, beta=B), per_pair(plain)),
    "cdpo": (partial(dpo.cdpo, **BOUND), per_pair(lambda c, r, n, m: smooth(B * (c - r)))),
    "robust": (
        partial(dpo.robust, **BOUND),
        per_pair(lambda c, r, n, m: (-(1 - E) * ls(B * (c - r)) + E * ls(-B * (c - r)))
                 / (1 - 2 * E)),
    ),
    "hinge": (partial(dpo.hinge, beta=B), per_pair(lambda c, r, n, m: max(0, 1 - B * (c - r)))),
    "ipo": (partial(dpo.ipo, beta=B), per_pair(lambda c, r, n, m: (c - r - 1 / (2 * B)) ** 2)),
    "ipo_mean": (
        partial(dpo.ipo_mean, beta=B),
        per_pair(lambda c, r, n, m: (c / n - r / m - 1 / (2 * B)) ** 2),
    ),
    "dpo_mean": (
        partial(dpo.dpo_mean, beta=B), per_pair(lambda c, r, n, m: -ls(B * (c / n - r / m)))),
    "r_dpo": (
        partial(dpo.r_dpo, beta=B, alpha=0.2),
        per_pair(lambda c, r, n, m: -ls(B * (c - r) + 0.2 * (n - m))),
    ),
    "exo": (partial(dpo.exo, **BOUND), per_pair(lambda c, r, n, m: exo_loop(c - r))),
    "nca": (
        partial(dpo.nca, beta=B),
        per_pair(lambda c, r, n, m: -ls(B * c) - ls(-B * c) / 2 - ls(-B * r) / 2),
    ),
    "bco": (partial(dpo.bco, beta=B), per_pair(lambda c, r, n, m: -ls(B * c) - ls(-B * r))),
    "bco shifted": (
        partial(dpo.bco, beta=B, shift=0.4),
        per_pair(lambda c, r, n, m: -ls(B * c - 0.4) - ls(-(B * r - 0.4))),
    ),
    "sppo": (
        partial(dpo.sppo, beta=B),
        per_pair(lambda c, r, n, m: (c - 0.5 / B) ** 2 + (r + 0.5 / B) ** 2),
    ),
    "apo_zero": (
        partial(dpo.apo_zero, beta=B), per_pair(lambda c, r, n, m: 1 - sig(B * c) + sig(B * r))),
    "apo_down": (
        partial(dpo.apo_down, beta=B),
        per_pair(lambda c, r, n, m: sig(B * c) + 1 - sig(B * (c - r))),
    ),
    "aot": (partial(dpo.aot, **BOUND), aot_loop),
    "aot_unpaired": (partial(dpo.aot_unpaired, **BOUND), aot_unpaired_loop),
    "discopop": (partial(dpo.discopop, beta=B), per_pair(lambda c, r, n, m: discopop_loop(c - r))),
    "mixture": (
        partial(dpo.mixture, parts=MPO),
        per_pair(lambda c, r, n, m: -0.8 * ls(B * (c - r)) + 0.2 * (-ls(B * c) - ls(-B * r))),
    ),
    "chosen_nll": (lambda p: dpo.chosen_nll(p)[None], chosen_nll_loop),
    "forward_kl": (under(divergence.forward_kl), per_pair(plain, lambda x: 1 - math.exp(-x))),
    "jensen_shannon": (
        under(divergence.jensen_shannon), per_pair(plain, lambda x: math.log(2) + ls(x))),
    "alpha": (under(divergence.Alpha(a=0.6)), per_pair(plain, alpha_loop)),
    "alpha at 1": (under(divergence.Alpha(a=1.0)), per_pair(plain)),
    "cpo": (
        lambda p: reference_free.cpo(p.chosen, p.rejected, **BOUND),
        free(lambda c, r: smooth(B * (c - r)), mean=False),
    ),
    "simpo": (
        means(partial(reference_free.simpo, beta=2.0, gamma=0.5, smoothing=E)),
        free(lambda c, r: smooth(2.0 * (c - r) - 0.5), mean=True),
    ),
    "alpha_po": (
        means(partial(reference_free.alpha_po, alpha=0.4)), free(alpha_po_loop, mean=True)),
    "orpo": (
        means(reference_free.orpo), free(lambda c, r: -ls(odds(c) - odds(r)), mean=True)),
}  # fmt: skip


def pairs(rows: slice = slice(None), **changes: Any) -> Pairs:
    arrays = dict(chosen=C, rejected=R, ref_chosen=REF_C, ref_rejected=REF_R,
                  chosen_length=N_C, rejected_length=N_R)  # fmt: skip
    return Pairs(**{**{k: jnp.asarray(v[rows], jnp.float32) for k, v in arrays.items()}, **changes})


Results = dict[str, tuple[jax.Array, tuple[jax.Array, jax.Array]]]


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    @jax.jit
    def evaluate(c: jax.Array, r: jax.Array) -> Results:
        def run(method: Loss) -> Any:
            def loss(c: jax.Array, r: jax.Array) -> jax.Array:
                return average(method(pairs(chosen=c, rejected=r)))

            return jax.value_and_grad(loss, argnums=(0, 1))(c, r)

        return {name: run(method) for name, (method, _) in METHODS.items()}

    yield evaluate(jnp.asarray(C, jnp.float32), jnp.asarray(R, jnp.float32))


def slopes(loop: Many) -> np.ndarray:
    out = np.zeros((2, P))
    for side in range(2):
        for i in range(P):
            values = []
            for h in (1e-5, -1e-5):
                moved = [C.copy(), R.copy()]
                moved[side][i] += h
                values.append(loop(*moved))
            out[side, i] = (values[0] - values[1]) / 2e-5
    return out


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient(name: str, results: Results) -> None:
    loop = METHODS[name][1]
    value, gradient = results[name]
    assert float(value) == pytest.approx(loop(C, R), rel=2e-5)
    want = slopes(loop)
    np.testing.assert_allclose(np.stack(gradient), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_no_gradient_reaches_the_reference() -> None:
    def loss(ref: jax.Array) -> jax.Array:
        return dpo.dpo(pairs(ref_chosen=ref)).sum() + dpo.aot(pairs(ref_chosen=ref)).sum()

    assert not np.asarray(jax.grad(loss)(jnp.asarray(REF_C))).any()


@pytest.mark.parametrize("name", ["dpo", "robust", "nca", "r_dpo"])
def test_parts_add_up(name: str, results: Results) -> None:
    method = METHODS[name][0]
    parts = [average(method(pairs(slice(i, i + 2))), count=P) for i in range(0, P, 2)]
    assert float(sum(parts)) == pytest.approx(float(results[name][0]), rel=2e-5)


def test_average_leaves_out_filler() -> None:
    got = average(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True]))
    assert float(got) == 2.0


def test_smoothing_is_not_ignored() -> None:
    """TRL's `sigmoid` ignores label_smoothing. beta d = 0: all the same, elsewhere not."""
    d = pairs(chosen=jnp.full(P, 2.0), rejected=jnp.zeros(P), ref_chosen=jnp.zeros(P),
              ref_rejected=jnp.zeros(P))  # fmt: skip
    got = dpo.cdpo(d, beta=1.0, smoothing=0.1)[0]
    assert float(got) == pytest.approx(0.9 * 0.126928 + 0.1 * 2.126928, rel=1e-5)
    assert float(dpo.dpo(d, beta=1.0)[0]) == pytest.approx(0.126928, rel=1e-5)


def test_r_dpo_shortens() -> None:
    """Both orders preferred equally often: the optimum has beta d = -alpha (n_long - n_short)."""

    def both(d: jax.Array) -> jax.Array:
        zero = jnp.zeros(1)
        long, short = jnp.full(1, 30.0), jnp.full(1, 10.0)
        one = Pairs(d[None], zero, zero, zero, long, short)
        two = Pairs(zero, d[None], zero, zero, short, long)
        return (dpo.r_dpo(one, 0.5, 0.02) + dpo.r_dpo(two, 0.5, 0.02))[0]

    best = -0.02 * 20 / 0.5
    slope = jax.jit(jax.grad(both))
    assert float(slope(jnp.array(best))) == pytest.approx(0.0, abs=1e-6)
    assert float(slope(jnp.array(0.0))) > 0.01  # towards a less likely long answer


def test_alpha_divergence_takes_every_type_and_size() -> None:
    """TRL raises a KeyError in float64 and needs its limit in float32."""
    alpha = jax.jit(divergence.Alpha(a=3.0))
    assert np.isfinite(alpha(jnp.array([200.0]))).all()
    assert alpha(jnp.array([0.5], jnp.bfloat16)).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        got = alpha(jnp.array([0.5], jnp.float64))
        assert got.dtype == jnp.float64
        assert float(got[0]) == pytest.approx((math.exp(1.0) - 1) / 2, rel=1e-12)


def test_orpo_odds_do_not_underflow() -> None:
    """EasyDeL takes the logarithm of a sigmoid, -inf for very negative odds."""

    def loss(c: jax.Array) -> jax.Array:
        return reference_free.orpo(c, jnp.array([-1e-9, -0.5, 0.0, -120.0]))[:].sum()

    c = jnp.array([-150.0, -200.0, -150.0, 0.0])
    value, gradient = jax.jit(jax.value_and_grad(loss))(c)
    assert np.isfinite(float(value)) and np.isfinite(gradient).all()
    single = reference_free.orpo(jnp.array([-200.0]), jnp.array([-0.5]))
    want = 200.0 + odds(-0.5)  # -ls of very negative log-odds is their size
    assert float(single[0]) == pytest.approx(want, rel=1e-6)


def test_orpo_takes_means() -> None:
    """Sums (Tunix) lose the odds: for long answers only a plain ratio is left."""
    c, r = np.array([-20.0]), np.array([-30.0])
    mean = reference_free.orpo(jnp.asarray(c / 40), jnp.asarray(r / 40))
    assert float(mean[0]) == pytest.approx(-ls(odds(-0.5) - odds(-0.75)), rel=1e-5)
    total = reference_free.orpo(jnp.asarray(c), jnp.asarray(r))
    assert float(total[0]) == pytest.approx(-ls(10.0), rel=1e-3)


@pytest.mark.parametrize("x", [-1e-6, -1e-3, -0.5, -0.7, -5.0, -20.0])
def test_log1mexp(x: float) -> None:
    x = float(np.float32(x))
    want = math.log(-math.expm1(x)) if x > -0.7 else math.log1p(-math.exp(x))
    got = float(reference_free.log1mexp(jnp.float32(x)))
    assert got == pytest.approx(want, rel=1e-5, abs=0.0)


WHERE = Layout(
    jnp.array([[0, 1, 1, 1, 0, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1, 0, 1, 1, 1]], bool),
    jnp.array([[1, 1, 1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2]]),
    per_row=2,
)


def test_length_desensitised() -> None:
    lp = jnp.arange(1.0, 21.0).reshape(2, 10)
    # Rows of tokens: 2 3 4 | 6 7 and 12 14 15 16 | 18 19 20.
    got = jax.jit(divergence.length_desensitised)(lp, WHERE, jnp.array([2.0, 3.0, 1.0, 9.0]), 0.5)
    np.testing.assert_allclose(got, [2 + 3 + 2, 13, 12 + 0.5 * 45, 57])


def test_pairs_from_tokens() -> None:
    """Packed chosen answers against padded rejected ones; prompts and padding are left out."""
    lp = RNG.normal(-1.0, 0.3, (4, 2, 10))
    mask = np.asarray(WHERE.mask)
    padded = Layout(jnp.asarray(np.repeat(mask, 2, axis=0)))
    other = np.repeat(lp[2:], 2, axis=1)  # [2, 4, 10]
    pairs = jax.jit(dpo.from_tokens)(
        *[jnp.asarray(np.where(mask, x, np.nan)) for x in lp[:2]], WHERE,
        *[jnp.asarray(np.where(padded.mask, x, np.nan)) for x in other], padded,
    )  # fmt: skip
    spots = [(0, [1, 2, 3]), (0, [5, 6]), (1, [1, 3, 4, 5]), (1, [7, 8, 9])]
    for i, (row, at) in enumerate(spots):
        got = [float(getattr(pairs, name)[i]) for name in ("chosen", "ref_chosen")]
        np.testing.assert_allclose(got, lp[:2, row, at].sum(-1), rtol=2e-5)
        got = [float(getattr(pairs, name)[i]) for name in ("rejected", "ref_rejected")]
        np.testing.assert_allclose(got, lp[2:, row][:, mask[row]].sum(-1), rtol=2e-5)
        assert float(pairs.chosen_length[i]) == len(at)
        assert float(pairs.rejected_length[i]) == mask[row].sum()


def test_policy_weight() -> None:
    lp = jnp.full((2, 10), -1.0).at[0, 1].set(-4.0)
    collision = jnp.full((2, 10), -0.5).at[:, 0].set(jnp.nan)
    got = jax.jit(divergence.policy_weight)(lp, collision, WHERE)
    np.testing.assert_allclose(got, np.exp([-(3.5 + 0.5 + 0.5) / 3, -0.5, -0.5, -0.5]), rtol=1e-6)


# KTO.

GOOD = np.array([True, False, True, True, False, False])
L_KTO = C - REF_C


def kto_loop(x: np.ndarray, z: float) -> float:
    terms = [
        1.5 * (1 - sig(B * (v - z))) if good else 0.7 * (1 - sig(B * (z - v)))
        for v, good in zip(x, GOOD)
    ]
    return sum(terms) / P


def test_kto() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return average(kto.kto(x, jnp.asarray(GOOD), 0.3, B, 1.5, 0.7))

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(L_KTO))
    assert float(value) == pytest.approx(kto_loop(L_KTO, 0.3), rel=2e-5)
    for i in range(P):
        up, down = L_KTO.copy(), L_KTO.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        want = (kto_loop(up, 0.3) - kto_loop(down, 0.3)) / 2e-5
        assert float(gradient[i]) == pytest.approx(want, rel=1e-4)


def test_kto_reference_point() -> None:
    policy, ref = jnp.array([-3.0, -5.0, jnp.nan]), jnp.array([-4.0, -5.5, 0.0])
    valid = jnp.array([True, True, False])
    assert float(kto.reference_point(policy, ref, valid)) == pytest.approx(0.75)
    assert float(kto.reference_point(ref[:2], policy[:2])) == 0.0  # never negative
    grad = jax.grad(lambda x: kto.reference_point(x, ref[:2]))(policy[:2])
    assert not np.asarray(grad).any()


def test_kto_pairs_with_the_row_before() -> None:
    np.testing.assert_array_equal(kto.mismatched(jnp.arange(4)), [3, 0, 1, 2])
    with pytest.raises(ValueError, match="at least 2 rows"):
        kto.mismatched(jnp.zeros((1, 5)))


def test_unpaired_relatives() -> None:
    x, good = jnp.asarray(L_KTO), jnp.asarray(GOOD)
    zero = [1 - sig(B * v) if g else sig(B * v) for v, g in zip(L_KTO, GOOD)]
    np.testing.assert_allclose(kto.apo_zero_unpaired(x, good, B), zero, rtol=2e-5)
    bco = [-ls(B * v - 0.2) if g else -ls(0.2 - B * v) for v, g in zip(L_KTO, GOOD)]
    np.testing.assert_allclose(kto.bco_unpaired(x, good, 0.2, B), bco, rtol=2e-5)


# Reward models.


def test_bradley_terry() -> None:
    c, r, m = np.array([1.0, -0.5, 2.0]), np.array([0.2, 0.4, -1.0]), np.array([0.0, 0.5, 1.0])

    def loss(c: jax.Array) -> jax.Array:
        return reward.bradley_terry(c, jnp.asarray(r), margin=jnp.asarray(m), centring=0.01)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(c))
    want = [-ls(a - b - k) + 0.01 * (a + b) ** 2 for a, b, k in zip(c, r, m)]
    slope = [(-sig(-(a - b - k)) + 0.02 * (a + b)) / 3 for a, b, k in zip(c, r, m)]
    assert float(value) == pytest.approx(np.mean(want), rel=2e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)
    plain = reward.bradley_terry(jnp.asarray(c), jnp.asarray(r))
    assert float(reward.log_exp(jnp.asarray(c), jnp.asarray(r))) == pytest.approx(float(plain))


def test_outcome_and_process() -> None:
    score, label = np.array([2.0, -1.0, 40.0]), np.array([1.0, 1.0, 0.0])
    want = [-y * ls(s) - (1 - y) * ls(-s) for s, y in zip(score, label)]
    got = reward.outcome(jnp.asarray(score), jnp.asarray(label))
    assert float(got) == pytest.approx(np.mean(want), rel=2e-5)

    ends = Layout(jnp.array([[False, True, False, True], [True, False, False, False]]))
    grid = jnp.array([[jnp.nan, 2.0, 0.0, -1.0], [40.0, 9.0, 9.0, jnp.inf]])
    marks = jnp.array([[jnp.nan, 1.0, 0.0, 1.0], [0.0, 9.0, 9.0, 9.0]])
    value, gradient = jax.jit(jax.value_and_grad(reward.process))(grid, marks, ends)
    assert float(value) == pytest.approx(np.mean(want), rel=2e-5)
    np.testing.assert_allclose(
        np.asarray(gradient)[np.asarray(ends.mask)],
        [(sig(s) - y) / 3 for s, y in zip(score, label)], rtol=1e-4)  # fmt: skip
    assert not np.asarray(gradient)[~np.asarray(ends.mask)].any()


def test_last_score() -> None:
    got = jax.jit(reward.last_score)(jnp.arange(20.0).reshape(2, 10), WHERE)
    np.testing.assert_array_equal(got, [3, 6, 15, 19])


def test_a_tie_is_half_right() -> None:
    got = reward.preference_accuracy(jnp.array([1.0, 0.0, 2.0]), jnp.array([0.0, 0.0, 3.0]))
    assert float(got) == 0.5
    watched = dpo.implicit_rewards(pairs(chosen=jnp.asarray(REF_C), rejected=jnp.asarray(REF_R)))
    assert float(watched["reward/accuracy"]) == 0.5 and float(watched["reward/margin"]) == 0.0
