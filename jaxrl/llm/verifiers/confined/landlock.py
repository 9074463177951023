"""Hiding files from a process with Linux' Landlock."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
from typing import Any

from .seccomp import ARCHITECTURES


def libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


READ_FILE, READ_DIR = 1 << 2, 1 << 3


def readable() -> list[str]:
    """What Python needs to import its library and the packages beside it."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(name) for name in names}
    found |= {os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")}
    found |= {"/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo"}
    found |= {"/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}
    return sorted(path for path in found if os.path.exists(path))


def landlock(alone: bool) -> int | None:
    """A ruleset that allows reading `readable()` and nothing else; None where there is none.

    `alone`: no signals to processes outside, not even the one that the kernel sends to the children
    of a process that ends, if they asked for it. So an examiner must not be alone."""
    if sys.platform != "linux" or os.uname().machine not in ARCHITECTURES:
        return None
    system = libc()
    version = system.syscall(444, None, 0, 1)
    if version < 1:
        return None
    files = (1 << 13) - 1
    files |= (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    net, scoped = (3 if version >= 4 else 0), (3 if version >= 6 and alone else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24  # what this version knows
    attributes = struct.pack("<QQQ", files, net, scoped)[:size]
    ruleset = system.syscall(444, attributes, len(attributes), 0)
    if ruleset < 0:
        return None
    for path in readable():
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
        system.syscall(445, ruleset, 1, struct.pack("<Qi", access, fd), 0)
        os.close(fd)
    return ruleset
