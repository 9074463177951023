"""GRPO and its relatives against plain loops in float64, however the batch is cut or packed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm.losses import aggregate, grpo, kl, ratios, surrogates
from jaxrl.llm.losses.aggregate import Layout
from jaxrl.llm.losses.grpo import PolicyLoss

RNG = np.random.default_rng(7)
S, L = 8, 6
MASK = np.array(
    [
        [0, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1, 1],  # a tool's output in the middle
        [0, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],  # nothing counts
        [0, 0, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
    ]
)
OLD = RNG.normal(-1.5, 0.5, (S, L))
LP = OLD + RNG.normal(0.0, 0.35, (S, L))
REF = OLD + RNG.normal(0.0, 0.3, (S, L))
SMP = OLD + RNG.normal(0.0, 0.4, (S, L))
ENT = RNG.uniform(0.1, 2.0, (S, L))
ADV = np.array([1.3, -0.7, 0.4, -1.6, 0.9, 0.8, -0.5, 2.1])
TOKEN_ADV = RNG.normal(0.0, 1.0, (S, L))
LIMIT = 9.0
KEEP = RNG.uniform(size=(S, L)) < 0.7


# The other side: loops over tokens. `now` moves, `at` is the same array behind a stop-gradient.

Loop = Callable[[np.ndarray, np.ndarray], float]


def spots(i: int) -> list[int]:
    return [t for t in range(L) if MASK[i, t]]


FULL = [i for i in range(S) if MASK[i].any()]
TOKENS = int(MASK.sum())


def gap(now: np.ndarray, i: int) -> list[float]:
    return [float(now[i, t] - OLD[i, t]) for t in spots(i)]


def clipped(r: float, a: float, low: float, high: float) -> float:
    inside = 1 - low if r < 1 - low else 1 + high if r > 1 + high else r
    return -min(r * a, inside * a)


def token_losses(now: np.ndarray, low: float, high: float) -> dict[int, list[float]]:
    return {i: [clipped(math.exp(x), ADV[i], low, high) for x in gap(now, i)] for i in FULL}


def grpo_loop(now: np.ndarray, at: np.ndarray) -> float:
    rows = token_losses(now, 0.2, 0.2)
    return sum(sum(v) / len(v) for v in rows.values()) / len(FULL)


def grpo_empty_loop(now: np.ndarray, at: np.ndarray) -> float:
    return grpo_loop(now, at) * len(FULL) / S


def dapo_loop(now: np.ndarray, at: np.ndarray) -> float:
    return sum(sum(v) for v in token_losses(now, 0.2, 0.28).values()) / TOKENS


def dr_grpo_loop(now: np.ndarray, at: np.ndarray) -> float:
    return sum(sum(v) for v in token_losses(now, 0.2, 0.2).values()) / (S * LIMIT)


def constant_loop(now: np.ndarray, at: np.ndarray) -> float:
    return sum(sum(v) for v in token_losses(now, 0.2, 0.2).values()) / 11.0


def dual_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        for x in gap(now, i):
            loss = clipped(math.exp(x), ADV[i], 0.2, 0.2)
            total += min(loss, -1.3 * ADV[i]) if ADV[i] < 0 else loss
    return total / TOKENS


def two_sided_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        for x in gap(now, i):
            r = math.exp(x)
            inside = min(max(r, 0.8), 1.2)
            total -= min(min(r, 1.4) * ADV[i], inside * ADV[i])
    return total / TOKENS


def token_advantage_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        for t in spots(i):
            total += clipped(math.exp(now[i, t] - OLD[i, t]), TOKEN_ADV[i, t], 0.2, 0.2)
    return total / TOKENS


def rloo_loop(now: np.ndarray, at: np.ndarray) -> float:
    return sum(clipped(math.exp(sum(gap(now, i))), ADV[i], 0.2, 0.2) for i in FULL) / len(FULL)


def gspo_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        x = gap(now, i)
        total += clipped(math.exp(sum(x) / len(x)), ADV[i], 0.1, 0.15)
    return total / len(FULL)


def luspo_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        x = gap(now, i)
        total += len(x) * clipped(math.exp(sum(x) / len(x)), ADV[i], 0.1, 0.15)
    return total / len(FULL)


def gspo_token_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        fixed = gap(at, i)
        mean = sum(fixed) / len(fixed)
        row = 0.0
        for t in spots(i):
            ratio = math.exp(mean + now[i, t] - at[i, t])
            row += clipped(ratio, TOKEN_ADV[i, t], 0.1, 0.15)
        total += row / len(fixed)
    return total / len(FULL)


def cispo_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        for t in spots(i):
            weight = min(math.exp(at[i, t] - OLD[i, t]), 1.25)
            total -= weight * ADV[i] * now[i, t]
    return total / TOKENS


def sapo_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        tau = 1.0 if ADV[i] > 0 else 1.05
        row = [1 / (1 + math.exp(-tau * (math.exp(x) - 1))) for x in gap(now, i)]
        total -= ADV[i] * 4 / tau * sum(row) / len(row)
    return total / len(FULL)


def vespo_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        w = min(max(math.exp(sum(gap(at, i))), 1e-8), math.exp(20))
        k, lam = (2.0, 3.0) if ADV[i] > 0 else (3.0, 2.0)
        weight = w**k * math.exp(lam * (1 - w))
        total -= sum(weight * ADV[i] * now[i, t] for t in spots(i))
    return total / TOKENS


def gmpo_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        x = [min(v, 0.3) if ADV[i] > 0 else max(v, -0.3) for v in gap(now, i)]
        total -= ADV[i] * math.exp(sum(x) / len(x))
    return total / len(FULL)


def reinforce_loop(now: np.ndarray, at: np.ndarray) -> float:
    return sum(-ADV[i] * sum(now[i, t] for t in spots(i)) for i in FULL) / len(FULL)


def penalty_loop(beta: float, term: Callable[[float, float, float], float]) -> Loop:
    """`dapo_loop` plus a penalty of (x, x behind a stop-gradient, log-ratio)."""

    def loss(now: np.ndarray, at: np.ndarray) -> float:
        total = 0.0
        for i in FULL:
            for t in spots(i):
                x, x0 = now[i, t] - REF[i, t], at[i, t] - REF[i, t]
                total += beta * term(float(x), float(x0), float(now[i, t] - OLD[i, t]))
        return dapo_loop(now, at) + total / TOKENS

    return loss


def k3_loop(x: float) -> float:
    return math.exp(-x) - 1 + x


def truncated_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        for t in spots(i):
            weight = min(math.exp(OLD[i, t] - SMP[i, t]), 1.2)
            total += weight * clipped(math.exp(now[i, t] - OLD[i, t]), ADV[i], 0.2, 0.28)
    return total / TOKENS


def masked_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        w = math.exp(sum(OLD[i, t] - SMP[i, t] for t in spots(i)))
        w = w if 0.4 <= w <= 1.5 else 0.0
        total += w * sum(clipped(math.exp(x), ADV[i], 0.2, 0.28) for x in gap(now, i))
    return total / TOKENS


def kept_loop(now: np.ndarray, at: np.ndarray) -> float:
    total = 0.0
    for i in FULL:
        for t in spots(i):
            if KEEP[i, t]:
                total += clipped(math.exp(now[i, t] - OLD[i, t]), ADV[i], 0.2, 0.28)
                total -= 0.1 * ENT[i, t]
    return total / TOKENS


def entropy_loop(now: np.ndarray, at: np.ndarray) -> float:
    """The bonus is a token mean, whatever the aggregate of the rest."""
    bonus = sum(ENT[i, t] for i in FULL for t in spots(i)) / TOKENS
    return grpo_loop(now, at) - 0.1 * bonus


KLP = kl.KLPenalty


def with_kl(**kwargs: Any) -> PolicyLoss:
    surrogate = surrogates.Clipped(low=0.2, high=0.28)
    return PolicyLoss(surrogate=surrogate, kl=KLP(beta=0.3, **kwargs))


def corrected(**kwargs: Any) -> PolicyLoss:
    return PolicyLoss(surrogate=surrogates.Clipped(low=0.2, high=0.28), **kwargs)


# name: the loss, its loop, which optional arrays it gets.
METHODS: dict[str, tuple[PolicyLoss, Loop, str]] = {
    "grpo": (grpo.grpo(), grpo_loop, ""),
    "grpo with empty rows": (
        PolicyLoss(aggregate=aggregate.BySequence(empty=True)), grpo_empty_loop, ""),
    "dr_grpo": (grpo.dr_grpo(LIMIT), dr_grpo_loop, ""),
    "constant": (PolicyLoss(aggregate=aggregate.ByConstant(constant=11.0)), constant_loop, ""),
    "dapo": (grpo.dapo(), dapo_loop, ""),
    "dual": (grpo.ppo_clip(dual=1.3), dual_loop, ""),
    "two-sided": (PolicyLoss(surrogate=surrogates.Clipped(delta=1.4)), two_sided_loop, ""),
    "token advantages": (grpo.reinforce_plus_plus(), token_advantage_loop, "token"),
    "rloo": (grpo.rloo(), rloo_loop, ""),
    "gspo": (grpo.gspo(0.1, 0.15), gspo_loop, ""),
    "gspo_token": (grpo.gspo_token(0.1, 0.15), gspo_token_loop, "token"),
    "luspo": (grpo.luspo(0.1, 0.15), luspo_loop, ""),
    "cispo": (grpo.cispo(1.25), cispo_loop, ""),
    "sapo": (grpo.sapo(), sapo_loop, ""),
    "vespo": (grpo.vespo(), vespo_loop, ""),
    "gmpo": (grpo.gmpo(0.3), gmpo_loop, ""),
    "reinforce": (grpo.reinforce(), reinforce_loop, ""),
    "k1": (with_kl(estimator=kl.k1, form=kl.plain), penalty_loop(0.3, lambda x, x0, r: x), "ref"),
    "k2": (with_kl(estimator=kl.k2, form=kl.plain),
           penalty_loop(0.3, lambda x, x0, r: x * x / 2), "ref"),
    "k3": (with_kl(form=kl.plain), penalty_loop(0.3, lambda x, x0, r: k3_loop(x)), "ref"),
    "k3 weighted": (with_kl(form=kl.weighted),
                    penalty_loop(0.3, lambda x, x0, r: math.exp(r) * k3_loop(x)), "ref"),
    "k3 corrected": (with_kl(form=kl.corrected),
                     penalty_loop(0.3, lambda x, x0, r: k3_loop(x0) + (x * x - x0 * x0) / 2),
                     "ref"),
    "k3 clamped": (with_kl(form=kl.plain, inside=0.4, outside=0.05),
                   penalty_loop(0.3, lambda x, x0, r: min(k3_loop(min(max(x, -0.4), 0.4)), 0.05)),
                   "ref"),
    "truncated": (corrected(correction=ratios.Truncated(cap=1.2)), truncated_loop, "sampler"),
    "masked": (corrected(correction=ratios.Masked(low=0.4, high=1.5, level=ratios.product)),
               masked_loop, "sampler"),
    "kept": (corrected(entropy=0.1), kept_loop, "entropy keep"),
    "entropy": (PolicyLoss(aggregate=aggregate.BySequence(), entropy=0.1), entropy_loop,
                "entropy"),
}  # fmt: skip

Arrays = dict[str, Any]
ARRAYS: Arrays = {"lp": LP, "old": OLD, "ref": REF, "sampler": SMP, "entropy": ENT, "keep": KEEP,
                  "advantage": ADV, "token_advantage": TOKEN_ADV, "mask": MASK > 0,
                  "segment": np.ones((S, L), int)}  # fmt: skip


def cut(arrays: Arrays, rows: slice) -> Arrays:
    return {k: v[rows] for k, v in arrays.items()}


def pack(arrays: Arrays) -> Arrays:
    """Two sequences a row with padding between and after them; NaN wherever nothing counts."""

    def join(x: np.ndarray) -> np.ndarray:
        if x.ndim == 1:
            return x
        if x.dtype == float:
            x = np.where(arrays["mask"], x, np.nan)
        hole = np.full((S // 2, 2), np.nan if x.dtype == float else 0, x.dtype)
        return np.concatenate([x[0::2], hole, x[1::2], hole], axis=1)

    second = np.where(np.arange(S)[:, None] % 2, 2, 1) * arrays["segment"]
    return {k: join(v) for k, v in {**arrays, "segment": second}.items()}


def layout(arrays: Arrays) -> Layout:
    segments = arrays["segment"]
    packed = segments.shape[1] != L
    return Layout(arrays["mask"], segments if packed else None, per_row=2 if packed else 1)


def arguments(arrays: Arrays, wants: str) -> Arrays:
    return {k: arrays[k] for k in ("ref", "sampler", "entropy", "keep") if k in wants}


@jax.jit
def evaluate(arrays: Arrays, counts: Arrays) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Loss and gradient of all methods, in one program."""
    where = layout(arrays)

    def run(name: str) -> tuple[jax.Array, jax.Array]:
        method, _, wants = METHODS[name]
        advantage = arrays["token_advantage" if "token" in wants else "advantage"]

        def loss(lp: jax.Array) -> jax.Array:
            return method(
                lp, arrays["old"], advantage, where, **arguments(arrays, wants),
                count=counts[name], tokens=counts["tokens"],
            )[0]  # fmt: skip

        return jax.value_and_grad(loss)(arrays["lp"])

    return {name: run(name) for name in METHODS}


def f32(arrays: Arrays) -> Arrays:
    return {k: jnp.asarray(v) for k, v in arrays.items()}


def count(arrays: Arrays) -> Arrays:
    where = layout(arrays)
    counts = {name: m[0].aggregate.count(where) for name, m in METHODS.items()}
    return {**counts, "tokens": aggregate.ByToken().count(where)}


COUNTS = count(f32(ARRAYS))


@pytest.fixture(scope="module")
def whole() -> Iterator[dict[str, tuple[jax.Array, jax.Array]]]:
    yield evaluate(f32(ARRAYS), {**COUNTS})


def slope(loop: Loop) -> np.ndarray:
    out = np.zeros((S, L))
    for i in range(S):
        for t in range(L):
            up, down = LP.copy(), LP.copy()
            up[i, t] += 1e-5
            down[i, t] -= 1e-5
            out[i, t] = (loop(up, LP) - loop(down, LP)) / 2e-5
    return out


def same(got: Any, want: Any) -> None:
    got, want = np.asarray(got), np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(np.abs(want).max(), 1e-3))


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient(name: str, whole: dict[str, tuple[jax.Array, jax.Array]]) -> None:
    loop = METHODS[name][1]
    loss, gradient = whole[name]
    assert float(loss) == pytest.approx(loop(LP, LP), rel=2e-5)
    same(gradient, slope(loop))
    assert not np.asarray(gradient)[MASK == 0].any()


@pytest.mark.parametrize("size", [4, 1])
def test_parts_add_up(size: int, whole: dict[str, tuple[jax.Array, jax.Array]]) -> None:
    parts = [cut(ARRAYS, slice(i, i + size)) for i in range(0, S, size)]
    total = jax.tree.map(lambda *x: sum(x), *[count(f32(p)) for p in parts])
    out = [evaluate(f32(part), total) for part in parts]
    for name in METHODS:
        if name == "constant":
            assert float(total[name]) == len(parts)  # nobody divides by it
        loss = sum(float(part[name][0]) for part in out)
        assert loss == pytest.approx(float(whole[name][0]), rel=2e-5), name
        same(np.concatenate([part[name][1] for part in out]), whole[name][1])


def test_packing_changes_nothing(whole: dict[str, tuple[jax.Array, jax.Array]]) -> None:
    arrays = f32(pack(ARRAYS))
    counted = count(arrays)
    for name in METHODS:
        assert float(counted[name]) == float(COUNTS[name]), name
    out = evaluate(arrays, counted)
    for name in METHODS:
        loss, gradient = out[name]
        assert float(loss) == pytest.approx(float(whole[name][0]), rel=2e-5), name
        gradient = np.asarray(gradient)
        apart = np.empty((S, L), np.float32)
        apart[0::2], apart[1::2] = gradient[:, :L], gradient[:, L + 2 : 2 * L + 2]
        same(apart, whole[name][1])
        assert not gradient[:, L : L + 2].any()  # not NaN either


def test_devices_change_nothing() -> None:
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    methods = [grpo.grpo(), grpo.dapo(), grpo.gspo(0.1, 0.15), grpo.dr_grpo(LIMIT)]

    @jax.jit
    def run(lp: jax.Array, old: jax.Array, advantage: jax.Array, mask: jax.Array) -> Any:
        def losses(lp: jax.Array) -> jax.Array:
            return jnp.stack([m(lp, old, advantage, Layout(mask))[0] for m in methods])

        return losses(lp), jax.jacrev(losses)(lp)

    arrays = [jnp.asarray(x) for x in (LP, OLD, ADV, MASK > 0)]
    one = run(*arrays)
    two = run(*jax.device_put(arrays, rows))
    assert len(two[1].sharding.device_set) == 2
    jax.tree.map(same, two, one)


def test_padding_of_any_content_and_width_changes_nothing() -> None:
    where = Layout(jnp.array([[True, True, False, False]]))
    lp = jnp.array([[-1.0, -2.0, -jnp.inf, jnp.nan]])
    old = jnp.array([[-1.1, -1.5, -jnp.inf, 3.0]])
    loss = grpo.dr_grpo(LIMIT)

    @jax.jit
    def run(lp: jax.Array) -> Any:
        narrow = loss(lp[:, :2], old[:, :2], jnp.ones(1), Layout(where.mask[:, :2]))[0]
        return jax.value_and_grad(lambda x: loss(x, old, jnp.ones(1), where)[0])(lp), narrow

    (value, gradient), narrow = run(lp)
    assert float(value) == float(narrow)
    np.testing.assert_array_equal(np.isfinite(gradient), True)
    np.testing.assert_array_equal(gradient[0, 2:], 0.0)


@pytest.mark.parametrize(
    ("ratio", "loss"), [(0.5, 0.8), (0.9, 0.9), (2.0, 2.0)], ids=["low", "inside", "high"]
)
def test_negative_advantages_keep_the_trust_region(ratio: float, loss: float) -> None:
    """EasyDeL takes the maximum of the products: .5, .9 and 1.2."""
    where = Layout(jnp.ones((1, 1), bool))
    lp = jnp.log(jnp.array([[ratio]]))
    got = grpo.ppo_clip()(lp, jnp.zeros((1, 1)), jnp.array([-1.0]), where)[0]
    assert float(got) == pytest.approx(loss, rel=1e-6)


def test_cispo_has_no_gradient_through_its_weight() -> None:
    """EasyDeL lets it through, which doubles the gradient at ratio 1 and more."""
    where = Layout(jnp.ones((1, 1), bool))

    def loss(x: jax.Array) -> jax.Array:
        return grpo.cispo()(x, jnp.full((1, 1), -2.0), jnp.ones(1), where)[0]

    assert float(jax.grad(loss)(jnp.full((1, 1), -1.5))[0, 0]) == pytest.approx(-math.exp(0.5))


def test_gspo_token_equals_gspo_with_one_advantage_per_completion() -> None:
    where = layout(f32(ARRAYS))

    def both(lp: jax.Array, method: PolicyLoss) -> jax.Array:
        return method(lp, jnp.asarray(OLD), jnp.asarray(ADV), where)[0]

    one = jax.value_and_grad(both)(jnp.asarray(LP), grpo.gspo(0.1, 0.15))
    other = jax.value_and_grad(both)(jnp.asarray(LP), grpo.gspo_token(0.1, 0.15))
    same(other[0], one[0])
    same(other[1], one[1])


def test_without_an_old_policy_the_ratio_is_one() -> None:
    where = layout(f32(ARRAYS))
    loss, metrics = grpo.grpo()(jnp.asarray(LP), None, jnp.asarray(ADV), where)
    assert float(loss) == pytest.approx(-np.mean(ADV[FULL]), rel=1e-5)
    assert float(metrics["policy/kl"]) == 0.0 and float(metrics["policy/ess"]) == 1.0


def test_what_is_missing_is_named() -> None:
    where = layout(f32(ARRAYS))
    for method, word in [
        (with_kl(), "ref"),
        (corrected(correction=ratios.Truncated()), "sampler"),
        (corrected(entropy=0.1), "entropy"),
    ]:
        with pytest.raises(ValueError, match=word):
            method(jnp.asarray(LP), jnp.asarray(OLD), jnp.asarray(ADV), where)
    with pytest.raises(ValueError, match=r"\[S\]"):
        grpo.grpo()(jnp.asarray(LP), None, jnp.ones(3), where)


def test_off_policy_mask() -> None:
    where = layout(f32(ARRAYS))
    got = ratios.off_policy_mask(
        jnp.asarray(ADV), jnp.asarray(LP), jnp.asarray(SMP), where, threshold=0.05
    )
    for i in FULL:
        drift = np.mean([SMP[i, t] - LP[i, t] for t in spots(i)])
        assert bool(got[i].all()) == bool(got[i].any()) == (ADV[i] >= 0 or drift <= 0.05)
    assert not bool(got.all()) and bool(got[ADV < 0].any())


def test_entropy_mask_looks_at_counting_tokens_only() -> None:
    where = layout(f32(ARRAYS))
    got = np.asarray(ratios.entropy_mask(jnp.asarray(ENT), where, 0.8))
    line = np.quantile(ENT[MASK > 0], 0.8)
    np.testing.assert_array_equal(got, (line <= ENT) & (MASK > 0))
