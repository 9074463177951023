"""Agents and environments as JSON and back: what a file may say about a configuration.

A struct, a linen module or any other dataclass is written as the name of its class and its fields;
a function or a class as its name; arrays as their numbers. Reading imports what is named and calls
nothing but constructors of dataclasses: no pickle, no eval. A value that has no name (a lambda, a
foreign object) is written as `opaque`: it can be compared, but not rebuilt.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType
from typing import Any

import flax.linen as nn
import jax
import numpy as np

Json = Any

PUBLIC = ("jax.nn", "jax.numpy", "flax.linen", "optax")
"""Where a function is looked for first, whatever private module defines it: names that stay."""

FEW = 16
"""Arrays up to this size are written as numbers, larger ones as base64."""

LARGE = 2**24
"""Arrays of more bytes are compared by their hash, and must be given again."""


class NotDescribed(ValueError):
    """What a file says cannot be rebuilt here."""


# ---------------------------------------------------------------------------------------- names


def _lookup(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def name_of(value: Any) -> str | None:
    """ "module:qualname" from which exactly this object can be imported, or None."""
    qualname = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(qualname, str) or "<" in qualname:
        return None
    # Others define their public functions in private modules, which move.
    own = getattr(value, "__module__", None)
    homes = (*PUBLIC, own) if own and own.split(".")[0] in ("jax", "flax", "optax") else (own,)
    for module in homes:
        if not isinstance(module, str):
            continue
        try:
            if _lookup(f"{module}:{qualname}") is value:
                return f"{module}:{qualname}"
        except (ImportError, AttributeError):
            continue
    return None


def find(name: Any) -> Any:
    """The class or function of that name. Python's own library is closed: nothing there is an
    agent, and some of it runs commands."""
    if not isinstance(name, str) or name.count(":") != 1 or not all(name.split(":")):
        raise NotDescribed(f"{name!r} is not of the form 'module:name'")
    module, path = name.split(":")
    top = module.partition(".")[0]
    words = [*module.split("."), *path.split(".")]
    if not all(word.isidentifier() for word in words):
        raise NotDescribed(f"{name!r} is not of the form 'module:name'")
    if top in sys.stdlib_module_names and top != "__main__":
        raise NotDescribed(f"{name!r} is in Python's own library, which no configuration needs")
    try:
        found = _lookup(name)
    except ImportError as error:
        raise NotDescribed(f"{name!r} cannot be imported ({error})") from error
    except AttributeError as error:
        where = "the program that runs now" if module == "__main__" else module
        raise NotDescribed(f"{name!r} is not in {where}") from error
    origin = getattr(found, "__module__", None)
    if isinstance(origin, str) and origin.partition(".")[0] in sys.stdlib_module_names:
        if origin != "__main__":
            raise NotDescribed(f"{name!r} belongs to Python's own library")
    elif isinstance(found, BuiltinFunctionType) or not callable(found):
        raise NotDescribed(f"{name!r} is neither a class nor a function")
    return found


# -------------------------------------------------------------------------------------- writing


def describe(value: Any) -> Json:
    """`value` as JSON. Plain lists stand for tuples; objects carry a tag that says what they
    are."""
    match value:
        case None | bool() | str():
            return value
        case enum.Enum():
            return _named(value.__class__, {"member": value.name})
        case int():
            return int(value)
        case float():
            return _number(float(value))
        case tuple() if type(value) is tuple:
            return [describe(x) for x in value]
        case list():
            return {"list": [describe(x) for x in value]}
        case dict() if all(isinstance(k, str) for k in value):
            return {"dict": {k: describe(v) for k, v in value.items()}}
        case np.dtype():
            return {"dtype": value.name}
        case np.ndarray() | np.generic() | jax.Array():
            return _array(np.asarray(value))
        case functools.partial():
            return {
                "partial": describe(value.func),
                "args": [describe(x) for x in value.args],
                "keywords": {k: describe(v) for k, v in value.keywords.items()},
            }
        case _:
            return _object(value)


def _named(cls: type[Any], rest: dict[str, Json]) -> Json:
    name = name_of(cls)
    if name is None:
        return {"opaque": f"{cls.__module__}:{cls.__qualname__}", **rest}
    return {"class": name, **rest}


def _number(value: float) -> Json:
    return value if np.isfinite(value) else {"float": str(value)}


def _array(value: np.ndarray[Any, Any]) -> Json:
    if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
        return {"opaque": f"array of {value.dtype}"}
    head = {"array": value.dtype.name, "shape": list(value.shape)}
    finite = value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if value.size <= FEW and finite and value.dtype.kind in "fiub":
        return {**head, "values": value.ravel().tolist()}
    if value.nbytes > LARGE:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"opaque": f"array of {value.dtype.name}{list(value.shape)}, sha256 {digest}"}
    return {**head, "base64": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}


def _fields(value: Any) -> dict[str, Json]:
    """Linen keeps the module's place in a larger one beside its settings."""
    placed = ("parent", "name") if isinstance(value, nn.Module) else ()
    described: dict[str, Json] = {}
    for field in dataclasses.fields(value):
        if field.name in placed:
            continue
        own = getattr(value, field.name)
        said = describe(own)
        if field.default is own and _opaque(said):  # an initialiser, say: as good as a name
            said = {"default": field.name}
        described[field.name] = said
    return described


def _opaque(said: Json) -> bool:
    return isinstance(said, dict) and "opaque" in said


def _object(value: Any) -> Json:
    if callable(getattr(value, "recipe", None)) and not isinstance(value, type):
        recipe = value.recipe()  # an adapter's environment: the call of jaxrl.envs.make
        if recipe is not None:
            name, constants = recipe
            return _named(
                type(value),
                {"make": name, "constants": {k: describe(v) for k, v in constants.items()}},
            )
    if callable(getattr(value, "opaque", None)) and not isinstance(value, type):
        return {"opaque": value.opaque()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _named(type(value), {"fields": _fields(value)})
    name = name_of(value)
    if name:
        return {"name": name}
    kind = value if hasattr(value, "__qualname__") else type(value)
    return {"opaque": f"{kind.__module__}:{kind.__qualname__}"}


# -------------------------------------------------------------------------------------- reading


Find = Callable[[Any], Any]


def build(said: Json, where: str = "", find: Find = find) -> Any:
    """What `describe` described; `where` begins the place named in errors. `find` gives the class
    or function of a name, or refuses it with `NotDescribed`."""
    try:
        return _build(said, where, find)
    except NotDescribed:
        raise
    except Exception as error:  # constructors, NumPy's names of types: each in its own way
        raise NotDescribed(f"{where}: {type(error).__name__}: {error}") from error


def _build(said: Json, where: str, find: Find) -> Any:
    match said:
        case None | bool() | int() | float() | str():
            return said
        case list():
            return tuple(_build(x, f"{where}[{i}]", find) for i, x in enumerate(said))
        case {"opaque": what}:
            raise NotDescribed(f"{where} is {what}, which has no name to import it by")
        case {"list": list(values)}:
            return [_build(x, f"{where}[{i}]", find) for i, x in enumerate(values)]
        case {"dict": dict(values)}:
            return {k: _build(v, f"{where}.{k}", find) for k, v in values.items()}
        case {"float": str(text)}:
            return float(text)
        case {"dtype": str(name)}:
            return np.dtype(jax.numpy.bfloat16 if name == "bfloat16" else name)
        case {"array": str(dtype), "shape": list(shape), **rest}:
            return _read_array(dtype, shape, rest)
        case {"name": name}:
            return find(name)
        case {"partial": function, "args": list(args), "keywords": dict(keywords)}:
            return functools.partial(
                _build(function, where, find),
                *(_build(x, where, find) for x in args),
                **{k: _build(v, f"{where}.{k}", find) for k, v in keywords.items()},
            )
        case {"class": name, "member": str(member)}:
            cls = find(name)
            if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
                raise NotDescribed(f"{where}: {name!r} is no enumeration")
            return cls[member]
        case {"class": name, "make": str(env), "constants": dict(constants)}:
            return _make(name, env, constants, where, find)
        case {"class": name, "fields": dict(fields)}:
            return _instance(name, fields, where, find)
        case _:
            raise NotDescribed(f"{where}: {str(said)[:60]!r} describes nothing")


def _read_array(dtype: str, shape: list[Any], rest: dict[str, Any]) -> Any:
    kind = np.dtype(jax.numpy.bfloat16 if dtype == "bfloat16" else dtype)
    if kind.kind not in "fiub" and dtype != "bfloat16":
        raise NotDescribed(f"arrays of {dtype} are not read")
    if "values" in rest:
        flat = np.asarray(rest["values"], kind)
    else:
        flat = np.frombuffer(base64.b64decode(rest["base64"], validate=True), kind)
    return jax.numpy.asarray(flat.reshape(shape))


def _instance(name: str, fields: dict[str, Json], where: str, find: Find) -> Any:
    cls = find(name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise NotDescribed(f"{where}: {name!r} is not a jaxrl.struct or another dataclass")
    known = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for field, said in fields.items():
        at = f"{where}.{field}"
        if field not in known:
            raise NotDescribed(f"{at}: {cls.__name__} has no field {field!r} any more")
        if said == {"default": field}:
            continue
        values[field] = _build(said, at, find)
    if cls.__dataclass_params__.init:  # pyright: ignore
        late = [f for f in values if not known[f].init]
        built = cls(**{f: v for f, v in values.items() if f not in late})
    else:  # it has a constructor of its own, with other arguments
        built, late = object.__new__(cls), list(values)
    for field in late:
        object.__setattr__(built, field, values[field])
    return built


def _make(name: str, env: str, constants: dict[str, Json], where: str, find: Find) -> Any:
    cls, make = find(name), find("jaxrl.envs:make")
    made: Any = make(env, **{k: _build(v, f"{where}.{k}", find) for k, v in constants.items()})
    while type(made) is not cls:  # adapters add a time limit, which is described on its own
        if not hasattr(made, "env"):
            raise NotDescribed(f"{where}: jaxrl.envs.make({env!r}) no longer gives {name}")
        made = made.env
    return made


def _parts(said: dict[str, Json], where: str) -> dict[str, Json]:
    """What a described object is made of, by place."""
    parts: dict[str, Json] = {}
    for tag, value in said.items():
        if tag in ("fields", "dict", "constants", "keywords") and isinstance(value, dict):
            parts |= {f"{where}.{name}": x for name, x in value.items()}
        elif tag in ("list", "args") and isinstance(value, list):
            parts |= {f"{where}[{i}]": x for i, x in enumerate(value)}
    return parts


def opaque(said: Json, where: str) -> Iterator[tuple[str, str]]:
    """The places that cannot be rebuilt, and what is there."""
    if isinstance(said, list):
        for i, x in enumerate(said):
            yield from opaque(x, f"{where}[{i}]")
    elif isinstance(said, dict):
        if "opaque" in said:
            yield where, str(said["opaque"])
        for at, part in _parts(said, where).items():
            yield from opaque(part, at)


# ------------------------------------------------------------------------------------ comparing


def differences(saved: Json, given: Json, where: str) -> Iterator[tuple[str, str, str]]:
    """(field, saved value, given value) wherever two descriptions disagree."""
    if isinstance(saved, dict) and isinstance(given, dict):
        ours, theirs = _parts(saved, where), _parts(given, where)
        tags = ("class", "make", "partial", "member", "opaque")
        if (ours or theirs) and all(saved.get(tag) == given.get(tag) for tag in tags):
            for at in {**ours, **theirs}:
                if at in ours and at in theirs:
                    yield from differences(ours[at], theirs[at], at)
                else:
                    saw, sees = (show(x[at]) if at in x else "nothing" for x in (ours, theirs))
                    yield at, saw, sees
            return
    if not _equal(saved, given):
        yield where, show(saved), show(given)


def _numbers(said: Json) -> Any:
    """Numbers as they are computed with, in float32; None for anything else."""
    if isinstance(said, dict) and ("array" in said or "float" in said):
        return np.asarray(_build(said, "", find), np.float32)
    if isinstance(said, int | float) and not isinstance(said, bool):
        return np.asarray(said, np.float32)
    return None


def _equal(saved: Json, given: Json) -> bool:
    ours, theirs = _numbers(saved), _numbers(given)
    if ours is None or theirs is None:
        return type(saved) is type(given) and saved == given
    return ours.shape == theirs.shape and np.array_equal(ours, theirs, equal_nan=True)


def show(said: Json) -> str:
    """In as few words as tell two values apart."""
    match said:
        case list():
            return "(" + ", ".join(show(x) for x in said) + ")"
        case {"class": str(name), **rest}:
            inside = ", ".join(f"{at.lstrip('.')}={show(x)}" for at, x in _parts(rest, "").items())
            start = name.partition(":")[2]
            if "make" in rest:
                start, inside = (
                    "jaxrl.envs.make",
                    ", ".join(filter(None, (repr(rest["make"]), inside))),
                )
            return f"{start}({inside})" if "member" not in rest else f"{start}.{rest['member']}"
        case {"name": str(name)} | {"opaque": str(name)}:
            return name.replace(":", ".")
        case {"array": str(dtype), "shape": list(shape), **rest}:
            values = rest.get("values")
            if values is None:
                return f"{dtype} array of shape {tuple(shape)}"
            return f"{values[0]}" if not shape else f"{values}"
        case {"float": text} | {"dtype": text}:
            return str(text)
        case _:
            return repr(said)
