"""What passes between the processes: frames (a length and JSON), and values as data."""

from __future__ import annotations

import decimal
import fractions
import json
import os
import struct
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct("<BH")
"""A request begins with its kind and the number of subjects it needs; a frame follows."""

LENGTH = struct.Struct("<I")
PROBE, ASSERTS, PROGRAM, PATTERN, SYMBOLIC, GYM = range(6)
PACKAGES = {SYMBOLIC: "math_verify", GYM: "reasoning_gym"}
"""Imported once by the server, before the first check that needs them"""


def read_exactly(fd: int, count: int) -> bytes:
    """Raises EOFError where the other side has gone."""
    parts: list[bytes] = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(fd: int, most: int = 1 << 30) -> Any:
    (length,) = LENGTH.unpack(read_exactly(fd, LENGTH.size))
    if length > most:
        raise ValueError("a frame is too long")
    return json.loads(read_exactly(fd, length))


def send(fd: int, value: Any) -> None:
    data = json.dumps(value).encode()
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


Handle = Callable[[Any], int]


def encode(x: Any, handle: Handle) -> Any:
    """Plain data with its types; anything else by its number."""
    if type(x) is int and abs(x) >> 64:
        return ["x", hex(x)]  # reading long decimals takes long
    if x is None or type(x) in (bool, int, float, str):
        return x
    if callable(getattr(type(x), "tolist", None)):  # arrays and their numbers
        array: Any = x
        return encode(array.tolist(), handle)
    for kind, name in ((bool, "o"), (int, "i"), (float, "r"), (str, "a")):
        if isinstance(x, kind):
            return [name, kind(x)]
    for kind, name in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "f")):
        if isinstance(x, kind):
            return [name, *(encode(item, handle) for item in x)]
    if isinstance(x, dict):
        return ["d", *([encode(k, handle), encode(v, handle)] for k, v in x.items())]
    if isinstance(x, bytes | bytearray):
        return ["b", x.decode("latin-1")]
    if isinstance(x, complex):
        return ["c", x.real, x.imag]
    if isinstance(x, fractions.Fraction):
        return ["q", encode(x.numerator, handle), encode(x.denominator, handle)]
    if isinstance(x, decimal.Decimal):
        return ["m", str(x)]
    return ["h", handle(x)]


def decode(x: Any, handle: Callable[[int], Any]) -> Any:
    if not isinstance(x, list):
        if isinstance(x, dict):
            raise ValueError("no such value")
        return x
    name, *rest = x
    if name == "h":
        return handle(int(rest[0]))
    if name == "d":
        return {decode(k, handle): decode(v, handle) for k, v in rest}
    if name == "b":
        return str(rest[0]).encode("latin-1")
    if name == "c":
        return complex(float(rest[0]), float(rest[1]))
    if name == "x":
        return int(str(rest[0]), 16)
    if name == "q":
        return fractions.Fraction(decode(rest[0], handle), decode(rest[1], handle))
    if name == "m":
        return decimal.Decimal(str(rest[0]))
    if name in "oira":
        return {"o": bool, "i": int, "r": float, "a": str}[name](rest[0])
    return {"l": list, "t": tuple, "s": set, "f": frozenset}[name](decode(y, handle) for y in rest)
