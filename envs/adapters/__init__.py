"""Environments of other libraries. Each module imports its library only when it is asked for one.

None of them uses the library's own auto-reset: it hides the true final observation. The driver
resets, and truncation is told apart from termination.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import spaces
from jaxrl.types import PyTree

T = TypeVar("T")


def settled(state: PyTree) -> PyTree:
    """`state` as arrays whose types are final.

    JAX marks what it made of a bare Python number as of weak type, and a program that was compiled
    for one is compiled again for the other. These libraries return some numbers weak from a reset
    and strong from a step; the contract wants both alike.
    """

    def settle(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return x.astype(x.dtype) if x.weak_type else x

    return jax.tree.map(settle, state)


def library(module: str, adapter: str) -> Any:
    """The library behind an adapter of the extra `suites`, or how to install it."""
    try:
        # JaxMARL greets whoever imports it, and what others use deprecated parts of JAX.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, and something it needs is not
        raise ImportError(
            f"{adapter}/... needs {module}: pip install 'jaxrl[suites]', or {module} alone."
        ) from error


def check_name(name: str, adapter: str, known: Sequence[str]) -> None:
    """Refuse a name the library does not have, and say which ones are nearest."""
    if name in known:
        return
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), 3, 0.5)
    near = [by_lower[k] for k in close] or list(known)[:3]
    raise ValueError(
        f"name='{adapter}/{name}' is unknown. Did you mean "
        f"{' or '.join(repr(f'{adapter}/{k}') for k in near)}? "
        f"jaxrl.envs.adapters.{adapter}.names() lists all {len(known)}."
    )


def once(made: dict[Any, T], key: tuple[Any, ...], build: Callable[[], T]) -> T:
    """The instance made for `key` before. These libraries' environments are compared by identity:
    the same instance is the same program. Options that cannot be compared give a new one."""
    try:
        hash(key)
    except TypeError:
        return build()
    if key not in made:
        made[key] = build()
    return made[key]


def recipe(made: dict[Any, Any], env: Any, adapter: str) -> tuple[str, dict[str, Any]] | None:
    """The call of `jaxrl.envs.make` that gave `env`, for files; keys are (name, *options)."""
    for (name, *options), other in made.items():
        if other is env:
            return f"{adapter}/{name}", dict(options)
    return None


def box(x: Any, low: Any = None, high: Any = None) -> spaces.Box:
    """The space of an array of known shape and type: flags 0 .. 1, bytes 0 .. 255, all others
    without bounds unless the library states them."""
    dtype = np.dtype(x.dtype)
    if dtype == np.bool_:
        low, high = 0, 1
    elif dtype == np.uint8 and low is None:
        low, high = 0, 255
    low = -np.inf if low is None else low
    high = np.inf if high is None else high
    return spaces.Box(low, high, tuple(x.shape), dtype)
