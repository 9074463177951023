"""Text to token ids and back.

    tokenizer = jaxrl.llm.load_tokenizer("folder")       # tokenizer.json, or a GGUF file
    ids = tokenizer.encode("2 + 2 =", bos=True)
    ids = tokenizer.chat([{"role": "user", "content": "2 + 2?"}])

Ids are what everything else works with: prompts and completions are joined as ids and never encoded
again. `encode` adds no token by itself. `bos=True` and `eos=True` do, and a chat template writes
those that belong to it, so that none is ever there twice.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl.tensors import refuse, strict_json

Message = Mapping[str, Any]


class Tokenizer:
    """What all of them share; subclasses say how text becomes ids and how ids become text."""

    size: int
    """Number of ids"""
    bos: int | None = None
    eos: int | None = None
    template: str | None = None
    """The chat template, in Jinja"""

    def pieces(self, text: str) -> list[int]:
        raise NotImplementedError

    def text(self, ids: Sequence[int], special: bool) -> str:
        raise NotImplementedError

    def name(self, token: int) -> str:
        """A special token as it is written."""
        raise NotImplementedError

    def bytes_of_tokens(self) -> list[bytes]:
        """What each token adds to a text; nothing for special ones."""
        raise NotImplementedError

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        ids = self.pieces(text)
        for wanted, name in ((bos, "bos"), (eos, "eos")):
            if wanted and getattr(self, name) is None:
                raise ValueError(f"This tokenizer has no {name} token: {name}=False.")
        return [self.bos] * bos + ids + [self.eos] * eos  # pyright: ignore

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """special: write special tokens too"""
        wrong = [n for n in ids if not 0 <= int(n) < self.size]
        if wrong:
            raise ValueError(f"{int(wrong[0])} is no token id; they go from 0 to {self.size - 1}.")
        return self.text([int(n) for n in ids], special)

    def chat(self, messages: Sequence[Message], *, answer: bool = True) -> list[int]:
        """A conversation as ids; `answer` ends it where the model's answer begins."""
        return self.pieces(self.chat_text(messages, answer=answer))

    def chat_text(self, messages: Sequence[Message], *, answer: bool = True) -> str:
        if self.template is None:
            raise ValueError("This tokenizer has no chat template: set `template`, or use encode.")
        names = {
            f"{name}_token": "" if token is None else self.name(token)
            for name, token in (("bos", self.bos), ("eos", self.eos))
        }
        return render(self.template, messages=list(messages), add_generation_prompt=answer, **names)


def render(template: str, **values: Any) -> str:
    """In a sandbox: templates come with files from strangers."""
    import jinja2
    import jinja2.sandbox

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(x: Any, indent: int | None = None) -> str:
        return json.dumps(x, ensure_ascii=False, indent=indent)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    world = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    world.filters["tojson"] = tojson
    known: Any = world.globals
    known.update(raise_exception=raise_exception, strftime_now=strftime_now)
    try:
        return world.from_string(template).render(**values)
    except jinja2.TemplateError as error:
        raise ValueError(f"The chat template refuses these messages: {error}") from error


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, a token to begin with and one to end with."""

    size = 258
    bos = 256
    eos = 257

    def pieces(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, ids: Sequence[int], special: bool) -> str:
        parts, run = [], bytearray()
        for n in ids:
            if n < 256:
                run.append(n)
                continue
            parts.append(run.decode(errors="replace"))
            run = bytearray()
            parts += [self.name(n)] * special
        return "".join([*parts, run.decode(errors="replace")])

    def name(self, token: int) -> str:
        return {256: "<bos>", 257: "<eos>"}[token]

    def bytes_of_tokens(self) -> list[bytes]:
        return [*(bytes([n]) for n in range(256)), b"", b""]


class CharTokenizer(Tokenizer):
    """One id per character of an alphabet, then `<bos>` and `<eos>`."""

    def __init__(self, alphabet: str) -> None:
        if len(set(alphabet)) != len(alphabet):
            raise ValueError("A character is twice in the alphabet.")
        self.alphabet = alphabet
        self.bos, self.eos = len(alphabet), len(alphabet) + 1
        self.size = len(alphabet) + 2
        self._ids = {c: n for n, c in enumerate(alphabet)}

    def pieces(self, text: str) -> list[int]:
        unknown = [c for c in text if c not in self._ids]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not in the alphabet {self.alphabet!r}.")
        return [self._ids[c] for c in text]

    def text(self, ids: Sequence[int], special: bool) -> str:
        end = len(self.alphabet)
        return "".join(
            self.alphabet[n] if n < end else self.name(n) for n in ids if n < end or special
        )

    def name(self, token: int) -> str:
        return {self.bos: "<bos>", self.eos: "<eos>"}[token]

    def bytes_of_tokens(self) -> list[bytes]:
        return [*(c.encode() for c in self.alphabet), b"", b""]


class SubwordTokenizer(Tokenizer):
    """A `tokenizers.Tokenizer`, with the tokens and the template that its folder names."""

    def __init__(self, inner: Any, bos: int | None, eos: int | None, template: str | None) -> None:
        self.inner, self.bos, self.eos, self.template = inner, bos, eos, template
        self.size = inner.get_vocab_size()

    def pieces(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int], special: bool) -> str:
        return self.inner.decode(list(ids), skip_special_tokens=not special)

    def name(self, token: int) -> str:
        return self.inner.id_to_token(token)

    def bytes_of_tokens(self) -> list[bytes]:
        about = json.loads(self.inner.to_str())
        kinds = set(re.findall(r'"type": ?"(\w+)"', json.dumps(about["decoder"])))
        added = {t["id"]: b"" if t["special"] else t["content"].encode()
                 for t in about["added_tokens"]}  # fmt: skip
        if "ByteLevel" in kinds:
            of_char = {c: bytes([n]) for n, c in enumerate(byte_level())}
            spell = lambda name: b"".join(of_char[c] for c in name)  # noqa: E731
        elif kinds & {"ByteFallback", "Metaspace", "Replace"}:
            spell = _sentencepiece
        else:
            raise ValueError(f"A decoder of {sorted(kinds)} does not say what its tokens spell.")
        names = {n: name for name, n in self.inner.get_vocab().items()}
        return [
            added[n] if n in added else spell(names[n]) if n in names else b""
            for n in range(self.size)
        ]


def byte_level() -> str:
    """The character that stands for each byte in byte-level vocabularies: itself where it can be
    seen, else the next one from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return "".join(chr(n if n in plain else next(others)) for n in range(256))


def _sentencepiece(name: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", name):
        return bytes([int(name[3:5], 16)])
    return name.replace("\u2581", " ").encode()


# --------------------------------------------------------------------------------------- reading


def load_tokenizer(path: str | Path) -> SubwordTokenizer:
    """Of a folder with tokenizer.json, of such a file, or of a GGUF file."""
    from tokenizers import Tokenizer as Inner  # pyright: ignore

    path = Path(path)
    if path.suffix == ".gguf":
        return _of_gguf(path)
    file = path if path.is_file() else path / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no tokenizer.json.")
    try:
        inner = Inner.from_str(file.read_text())
    except Exception as error:  # the package raises plain Exception
        refuse(file, f"it is no tokenizer ({str(error)[:100]})")
    settings: dict[str, Any] = {}
    about = file.with_name("tokenizer_config.json")
    if about.is_file():
        settings = strict_json(about.read_bytes(), about)
    template: Any = settings.get("chat_template")
    if isinstance(template, list):  # several with names
        template = {t["name"]: t["template"] for t in template}.get("default")
    own = file.with_name("chat_template.jinja")
    if own.is_file():
        template = own.read_text()

    def token(name: str) -> int | None:
        given = settings.get(f"{name}_token")
        given = given.get("content") if isinstance(given, dict) else given
        found = None if given is None else inner.token_to_id(given)
        if given is not None and found is None:
            refuse(about, f"its {name}_token {given!r} is not in the vocabulary")
        return found

    return SubwordTokenizer(inner, token("bos"), token("eos"), template)


CONTROL = 3
"""Type of special tokens in GGUF files"""

SPLITS = {"smollm": True, "gpt-2": False, "gpt2": False, "default": False}
"""Ways of cutting text that can be read, and whether each digit stands alone"""


def _of_gguf(path: Path) -> SubwordTokenizer:
    """Byte-level BPE, as SmolLM2 and GPT-2 have it."""
    from tokenizers import (  # pyright: ignore
        AddedToken,
        decoders,
        models,
        pre_tokenizers,
    )
    from tokenizers import Tokenizer as Inner  # pyright: ignore

    from jaxrl.llm.gguf import Gguf

    m = Gguf(path).metadata
    kind, cut = m.get("tokenizer.ggml.model"), m.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in SPLITS:
        refuse(path, f"its vocabulary is {kind!r} cut by {cut!r}; known is gpt2 by {list(SPLITS)}")
    names: list[str] = m["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in m["tokenizer.ggml.merges"]]
    inner = Inner(models.BPE({name: n for n, name in enumerate(names)}, merges))
    levels: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if SPLITS[cut] else []
    levels.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    inner.pre_tokenizer = pre_tokenizers.Sequence(levels)  # pyright: ignore
    inner.decoder = decoders.ByteLevel()  # pyright: ignore
    kinds = m.get("tokenizer.ggml.token_type", [1] * len(names))
    special = [name for name, kind in zip(names, kinds, strict=True) if kind == CONTROL]
    inner.add_special_tokens([AddedToken(name, special=True) for name in special])
    bos = m.get("tokenizer.ggml.bos_token_id")
    eos = m.get("tokenizer.ggml.eos_token_id")
    return SubwordTokenizer(inner, bos, eos, m.get("tokenizer.chat_template"))
