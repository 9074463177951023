"""What every test relies on: host devices, the compilation cache, and warnings as errors.

`import jaxrl` comes first, because it settles the thread pool and the host devices before JAX
starts. JAXRL_CACHE=0 compiles everything afresh.
"""

from __future__ import annotations

import jaxrl  # isort: skip  # noqa: F401
from jaxrl import cache

cache.enable()
