"""Taking rights away from a process, for good.

On Linux a seccomp filter refuses the system calls by which a process reaches out of itself, and
Landlock hides every file but those of Python. Neither needs to be root. Elsewhere only limits
remain.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from typing import Any

from .landlock import libc
from .seccomp import ARCHITECTURES, Instruction, seccomp_filter


def _prctl(option: int, value: int | Any = 0, third: int | Any = 0) -> int:
    return libc().prctl(option, value, third, 0, 0)


def die_with(parent: int) -> None:
    """This process is killed when its parent, the process `parent`, ends."""
    if sys.platform == "linux":
        _prctl(1, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)


def closed_to_others() -> None:
    """Processes of the same user cannot look into the memory of this one."""
    if sys.platform == "linux":
        _prctl(4, 0)


def adopt() -> None:
    """Descendants whose parents have gone become children of this process."""
    if sys.platform == "linux":
        _prctl(36, 1)


def _install(program: list[Instruction]) -> bool:
    """-> whether this process is filtered from now on."""
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    kept = ctypes.create_string_buffer(code, len(code))
    form = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(kept))
    described = ctypes.create_string_buffer(form, len(form))
    filtered = 2
    return _prctl(22, filtered, ctypes.c_void_p(ctypes.addressof(described))) == 0


def _drop_capabilities() -> None:
    header = struct.pack("<Ii", 0x20080522, 0)
    libc().capset(header, bytes(24))


def limit(memory: int, cpu: int) -> None:
    """`memory` in bytes of address space, `cpu` in seconds of computing."""

    def set_to(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS has none of the address space
            resource.setrlimit(kind, (value, value))

    set_to(resource.RLIMIT_AS, memory)
    set_to(resource.RLIMIT_CPU, cpu)
    set_to(resource.RLIMIT_FSIZE, 1 << 24)
    set_to(resource.RLIMIT_NOFILE, 64)
    set_to(resource.RLIMIT_CORE, 0)


def confine(memory: int, cpu: int, ruleset: int | None) -> bool:
    """Never to be undone in this process. -> whether the filter is in force; without it only
    limits are, and for those who are not root that of processes (no new ones)."""
    limit(memory, cpu)
    if sys.platform != "linux" or os.uname().machine not in ARCHITECTURES:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        return False
    _prctl(38, 1)  # no new privileges: what allows those who are not root to go on
    _drop_capabilities()
    if ruleset is not None:
        libc().syscall(446, ruleset, 0)
        os.close(ruleset)
    return _install(seccomp_filter(os.getpid()))
