"""Text to hyperparameters and back: `3e-4`, `none`, `linear`, `MLP((256, 256), activation=relu)`.

Text is parsed, never evaluated: names are those of the agent's own file and of the libraries of
parts below, and only classes that hold settings (dataclasses) can be called.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import sys
from typing import Any

import jaxrl
from jaxrl.cli import data

ACTIVATIONS = ("celu", "elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "softplus",
               "swish", "tanh")  # fmt: skip


def agent_class(algorithm: str) -> type[Any]:
    return getattr(jaxrl, data.algorithms()[algorithm]["class"])


def names(cls: type[Any]) -> dict[str, Any]:
    """What text about a field of `cls` may name. The agent's own file has the last word."""
    import flax.linen as nn

    from jaxrl import (
        behaviour,
        eligibility,
        episodes,
        features,
        networks,
        optim,
        policies,
        priority,
        replay,
        stepsizes,
        traces,
    )
    from jaxrl.losses import policy, value

    found: dict[str, Any] = {name: getattr(nn, name) for name in ACTIVATIONS}
    parts = (networks, optim, policy, value, policies, replay, priority, behaviour)
    parts = (*parts, stepsizes, traces, episodes, eligibility, features)
    for module in (*parts, sys.modules[cls.__module__]):
        for name, part in vars(module).items():
            ours = getattr(part, "__module__", "").startswith("jaxrl.")
            if ours and not name.startswith("_") and callable(part):
                found[name] = part
    return found


# ---------------------------------------------------------------------------------------- reading


def read(text: str, cls: type[Any], field: str) -> Any:
    """The value that `text` gives a field; ValueError says what is wrong."""
    kind = next(f for f in dataclasses.fields(cls) if f.name == field)
    declared = str(kind.type)
    flag = "--" + field.replace("_", "-")
    if text.lower() == "none" and "None" in declared:
        return None
    if declared.startswith("Float"):
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{flag} {text}: a number is needed, such as 3e-4.") from None
    if declared.startswith("int"):
        try:
            return int(text.replace(",", "_"))
        except ValueError:
            raise ValueError(f"{flag} {text}: a whole number is needed, such as 64.") from None
    try:
        value = expression(text, names(cls))
    except (ValueError, SyntaxError, TypeError) as error:
        said = "it cannot be read" if isinstance(error, SyntaxError) else error
        raise ValueError(f"{flag} {text}: {said}; the default is {show(kind.default)}.") from None
    widths = value if isinstance(value, tuple) else (value,)
    if all(type(x) is int for x in widths):  # `--actor 256,256`: the default with other widths
        default: Any = kind.default
        if not hasattr(default, "hidden"):
            raise ValueError(f"{flag} {text}: numbers do not say it all; see {show(default)}.")
        single = isinstance(default.hidden, int) and len(widths) == 1
        return default.clone(hidden=widths[0] if single else widths)
    return value


def expression(text: str, known: dict[str, Any]) -> Any:
    """Names, numbers, tuples, and calls of classes that hold settings."""
    return _value(ast.parse(text.strip(), mode="eval").body, known)


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_value(x, known) for x in parts)
        case ast.Name(id=name):
            return _named(name, known)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            function = _named(name, known)
            if not (isinstance(function, type) and dataclasses.is_dataclass(function)):
                raise ValueError(f"{name} takes no settings: write it without ()")
            return function(
                *(_value(x, known) for x in args),
                **{k.arg: _value(k.value, known) for k in keywords if k.arg is not None},
            )
        case _:
            raise ValueError(
                "names, numbers and settings like MLP((64, 64), activation=relu) are understood"
            )


def _named(name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5)
        raise ValueError(f"there is no {name}" + (f" (but {', '.join(near)})" if near else ""))
    return known[name]


# ---------------------------------------------------------------------------------------- writing


def show(value: Any) -> str:
    """As it would be typed."""
    if value is None or isinstance(value, str):
        return str(value).lower() if value is None else value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        inside = ", ".join(show(x) for x in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    if isinstance(value, functools.partial) or not dataclasses.is_dataclass(value):
        return getattr(value, "__name__", repr(value))
    given = [
        f"{f.name}={show(getattr(value, f.name))}"
        for f in dataclasses.fields(value)
        if f.name not in ("parent", "name")
        and (f.name == "hidden" or not _is_default(f, getattr(value, f.name)))
    ]
    return f"{type(value).__name__}({', '.join(given)})"


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    return field.default is value or (
        isinstance(value, int | float | str | tuple) and field.default == value
    )


# ------------------------------------------------------------------------------------- assembling


def agent(
    algorithm: str, settings: dict[str, Any], normalize_obs: bool, normalize_reward: bool
) -> Any:
    """The agent with its settings, text or numbers, inside the wrappers that were asked for."""
    cls = agent_class(algorithm)
    values = {
        name: read(value, cls, name) if isinstance(value, str) else value
        for name, value in settings.items()
    }
    built = cls(**values)
    if normalize_reward:
        built = jaxrl.NormalizeReward(built)
    if normalize_obs:
        built = jaxrl.NormalizeObs(built)
    return built


def environment(name: str, options: dict[str, Any], flatten: bool) -> Any:
    env = jaxrl.envs.make(name, **options)
    return jaxrl.envs.Flatten(env) if flatten else env


def option(text: str) -> tuple[str, Any]:
    """`gravity=5.0` of an environment."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--env-option {text}: write it like gravity=5.0.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
