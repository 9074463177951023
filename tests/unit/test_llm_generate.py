"""Sampling: log-probabilities that scoring finds again, kept sets, early exit, few programs."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm import (
    Config,
    Generator,
    Rope,
    Sampling,
    Transformer,
    best_of,
    generate,
    score,
)
from jaxrl.llm.best_of import likelihood
from jaxrl.llm.generate import stages
from jaxrl.llm.sampling import BLOCK, draw, kept, log_probs, pack_bits, tempered, unpack_bits

CONFIG = Config(
    vocab=37, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope=Rope(dims=4),
    windows=(5, 0), eos=(3,),
)  # fmt: skip
NETWORK = Transformer(CONFIG)
STEPS = 9

run = jax.jit(partial(generate, NETWORK, max_new=STEPS), static_argnames=("group", "stop"))
again = jax.jit(partial(score, NETWORK, chunk=4))
forward = jax.jit(lambda params, tokens, mask: NETWORK.apply({"params": params}, tokens, mask)[0])


@pytest.fixture(scope="module")
def params() -> Any:
    params = jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    return jax.tree.map(lambda x: 12 * x if x.ndim > 1 else x, params)


def prompts() -> tuple[jax.Array, jax.Array]:
    """Three rows: full, padded on the left, padded on the right."""
    tokens = jax.random.randint(jax.random.key(1), (3, 6), 0, 37)
    mask = jnp.ones((3, 6), bool).at[1, :3].set(False).at[2, 4:].set(False)
    return tokens, mask


SETTINGS = {
    "cold": Sampling(temperature=0.3),
    "plain": Sampling(),
    "hot": Sampling(temperature=2.5),
    "cut": Sampling(temperature=1.5, top_k=9, top_p=0.8, min_p=0.05, repetition_penalty=1.3),
}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["cold", "cut", *(pytest.param(n, marks=SLOW) for n in ("plain", "hot"))]
)
def test_sampled_and_scored_log_probs_agree(params: Any, name: str) -> None:
    out = run(params, *prompts(), jax.random.key(2), SETTINGS[name], group=2, stop=(3, 5))
    scored = again(params, *prompts(), out)
    mask = np.asarray(out.mask)
    assert mask.any(axis=1).all() and not mask.all()
    np.testing.assert_allclose(scored, out.log_probs, atol=1e-5, rtol=0)
    assert (np.asarray(out.log_probs)[mask] < 0).any() and not np.asarray(scored)[~mask].any()


@pytest.mark.parametrize("kind", [pytest.param("dynamic", marks=SLOW), "longrope"])
def test_angles_that_depend_on_the_length(params: Any, kind: str) -> None:
    """The texts grow past the eight positions of the training."""
    rope = Rope(dims=4, kind=kind, factor=2.0, trained=8, short=(1.0, 1.5), long=(3.0, 6.0))
    network = Transformer(dataclasses.replace(CONFIG, rope=rope))
    out = jax.jit(partial(generate, network, max_new=STEPS))(params, *prompts(), jax.random.key(2))
    scored = jax.jit(partial(score, network))(params, *prompts(), out)
    np.testing.assert_allclose(scored, out.log_probs, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_truncated_sets_are_replayed_for_other_parameters(params: Any) -> None:
    """As in an update: new logits, but the sets that the tokens were drawn from."""
    tokens, mask = prompts()
    sampling = Sampling(temperature=1.5, top_p=0.6)
    out = run(params, tokens, mask, jax.random.key(3), sampling)
    key = jax.random.key(4)
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(key, x.shape), params)
    scored = np.asarray(again(moved, tokens, mask, out))
    sets = np.asarray(unpack_bits(out.kept, 37))
    assert not sets.all() and sets[np.asarray(out.mask)].any(-1).all()
    whole = jnp.concatenate([tokens, out.tokens], 1)
    every = jnp.concatenate([mask, out.mask], 1)
    logits = np.asarray(forward(moved, whole, every), np.float64) / 1.5
    first = {0: 5, 1: 5, 2: 3}  # the prompt's last token
    for row in range(3):
        for n in range(STEPS):
            if not out.mask[row, n]:
                continue
            line = logits[row, first[row] if n == 0 else 5 + n]
            token = int(out.tokens[row, n])
            expected = line[token] - np.log(np.exp(line[sets[row, n]]).sum())
            assert sets[row, n, token]
            assert scored[row, n] == pytest.approx(expected, abs=2e-5)
    gradients = jax.grad(lambda p: again(p, tokens, mask, out).sum())(moved)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_tokens_come_as_often_as_they_should(params: Any) -> None:
    tokens, mask = prompts()
    sampling = Sampling(temperature=0.7, top_k=6)
    draw = partial(generate, NETWORK, max_new=1, group=4000)
    out = jax.jit(draw)(params, tokens[:1], mask[:1], jax.random.key(5), sampling)
    logits = forward(params, tokens[:1], mask[:1])[0, -1] / 0.7
    p = np.asarray(jnp.exp(log_probs(logits, kept(logits, sampling))))
    assert (p > 0).sum() == 6
    share = np.bincount(np.asarray(out.tokens)[:, 0], minlength=37) / 4000
    assert (np.abs(share - p) <= 4 * np.sqrt(p * (1 - p) / 4000)).all()
    np.testing.assert_allclose(np.exp(out.log_probs[:, 0]), p[out.tokens[:, 0]], rtol=1e-4)


def test_every_token_has_its_own_noise(params: Any) -> None:
    """So hot that the text does not matter: the same noise would give the same token each time."""
    out = run(params, *prompts(), jax.random.key(2), Sampling(temperature=1e6), group=2)
    counts = [len(set(row)) for row in np.asarray(out.tokens).tolist()]
    assert min(counts) > 4 and len(set(np.asarray(out.tokens)[:, 0].tolist())) > 2


def test_greedy(params: Any) -> None:
    """The same as choosing from whole passes, one after the other."""
    tokens, mask = prompts()
    out = run(params, tokens, mask, jax.random.key(0), Sampling(greedy=True))
    assert np.asarray(out.mask).all() and not np.asarray(out.stopped).any()
    for row in range(3):
        text = np.asarray(tokens[row])[np.asarray(mask[row])]
        for n in range(STEPS):
            room = np.zeros(6 + STEPS, np.int32)
            room[: len(text)] = text
            logits = forward(params, room[None], np.arange(15)[None] < len(text))
            text = np.append(text, logits[0, len(text) - 1].argmax())
            assert out.tokens[row, n] == text[-1]


@pytest.mark.slow
def test_a_group_is_its_prompt_several_times(params: Any) -> None:
    tokens, mask = prompts()
    one = run(params, tokens, mask, jax.random.key(6), SETTINGS["hot"], group=3)
    repeated = (jnp.repeat(a, 3, axis=0) for a in (tokens, mask))
    other = run(params, *repeated, jax.random.key(6), SETTINGS["hot"])
    np.testing.assert_array_equal(one.tokens, other.tokens)
    assert len({tuple(row) for row in np.asarray(one.tokens[:3]).tolist()}) == 3


@pytest.mark.slow
def test_rows_do_not_depend_on_their_neighbours(params: Any) -> None:
    tokens, mask = prompts()
    whole = run(params, tokens, mask, jax.random.key(7), SETTINGS["plain"])
    alone = run(params, tokens[:1], mask[:1], jax.random.key(7), SETTINGS["plain"])
    np.testing.assert_array_equal(whole.tokens[:1], alone.tokens)


def test_stop_tokens_end_a_row_and_the_loop(params: Any) -> None:
    tokens, mask = prompts()
    free = run(params, tokens, mask, jax.random.key(8), Sampling(temperature=2.5))
    stop = tuple(sorted({int(row[n]) for row, n in zip(free.tokens, (0, 2, 1), strict=True)}))
    out = run(params, tokens, mask, jax.random.key(8), Sampling(temperature=2.5), stop=stop)
    ends = [int(np.isin(row, stop).argmax()) for row in np.asarray(free.tokens)]
    assert max(ends) < STEPS - 1
    assert np.asarray(out.mask).sum(axis=1).tolist() == [n + 1 for n in ends]
    assert np.asarray(out.stopped).all() and int(out.steps) == max(ends)
    drawn = np.asarray(out.mask)
    np.testing.assert_array_equal(out.tokens[drawn], free.tokens[drawn])
    assert not np.asarray(out.tokens)[~drawn].any() and not np.asarray(out.log_probs)[~drawn].any()


def test_nothing_is_compiled_again(params: Any) -> None:
    generator = Generator(NETWORK, max_new=4, group=2, lengths=(4, 8), batches=(2,))
    assert generator.compilations == 0
    for n, texts in enumerate(([[1, 2]], [[1, 2, 3], [4]], [[1] * 4, [2]])):
        out = generator(params, texts, jax.random.key(n), Sampling(temperature=1.0 + n))
        assert out.tokens.shape == (2 * len(texts), 4)
    assert generator.compilations == 1
    generator(params, [[1] * 7], jax.random.key(0), Sampling(temperature=0.5))
    generator(params, [[1] * 8], jax.random.key(0), Sampling(temperature=0.5))
    assert generator.compilations == 2
    with pytest.raises(ValueError, match="9 tokens, but there is room for 8"):
        generator(params, [[1] * 9], jax.random.key(0))
    with pytest.raises(ValueError, match="37 is no token; there are 37"):
        generator(params, [[1], [2, 37]], jax.random.key(0))
    with pytest.raises(ValueError, match="Text 1 has 0 tokens"):
        generator(params, [[1], []], jax.random.key(0))


@pytest.mark.slow
def test_lengths_of_buckets_change_nothing(params: Any) -> None:
    texts, key = [[5, 6, 7], [8]], jax.random.key(1)
    outs = [
        Generator(NETWORK, max_new=4, lengths=(size,), batches=(rows,))(params, texts, key)
        for size, rows in ((3, 2), (8, 4))
    ]
    np.testing.assert_array_equal(outs[0].tokens, outs[1].tokens)
    np.testing.assert_allclose(outs[0].log_probs, outs[1].log_probs, atol=1e-5)


def test_a_row_without_a_prompt_gets_nothing(params: Any) -> None:
    """Rows that only fill a batch do not keep the loop running."""
    tokens, mask = prompts()
    settings = Sampling(temperature=2.5)
    free = run(params, tokens, mask, jax.random.key(8), settings)
    stop = (int(free.tokens[0, 2]),)
    out = run(params, tokens, mask.at[1:].set(False), jax.random.key(8), settings, stop=stop)
    assert np.asarray(out.mask).sum(axis=1).tolist()[1:] == [0, 0]
    assert int(out.steps) <= 2 and np.isfinite(out.log_probs).all()


def test_bfloat16_at_any_temperature(params: Any) -> None:
    """One numerics path: what decoding and scoring round, they round alike. And the stop tokens
    that training sees are as many as the completions that ended with one."""
    network = NETWORK.clone(dtype=jnp.bfloat16)
    mild = jax.tree.map(lambda x: x / 4 if x.ndim > 1 else x, params)
    tokens, mask = (jnp.tile(x, (8, 1)) for x in prompts())
    draw = jax.jit(partial(generate, network, max_new=STEPS, stop=(3, 5)))
    find = jax.jit(partial(score, network))
    ended = 0
    for n, temperature in enumerate((0.05, 0.3, 1.0, 3.0)):
        out = draw(mild, tokens, mask, jax.random.key(n), Sampling(temperature=temperature))
        worst = jnp.abs(find(mild, tokens, mask, out) - out.log_probs).max()
        assert worst <= 2e-2, (temperature, worst)
        trained = np.isin(out.tokens, (3, 5)) & np.asarray(out.mask)
        assert trained.sum() == np.asarray(out.stopped).sum()
        ended += trained.sum()
    assert ended


def test_the_best_of_several(params: Any) -> None:
    """NaN is never the best, unless there is nothing else."""
    tokens, mask = prompts()
    key, settings = jax.random.key(4), SETTINGS["cut"]
    every = run(params, tokens, mask, key, settings, group=2, stop=(3, 5))
    sums = np.asarray(every.log_probs).sum(axis=1)
    np.testing.assert_allclose(likelihood(every), sums, atol=1e-5)
    marks = np.array([5, 0, np.nan, -500, np.nan, np.nan], np.float32)
    out, scores = jax.jit(
        lambda: best_of(
            NETWORK, params, tokens, mask, key, settings, n=2, max_new=STEPS, stop=(3, 5),
            score=lambda out: likelihood(out) + marks,
        )
    )()  # fmt: skip
    expected = (sums + marks).reshape(3, 2)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    rows = [int(expected[0].argmax()), 3, 4]
    for name in ("tokens", "mask", "stopped", "kept"):
        np.testing.assert_array_equal(getattr(out, name), getattr(every, name)[np.array(rows)])
    np.testing.assert_allclose(likelihood(out), sums[rows], atol=1e-5)


# ------------------------------------------------------------------------------------ settings


def test_the_sets_by_hand() -> None:
    p = np.array([0.4, 0.05, 0.3, 0.05, 0.2])
    logits = jnp.log(jnp.asarray(p, jnp.float32))

    def chosen(**settings: Any) -> list[int]:
        return np.flatnonzero(kept(logits, Sampling(**settings))).tolist()

    assert chosen(top_k=2) == [0, 2]
    assert chosen(top_k=99) == [0, 1, 2, 3, 4]
    assert chosen(top_p=0.1) == [0]
    assert chosen(top_p=0.71) == [0, 2, 4]
    assert chosen(top_p=1.0) == [0, 1, 2, 3, 4]
    assert chosen(min_p=0.6) == [0, 2]
    assert chosen(top_k=2, top_p=0.56) == [0]  # of the two that are left, one has 0.57
    assert chosen(top_k=4) == [0, 1, 2, 3, 4]  # the fourth and fifth are equal
    seen = jnp.array([True, False, False, False, True])
    warm = tempered(jnp.array([2.0, 1.0, 0.0, -1.0, -2.0]), Sampling(
        temperature=0.5, repetition_penalty=2.0), seen)  # fmt: skip
    assert warm.tolist() == [2.0, 2.0, 0.0, -2.0, -8.0]
    shares = jnp.exp(log_probs(logits, jnp.asarray([True, False, True, False, False])))
    np.testing.assert_allclose(shares, [4 / 7, 0, 3 / 7, 0, 0], rtol=1e-6)


def test_draws_have_the_right_shares() -> None:
    """Over several blocks of tokens, some of them without mass; the number zero, too."""
    V, N = 2 * BLOCK + 44, 200_000
    logits = jnp.where(jnp.arange(V) % 7 < 2, jax.random.normal(jax.random.key(0), (V,)), -jnp.inf)
    logits = logits.at[BLOCK : 2 * BLOCK].set(-jnp.inf).at[0].set(-jnp.inf)
    u = jax.random.uniform(jax.random.key(1), (N, 2)).at[0].set(0.0).at[1].set(1 - 2**-24)
    tokens, own = jax.jit(draw)(jnp.broadcast_to(logits, (N, V)), u)
    p = np.asarray(jax.nn.softmax(logits))
    share = np.bincount(np.asarray(tokens), minlength=V) / N
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / N)).all()
    assert int(tokens[0]) == np.flatnonzero(p)[0] and p[tokens].min() > 0
    np.testing.assert_allclose(np.exp(own), p[tokens], rtol=1e-5)


def test_the_cache_begins_small() -> None:
    assert stages(32, 128) == [128] and stages(10, 512) == [256, 512]
    assert stages(300, 2000) == [500, 1000, 2000]


@pytest.mark.slow
def test_a_cache_that_grows_changes_nothing(params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = prompts()
    expected = run(params, tokens, mask, jax.random.key(8), Sampling(temperature=2.5))
    monkeypatch.setattr("jaxrl.llm.generate.stages", lambda prompt, room: [8, 11, room])
    out = jax.jit(partial(generate, NETWORK, max_new=STEPS))(
        params, tokens, mask, jax.random.key(8), Sampling(temperature=2.5)
    )
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    assert int(out.steps) == STEPS - 1


def test_bits() -> None:
    keep = jax.random.bernoulli(jax.random.key(0), 0.4, (3, 2, 70))
    words = pack_bits(keep)
    assert words.shape == (3, 2, 3) and words.dtype == jnp.uint32
    np.testing.assert_array_equal(unpack_bits(words, 70), keep)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperature=0.0), "greedy=True"),
        (dict(temperature=float("nan")), "temperature is nan"),
        (dict(top_p=1.5), "top_p is 1.5"),
        (dict(top_p=0.0), "top_p is 0"),
        (dict(min_p=-0.1), "min_p is -0.1"),
        (dict(top_k=-1), "top_k is -1"),
        (dict(repetition_penalty=0.0), "repetition_penalty is 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings).check()
    assert dataclasses.replace(Sampling(), min_p=0.0).check() is None


def test_the_steps_of_transformers() -> None:
    """The same tokens are left over, with the same log-probabilities."""
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    logits = 3 * jax.random.normal(jax.random.key(0), (5, 50))
    ids = torch.randint(0, 50, (5, 8), generator=torch.Generator().manual_seed(0))
    steps = [
        hf.RepetitionPenaltyLogitsProcessor(1.4), hf.TemperatureLogitsWarper(1.7),
        hf.TopKLogitsWarper(20), hf.TopPLogitsWarper(0.85), hf.MinPLogitsWarper(0.06),
    ]  # fmt: skip
    scores = torch.tensor(np.asarray(logits))
    for step in steps:
        scores = step(ids, scores)
    expected = torch.log_softmax(scores, -1).numpy()
    sampling = Sampling(temperature=1.7, top_k=20, top_p=0.85, min_p=0.06, repetition_penalty=1.4)
    seen = jnp.zeros((5, 50), bool).at[jnp.arange(5)[:, None], jnp.asarray(ids)].set(True)
    warm = tempered(logits, sampling, seen)
    found = log_probs(warm, kept(warm, sampling))
    left = np.isfinite(expected).sum(-1)
    assert left.min() > 2 and left.max() < 20
    np.testing.assert_allclose(found, expected, atol=1e-5)
