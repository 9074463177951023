"""Safetensors files read and written tensor by tensor, so that a checkpoint never has to fit into
memory twice. `jaxrl.tensors` has the format and its checks; these files carry no digest, because
other programs write and read them too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxrl.tensors import DTYPES, HEADER_LIMIT, NAMES, Array, place_of, refuse, strict_json

Shape = tuple[int, ...]


class Source(Protocol):
    """Named tensors whose shapes are known before any of them is read."""

    @property
    def where(self) -> object: ...

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, name: str) -> Array: ...


class Shards:
    """The tensors of one or several safetensors files."""

    def __init__(self, files: Sequence[Path], where: object) -> None:
        self.where = where
        self.shapes: dict[str, Shape] = {}
        self._places: dict[str, tuple[Path, str, int]] = {}
        for file in files:
            for name, (dtype, shape, begin) in _places(file).items():
                if name in self._places:
                    refuse(file, f"tensor {name!r} is also in {self._places[name][0].name}")
                self._places[name] = file, dtype, begin
                self.shapes[name] = tuple(shape)

    def read(self, name: str) -> Array:
        """A view of the file; nothing is copied yet."""
        file, dtype, begin = self._places[name]
        shape = self.shapes[name]
        if not math.prod(shape):
            return np.zeros(shape, DTYPES[dtype])
        raw = np.memmap(file, np.uint8, "r", begin, (math.prod(shape) * DTYPES[dtype].itemsize,))
        return raw.view(DTYPES[dtype].newbyteorder("<")).reshape(shape)


def _places(file: Path) -> dict[str, tuple[str, list[int], int]]:
    """-> dtype, shape and first byte of each tensor of a file."""
    size = file.stat().st_size
    with open(file, "rb") as f:
        length, room = int.from_bytes(f.read(8), "little"), size - 8
        if not 0 < length <= min(room, HEADER_LIMIT):
            refuse(file, f"its header should have {length:,} bytes, but {max(room, 0):,} follow")
        header = strict_json(f.read(length), file)
    if not isinstance(header, dict):
        refuse(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    found: dict[str, tuple[str, list[int], int]] = {}
    for name, about in header.items():
        dtype, shape, begin, _ = place_of(name, about, room - length, file)
        found[name] = dtype, shape, 8 + length + begin
    return found


def open_folder(folder: Path) -> Shards:
    """model.safetensors, or the files that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return Shards([single], folder)
    if not index.is_file():
        refuse(folder, "it has neither model.safetensors nor model.safetensors.index.json")
    data = strict_json(index.read_bytes(), index)
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not all(isinstance(x, str) for x in names.values()):
        refuse(index, "it has no weight_map of names")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            refuse(index, f"the file {name!r} that it names is not there")
    shards = Shards([folder / name for name in files], folder)
    for name in names:
        if name not in shards.shapes:
            refuse(index, f"tensor {name!r} is in none of its files")
    return shards


Tensor = tuple[str, np.dtype[Any], Shape, Callable[[], Array]]
"""Name, dtype and shape of a tensor, and what fetches it"""


def write(file: Path, tensors: Iterable[Tensor]) -> None:
    """All or nothing, and only one tensor in memory at a time."""
    tensors = sorted(tensors, key=lambda t: (-t[1].itemsize, t[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # readers insist on a format
    end = 0
    for name, dtype, shape, _ in tensors:
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    draft = file.with_name(file.name + ".saving")
    try:
        with open(draft, "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for _, dtype, shape, fetch in tensors:
                x = fetch()
                assert x.shape == shape and x.dtype == dtype
                x = x.astype(dtype.newbyteorder("<"), copy=False)
                f.write(np.ascontiguousarray(x).tobytes())
            f.flush()
            os.fsync(f.fileno())
        os.replace(draft, file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_folder(folder: Path, tensors: Sequence[Tensor], limit: int) -> list[Path]:
    """-> the files written, each of at most `limit` bytes (but for a tensor that is larger)."""
    groups: list[list[Tensor]] = [[]]
    room = limit
    for tensor in tensors:
        size = math.prod(tensor[2]) * tensor[1].itemsize
        if size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= size
    if len(groups) == 1:
        file = folder / "model.safetensors"
        write(file, groups[0])
        return [file]
    names = [f"model-{n + 1:05}-of-{len(groups):05}.safetensors" for n in range(len(groups))]
    for name, group in zip(names, groups, strict=True):
        write(folder / name, group)
    total = sum(math.prod(t[2]) * t[1].itemsize for t in tensors)
    index = folder / "model.safetensors.index.json"
    weights = {t[0]: name for name, group in zip(names, groups, strict=True) for t in group}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
    index.write_text(json.dumps(content, indent=2) + "\n")
    return [*(folder / name for name in names), index]
