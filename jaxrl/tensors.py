"""Named arrays and text in one file, in the safetensors format: no pickle, nothing that can run.

    8 bytes   length of the header
    header    JSON: {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets"}}
    data      the arrays, one behind the other

Any reader of that format opens what is written here. Ours also refuses everything that is not
exactly of this form, and files that changed since they were written: `sha256` in the metadata is
the digest of the whole file, with zeros in the digest's own place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

Array = np.ndarray[Any, Any]
Json = Any

HEADER_LIMIT = 100_000_000
"""Bytes of the longest header that other readers of the format accept."""

DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class FileRefused(ValueError):
    """A file is damaged, or not what it should be; the message says which and why."""


def refuse(where: object, why: str) -> NoReturn:
    raise FileRefused(f"{where} cannot be used: {why}.")


# ------------------------------------------------------------------------------------- writing


def put(path: str | Path, content: bytes) -> Path:
    """All or nothing: under another name first, renamed when everything is on disk."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".saving")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    return path


def pack(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes."""
    header: dict[str, Json] = {"__metadata__": {**metadata, "sha256": "0" * 64}}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end, data = 0, []
    for name in order:
        x = np.asarray(tensors[name])
        little = x.astype(x.dtype.newbyteorder("<"), copy=False)
        begin, end = end, end + x.nbytes
        header[name] = {"dtype": NAMES[x.dtype], "shape": x.shape, "data_offsets": (begin, end)}
        data.append(np.ascontiguousarray(little).tobytes())
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of their size
    return sealed(len(text).to_bytes(8, "little") + text + b"".join(data))


def sealed(content: bytes) -> bytes:
    """With the digest that belongs to the rest."""
    found = DIGEST.search(content)
    assert found is not None
    begin, end = found.span(1)
    zeroed = content[:begin] + b"0" * 64 + content[end:]
    return content[:begin] + hashlib.sha256(zeroed).hexdigest().encode() + content[end:]


# ------------------------------------------------------------------------------------- reading


def unpack(content: bytes, where: object) -> tuple[dict[str, Array], dict[str, str]]:
    """-> arrays, metadata without the digest. `where` is what errors call the file."""
    header, data = _checked(content, where)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        refuse(where, "its metadata is not text")
    places = {name: place_of(name, about, len(data), where) for name, about in header.items()}
    end = 0
    for name, (_, _, begin, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != end:
            refuse(where, f"tensor {name!r} begins at byte {begin}, not at {end} where it should")
        end = stop
    if end != len(data):
        refuse(where, f"its tensors take {end:,} bytes, but it has {len(data):,}")
    del metadata["sha256"]
    return {name: _array(data, place, name, where) for name, place in places.items()}, metadata


def _checked(content: bytes, where: object) -> tuple[dict[str, Json], memoryview]:
    """-> header and data, of a file that is as it was written."""
    if len(content) < 8:
        refuse(where, f"it has {len(content)} bytes, too few for a safetensors file")
    length, room = int.from_bytes(content[:8], "little"), len(content) - 8
    if length > min(room, HEADER_LIMIT):
        refuse(
            where,
            f"its header should have {length:,} bytes, but only {room:,} follow: it was truncated "
            "or damaged, or is no safetensors file",
        )
    text = content[8 : 8 + length]
    digests = DIGEST.findall(text)
    if len(digests) != 1:
        refuse(where, "it has no checksum: it was not written by jaxrl, or was damaged")
    if sealed(content) != content:
        refuse(where, "it does not have its checksum: it was damaged or changed")
    header = strict_json(text, where)
    if not isinstance(header, dict):
        refuse(where, "its header is not a JSON object")
    return header, memoryview(content)[8 + length :]


def place_of(name: str, about: Json, room: int, where: object) -> tuple[str, list[int], int, int]:
    """-> dtype, shape, first and last byte of one tensor."""

    def bad(why: str) -> NoReturn:
        refuse(where, f"tensor {name!r} {why}")

    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        bad("does not say dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        bad(f"has dtype {str(dtype)[:40]!r}; known are {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > 32:
        bad(f"has shape {str(shape)[:60]}")
    if not _sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        bad(f"lies at {str(offsets)[:60]} of {room} bytes")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        shown = f"{size:,}" if size < 2**63 else "more than 2**63"
        bad(f"has {offsets[1] - offsets[0]:,} bytes; {dtype}{shape} needs {shown}")
    return dtype, shape, offsets[0], offsets[1]


def _sizes(x: Json) -> bool:
    """A list of whole numbers, none of them negative; True and False are none."""
    return isinstance(x, list) and all(type(n) is int and 0 <= n < 2**63 for n in x)


def _array(data: memoryview, place: Any, name: str, where: object) -> Array:
    dtype, shape, begin, end = place
    raw = data[begin:end]
    if dtype == "BOOL" and raw.nbytes and np.frombuffer(raw, np.uint8).max() > 1:
        refuse(where, f"tensor {name!r} holds values that are neither true nor false")
    try:
        x = np.frombuffer(raw, DTYPES[dtype].newbyteorder("<")).reshape(shape)
    except ValueError as error:  # no elements, but sizes beyond what numpy can count
        refuse(where, f"tensor {name!r} has shape {shape}: {error}")
    return x.astype(DTYPES[dtype])  # a copy: aligned, writable, in the order of this machine


def strict_json(text: bytes | str, where: object) -> Json:
    """JSON without repeated names, NaN or infinity, and not nested too deep."""

    def object_of(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name is repeated")
        return found

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=object_of, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:100]
        refuse(where, f"its JSON cannot be read ({why})")
