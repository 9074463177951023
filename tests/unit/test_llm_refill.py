"""Refilled slots give what plain generation gives; strings and tokens that end a row."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.llm import Config, Generator, Rope, Sampling, Transformer, generate, score
from jaxrl.llm.stops import automaton, stop_strings
from jaxrl.llm.tokenizer import ByteTokenizer, CharTokenizer, SubwordTokenizer, byte_level

CONFIG = Config(
    vocab=37, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope=Rope(dims=4),
    windows=(5, 0), eos=(3,),
)  # fmt: skip
NETWORK = Transformer(CONFIG)
STEPS = 9
STOP = (3, 5, 8, 13, 21)

run = jax.jit(
    partial(generate, NETWORK, max_new=STEPS, stop=STOP),
    static_argnames=("group", "slots", "min_new"),
)


@pytest.fixture(scope="module")
def params() -> Any:
    params = jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    return jax.tree.map(lambda x: 12 * x if x.ndim > 1 else x, params)


def prompts() -> tuple[jax.Array, jax.Array]:
    """Seven rows, one of them empty, padded on either side."""
    tokens = jax.random.randint(jax.random.key(1), (7, 6), 0, 37)
    mask = jnp.ones((7, 6), bool).at[1, :3].set(False).at[2, 4:].set(False).at[4].set(False)
    return tokens, mask


SETTINGS = {
    "plain": Sampling(temperature=2.5),
    "cut": Sampling(temperature=2.0, top_k=20, min_p=0.01, repetition_penalty=1.3),
}


@pytest.mark.parametrize(
    ("name", "slots"),
    [("cut", 4), pytest.param("plain", 1, marks=pytest.mark.slow),
     pytest.param("plain", 9, marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_same_as_all_at_once(params: Any, name: str, slots: int) -> None:
    """Rows come in at any place of the ring, beside rows of any age."""
    tokens, mask = prompts()
    key, settings = jax.random.key(8), SETTINGS[name]
    plain = run(params, tokens, mask, key, settings, group=2)
    out = run(params, tokens, mask, key, settings, group=2, slots=slots)
    lengths = np.asarray(plain.mask).sum(axis=1)
    assert set(lengths) >= {0, 1, STEPS} and len(set(lengths)) > 4
    np.testing.assert_array_equal(out.mask, plain.mask)
    np.testing.assert_array_equal(out.tokens, plain.tokens)
    np.testing.assert_array_equal(out.stopped, plain.stopped)
    np.testing.assert_allclose(out.log_probs, plain.log_probs, atol=1e-5)
    if settings.truncates:
        drawn = np.asarray(plain.mask)
        np.testing.assert_array_equal(out.kept[drawn], plain.kept[drawn])
        assert not np.asarray(out.kept)[~drawn].any()
    # No step is made for nobody: at least one row goes on, and at most W of them do.
    passes = int(np.maximum(lengths - 1, 0).sum())
    assert passes / slots <= int(out.steps) <= passes


def test_nothing_is_compiled_again(params: Any) -> None:
    generator = Generator(NETWORK, max_new=STEPS, stop=STOP, slots=2, lengths=(8,), batches=(8,))
    for n in range(3):
        texts = [[1 + n, 2], [3] * (n + 1), [4, 5, 6], [7], [8, 9]][: 3 + n]
        out = generator(params, texts, jax.random.key(n), Sampling(temperature=1.0 + n))
        assert out.tokens.shape == (3 + n, STEPS) and out.mask[:, 0].all()
    assert generator.compilations == 1


def test_no_stop_token_before_its_time(params: Any) -> None:
    tokens, mask = prompts()
    before = run(params, tokens, mask, jax.random.key(8), SETTINGS["plain"])
    out = run(params, tokens, mask, jax.random.key(8), SETTINGS["plain"], min_new=4)
    there = np.asarray(mask).any(axis=1)
    lengths = np.asarray(out.mask).sum(axis=1)[there]
    assert np.asarray(before.mask).sum(axis=1)[there].min() < 4 and lengths.min() >= 5
    assert np.asarray(out.stopped).any()  # the fifth may be one
    scored = jax.jit(partial(score, NETWORK))(params, tokens, mask, out)
    np.testing.assert_allclose(scored, out.log_probs, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------- strings


def test_the_automaton_finds_what_text_search_finds() -> None:
    strings = [b"abab", b"bb", b"aac", b"ca"]
    steps = automaton(strings)
    draws = np.random.default_rng(0).integers(0, 3, (300, 12))
    for row in draws:
        state, text = 0, b""
        for n in row:
            text += bytes([97 + n])
            state = steps[state, 97 + n]
            assert (state == len(steps) - 1) == any(s in text for s in strings)


class Words(ByteTokenizer):
    """Tokens of several letters, so that a string may begin and end inside them."""

    size = 37

    def __init__(self) -> None:
        letters = "abcd"
        self.words = [a + b for a in letters for b in ["", *letters]][:20]
        self.words += [a + b + "c" for a in letters for b in letters] + [""]

    def bytes_of_tokens(self) -> list[bytes]:
        return [word.encode() for word in self.words]

    def text(self, ids: Any, special: bool) -> str:
        return "".join(self.words[n] for n in ids)


@pytest.mark.parametrize("slots", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_strings_that_span_tokens(params: Any, slots: int | None) -> None:
    """Rows end at the token with which a string is there for the first time."""
    tokenizer = Words()
    wanted = ["abc", "dda", "bda", "adb", "bad", "cc"]
    strings = stop_strings(tokenizer, wanted)
    tokens, mask = prompts()
    settings = Sampling(temperature=2.5)
    draw = jax.jit(partial(generate, NETWORK, max_new=STEPS, slots=slots))
    key = jax.random.key(3)
    free = draw(params, tokens, mask, key, settings)
    out = draw(params, tokens, mask, key, settings, strings=strings)
    inside = 0
    for row in np.flatnonzero(np.asarray(mask).any(axis=1)):
        ids = np.asarray(free.tokens[row]).tolist()
        texts = [tokenizer.decode(ids[: n + 1]) for n in range(STEPS)]
        ends = [n for n, text in enumerate(texts) if any(s in text for s in wanted)]
        length = ends[0] + 1 if ends else STEPS
        assert int(out.mask[row].sum()) == length and bool(out.stopped[row]) == bool(ends)
        assert out.tokens[row, :length].tolist() == ids[:length]
        left = strings.cut(texts[length - 1])
        assert texts[length - 1].startswith(left) and not any(s in left for s in wanted)
        inside += bool(ends) and not any(s in tokenizer.words[ids[length - 1]] for s in wanted)
    assert inside  # found where no single token holds it


def test_bytes_of_tokens() -> None:
    text = "A \u00e9\n\u4e2d"
    for tokenizer in (ByteTokenizer(), CharTokenizer(text)):
        words = tokenizer.bytes_of_tokens()
        assert len(words) == tokenizer.size and words[tokenizer.eos] == b""
        assert b"".join(words[n] for n in tokenizer.encode(text)) == text.encode()
    assert sorted(byte_level()) == sorted(set(byte_level())) and byte_level()[32] == "\u0120"
    with pytest.raises(ValueError, match="not empty"):
        stop_strings(ByteTokenizer(), ["a", ""])


def test_bytes_of_subword_tokens() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    level = byte_level()
    vocab = {c: n for n, c in enumerate(level)} | {"\u0120A": 256, "<eos>": 257}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [("\u0120", "A")]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens([tokenizers.AddedToken("<eos>", special=True)])
    tokenizer = SubwordTokenizer(inner, None, 257, None)
    words = tokenizer.bytes_of_tokens()
    ids = tokenizer.encode("B A\u4e2d")
    assert words[256] == b" A" and 256 in ids and words[257] == b""
    assert b"".join(words[n] for n in ids) == "B A\u4e2d".encode()
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({"\u2581a": 0, "<0x0A>": 1, "b": 2}, [], byte_fallback=True)
    )
    inner.decoder = tokenizers.decoders.Metaspace()
    assert SubwordTokenizer(inner, None, None, None).bytes_of_tokens() == [b" a", b"\n", b"b"]
    inner.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(ValueError, match="WordPiece"):
        SubwordTokenizer(inner, None, None, None).bytes_of_tokens()


def test_a_vocabulary_larger_than_the_tokenizer() -> None:
    strings = stop_strings(ByteTokenizer(), ["\u00e9", "ab"], vocab=300)
    assert strings.table.shape == (4, 300) and strings.table.dtype == jnp.uint8
    state = jnp.zeros(1, jnp.int32)
    for byte in (0xC3, 299, 0xA9):  # a token without text changes nothing
        state = strings.step(state, jnp.array([byte]))
    assert bool(strings.found(state)[0])
    assert [strings.cut(text) for text in ("x\u00e9ab", "abc", "ba")] == ["x", "", "ba"]
