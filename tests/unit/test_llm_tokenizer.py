"""Tokenizers: round trips, who adds which special token, templates in their sandbox."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jaxrl import FileRefused
from jaxrl.llm import ByteTokenizer, CharTokenizer, load_tokenizer

TEXTS = ["2 + 2 = 4", "", "Grüße, 世界 🙂", "a\n\tb  c"]
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_bytes() -> None:
    t = ByteTokenizer()
    for text in TEXTS:
        ids = t.encode(text, bos=True, eos=True)
        assert ids == [256, *text.encode(), 257]
        assert t.decode(ids) == text
        assert t.decode(ids, special=True) == f"<bos>{text}<eos>"
        assert t.encode(text) == list(text.encode())
    assert t.decode("é".encode()[:1]) == "\ufffd"
    with pytest.raises(ValueError, match="258 is no token id"):
        t.decode([65, 258])


def test_characters() -> None:
    t = CharTokenizer("0123456789+= ")
    assert t.encode("1+2=", eos=True) == [1, 10, 2, 11, 14]
    assert t.decode([13, 1, 10, 2, 11, 14]) == "1+2="
    assert t.decode([13, 1, 14], special=True) == "<bos>1<eos>"
    assert t.size == 15
    with pytest.raises(ValueError, match="'x' is not in the alphabet"):
        t.encode("1x")
    with pytest.raises(ValueError, match="twice"):
        CharTokenizer("aa")


def test_chat() -> None:
    pytest.importorskip("jinja2")
    t = ByteTokenizer()
    with pytest.raises(ValueError, match="no chat template"):
        t.chat([])
    t.template = CHATML
    messages = [{"role": "user", "content": " hi "}]
    assert t.chat_text(messages) == "<|user|>hi<eos>\n<|assistant|>"
    assert t.chat_text(messages, answer=False) == "<|user|>hi<eos>\n"
    assert t.chat(messages) == list(b"<|user|>hi<eos>\n<|assistant|>")
    t.template = "{{ raise_exception('only pairs') }}"
    with pytest.raises(ValueError, match="refuses these messages: only pairs"):
        t.chat(messages)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ messages.append(1) }}",
        "{% for n in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_templates_are_shut_in(attack: str) -> None:
    pytest.importorskip("jinja2")
    t = ByteTokenizer()
    t.template = attack
    with pytest.raises((ValueError, OverflowError)):
        t.chat([])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(["two and two is four and four"] * 4, trainer)
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    settings = dict(bos_token={"content": "<s>"}, eos_token="</s>", chat_template=CHATML)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_a_folder(folder: Path) -> None:
    """The file says to add <s> and </s>; nothing is added unless it is asked for."""
    t = load_tokenizer(folder)
    assert (t.bos, t.eos) == (0, 1)
    for text in [*TEXTS, "two and four"]:
        ids = t.encode(text, bos=True, eos=True)
        assert ids[0] == 0 and ids[-1] == 1 and ids.count(0) == ids.count(1) == 1
        assert ids[1:-1] == t.encode(text)
        assert t.decode(ids) == text
    assert len(t.encode("two and four")) < len("two and four") // 2
    ids = t.chat([{"role": "user", "content": "two"}])
    assert ids.count(1) == 1 and 0 not in ids  # the template's own, as one token
    assert t.decode(ids, special=True) == "<|user|>two</s>\n<|assistant|>"
    (folder / "chat_template.jinja").write_text("{{ bos_token }}x")
    assert load_tokenizer(folder).chat([]) == [0, *t.encode("x")]


def test_what_cannot_be_read_is_refused(folder: Path) -> None:
    settings = folder / "tokenizer_config.json"
    settings.write_text('{"eos_token": "<end>"}')
    with pytest.raises(FileRefused, match="eos_token '<end>' is not in the vocabulary"):
        load_tokenizer(folder)
    settings.write_text("{}")
    with pytest.raises(ValueError, match="no bos token: bos=False"):
        load_tokenizer(folder).encode("x", bos=True)
    (folder / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(FileRefused, match="it is no tokenizer"):
        load_tokenizer(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        load_tokenizer(folder)


def test_transformers_gives_the_same_ids(folder: Path) -> None:
    hf: Any = pytest.importorskip("transformers")
    theirs = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    theirs.chat_template = CHATML
    t = load_tokenizer(folder)
    messages = [
        {"role": "user", "content": "two and four "},
        {"role": "assistant", "content": "is"},
    ]
    for answer in (True, False):
        ids = theirs.apply_chat_template(
            messages, add_generation_prompt=answer, return_dict=False, tokenize=True
        )
        assert t.chat(messages, answer=answer) == list(ids)
    for text in TEXTS:
        assert t.encode(text) == theirs.encode(text, add_special_tokens=False)
