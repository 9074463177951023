"""What every test relies on: host devices, the compilation cache, and warnings as errors.

`import jaxrl` comes first, because it settles the thread pool and the host devices before JAX
starts. JAXRL_CACHE=0 compiles everything afresh.
"""

from __future__ import annotations

import jaxrl  # isort: skip  # noqa: F401

import gc
from collections.abc import Iterator

import jax
import pytest

from jaxrl import cache

cache.enable()


LONG = ("test_kill.py", "test_checkpoint.py", "test_notebooks.py", "test_examples.py")
"""Files of few and long tests: they come first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True, scope="module")
def programs_are_given_back() -> Iterator[None]:
    """Every compiled program keeps a few memory maps, of which Linux allows a process 65,530 by
    default; beyond that the compiler crashes. The whole suite comes that far."""
    yield
    jax.clear_caches()
    gc.collect()
