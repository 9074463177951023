"""The persistent compilation cache, which programs switch on for themselves.

The library does not decide for whoever imports it; the demo, the tests, the benchmarks and the
notebooks call `enable`. A program compiled once is then loaded in a fraction of the time.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax

OFF = ("0", "off", "no", "false")


def enable() -> Path | None:
    """Keep compiled programs in a folder of the user's cache; returns it, or None when off.

    JAXRL_CACHE=0 switches it off, JAXRL_CACHE=/some/folder moves it. A folder that was already
    chosen with JAX_COMPILATION_CACHE_DIR stays.
    """
    wish = os.environ.get("JAXRL_CACHE", "")
    if wish.lower() in OFF:
        return None
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore
    if chosen and not wish:
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(wish).expanduser() if wish else home / "jaxrl" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
