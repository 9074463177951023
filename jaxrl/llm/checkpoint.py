"""Language models from and to folders in the layout of Hugging Face, and from GGUF files.

    lm = jaxrl.llm.load("folder")        # safetensors, one file or several, float32, bf16 or f16
    logits = lm(tokens, mask)
    jaxrl.llm.save(lm, "other")          # transformers reads it

Every tensor's name and shape is checked before the first is read; then they are read one at a time
and put where `place` says, so that the host never holds the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.llm import gguf
from jaxrl.llm.config import Config
from jaxrl.llm.hf_read import config_from_hf
from jaxrl.llm.hf_write import config_to_hf
from jaxrl.llm.layout import BUFFERS, Entry, flatten, layout, nest
from jaxrl.llm.model import Cache, Transformer
from jaxrl.llm.quantise import Int8
from jaxrl.llm.shards import Source, Tensor, open_folder, write_folder
from jaxrl.struct import static, struct
from jaxrl.tensors import NAMES, Array, put, refuse, strict_json

Place = Callable[[str, tuple[int, ...]], Any]
"""A parameter's path and shape -> the device or sharding that it is put on"""

SCORE = "score.weight"
"""The head of a model that scores texts, see `jaxrl.llm.scorer`."""

FLOATS = {
    np.dtype(np.float32): "float32",
    np.dtype(jnp.bfloat16): "bfloat16",
    np.dtype(np.float16): "float16",
}


@struct
class LanguageModel:
    """Parameters together with the network that they belong to."""

    params: Any
    network: Transformer = static()

    @property
    def config(self) -> Config:
        return self.network.config

    def __call__(self, tokens: Any, mask: Any = None) -> jax.Array:
        """Logits [B, L, V] in float32."""
        return _forward(self.network, self.params, jnp.asarray(tokens), mask, None)[0]

    def step(self, tokens: Any, mask: Any, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits, and the cache with these tokens in it."""
        return _forward(self.network, self.params, jnp.asarray(tokens), mask, cache)


@partial(jax.jit, static_argnums=0)
def _forward(network: Transformer, params: Any, tokens: Any, mask: Any, cache: Any) -> Any:
    return network.apply({"params": params}, tokens, mask, cache)


def load(
    path: str | Path, *, dtype: Any = None, compute: Any = jnp.float32, place: Place | None = None
) -> LanguageModel:
    """The model in a folder, or in a GGUF file.

    dtype: of the parameters; None keeps those of the file (float32 for quantised ones)
    compute: of queries, keys, values and what lies between them
    place: where each parameter goes, as `lambda path, shape: sharding`; None is the first device
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"{path} is a file: give the folder it lies in, or a .gguf file.")
        config, source = gguf.open_file(path)
    else:
        config, source = read_config(path), open_folder(path)
    if SCORE in source.shapes:
        refuse(source.where, "it has a head that scores texts: jaxrl.llm.load_scorer reads it")
    network = Transformer(config, dtype=compute)
    return LanguageModel(read_params(config, layout(config), source, dtype, place), network)


def read_config(folder: Path) -> Config:
    """config.json, and the end tokens of generation_config.json where there is one."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no folder with a config.json.")
    data = strict_json(file.read_bytes(), file)
    if not isinstance(data, dict):
        refuse(file, "it is not a JSON object")
    more = folder / "generation_config.json"
    if more.is_file():
        extra = strict_json(more.read_bytes(), more)
        ends = extra.get("eos_token_id") if isinstance(extra, dict) else None
        if ends is not None:
            data["eos_token_id"] = ends
    return config_from_hf(data, file)


def read_params(
    config: Config,
    entries: list[Entry],
    source: Source,
    dtype: Any = None,
    place: Place | None = None,
) -> Mapping[str, Any]:
    """Parameters as the network wants them; everything is checked before anything is read."""
    names = _names(config, entries, source)
    flat: dict[str, jax.Array] = {}
    for entry in entries:
        stored = [source.read(names[name]) for name in entry.names]
        for name, x in zip(entry.names, stored, strict=True):
            if x.dtype.newbyteorder("=") not in FLOATS:
                refuse(source.where, f"tensor {names[name]!r} holds {x.dtype}, not floats")
        for path, x in zip(entry.paths, entry.unpack(stored), strict=True):
            own = np.ascontiguousarray(x, dtype=dtype or x.dtype.newbyteorder("="))
            own = own.copy() if own.base is not None else own  # not a view of the file
            flat[path] = jax.device_put(own, place(path, own.shape) if place else None)
    return nest(flat)


def _names(config: Config, entries: list[Entry], source: Source) -> dict[str, str]:
    """Name in the layout -> name in the file, of a file that has all tensors and no others."""
    root = "transformer."  # GPT-2 on the hub lacks it
    bare = config.family == "gpt2" and "wte.weight" in source.shapes
    names = {
        name: name.removeprefix(root) if bare else name for entry in entries for name in entry.names
    }
    missing = [name for name in names.values() if name not in source.shapes]
    if missing:
        refuse(source.where, f"{_some(missing)} missing")
    for entry in entries:
        for name, shape in zip(entry.names, entry.shapes, strict=True):
            found = tuple(source.shapes[names[name]])
            if found != shape:
                why = f"has shape {found}, but its config.json makes it {shape}"
                refuse(source.where, f"tensor {names[name]!r} {why}")
    known = set(names.values())
    others = [x for x in source.shapes if x not in known and not BUFFERS.fullmatch(x)]
    if config.tied and SCORE not in known:  # some files hold the head all the same
        heads = [x for x in others if x in ("lm_head.weight", "embed_out.weight")]
        for head in heads:
            embedding = names[next(e.names[0] for e in entries if e.paths == ("embedding",))]
            if not _equal(source, head, embedding):
                why = "differs from the embedding, although config.json ties them"
                refuse(source.where, f"tensor {head!r} {why}")
        others = [x for x in others if x not in heads]
    if others:
        refuse(source.where, f"{_some(sorted(others))} not part of a {config.family} model")
    return names


def _equal(source: Source, a: str, b: str) -> bool:
    return source.shapes[a] == source.shapes[b] and np.array_equal(source.read(a), source.read(b))


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    return f"tensor{'s' * (len(names) > 1)} {shown}{more} {'are' if len(names) > 1 else 'is'}"


# ------------------------------------------------------------------------------------- writing


def save(
    lm: LanguageModel, folder: str | Path, *, shard_bytes: int = 5 * 10**9, replace: bool = False
) -> Path:
    """Write config.json and the parameters, bit for bit, as transformers would.

    A folder that holds a model already is refused unless `replace`.
    """
    return write(folder, lm.config, layout(lm.config), flatten(lm.params), shard_bytes, replace)


def write(
    folder: str | Path,
    config: Config,
    entries: list[Entry],
    flat: Mapping[str, Any],
    shard_bytes: int,
    replace: bool,
    **settings: Any,
) -> Path:
    """The parameters by their paths, and config.json with `settings` in it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    if old and not replace:
        raise FileExistsError(f"{folder} holds a model already ({old[0].name}): replace=True")
    tensors: list[Tensor] = []
    for entry in entries:
        absent = [path for path in entry.paths if path not in flat]
        if absent:
            raise ValueError(f"The parameters lack {absent[0]!r}.")
        if isinstance(flat[entry.paths[0]], Int8):
            raise TypeError(f"{entry.paths[0]!r} is quantised, which these files cannot hold.")
        dtypes = {np.dtype(flat[path].dtype) for path in entry.paths}
        if len(dtypes) > 1 or not dtypes <= set(FLOATS):
            raise TypeError(f"{entry.paths[0]!r} has dtype {dtypes}, which no file can hold.")
        (dtype,) = dtypes
        for n, (name, shape) in enumerate(zip(entry.names, entry.shapes, strict=True)):
            tensors.append((name, dtype, shape, _fetch(entry, n, flat)))
    extra = set(flat) - {path for entry in entries for path in entry.paths}
    if extra:
        raise ValueError(f"{sorted(extra)[0]!r} is not part of a {config.family} model.")
    sizes: dict[str, int] = {}
    for _, dtype, shape, _ in tensors:
        sizes[FLOATS[dtype]] = sizes.get(FLOATS[dtype], 0) + int(np.prod(shape))
    about = config_to_hf(config, max(sizes, key=lambda name: sizes[name])) | settings
    written = write_folder(folder, tensors, shard_bytes)
    put(folder / "config.json", (json.dumps(about, indent=2) + "\n").encode())
    for file in old:
        if file not in written:
            file.unlink()
    return folder


def _fetch(entry: Entry, n: int, flat: Mapping[str, Any]) -> Callable[[], Array]:
    return lambda: np.asarray(entry.pack([np.asarray(flat[path]) for path in entry.paths])[n])


__all__ = ["NAMES", "LanguageModel", "load", "read_config", "read_params", "save", "write"]
