"""Taking rights away from a process, for good: files, network, processes, signals, memory, time.

Needs the standard library alone, because it is loaded by `worker.py`, which knows no jaxrl. On Linux
a seccomp filter refuses the system calls by which a process reaches out of itself, and Landlock
hides every file but those of Python. Neither needs to be root. Elsewhere only limits remain.

The filter in words: no sockets, no new processes (threads are fine), no programs, no signals to
others, no looking into others, and no file opened for writing or changed in any way.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
from typing import Any

EPERM, EROFS, ENOSYS = 1, 30, 38

# Numbers of system calls on x86-64 and on arm64; -1 where there is none.
CALLS: dict[str, tuple[int, int]] = {
    "bind": (49, 200),
    "accept": (43, 202),
    "accept4": (288, 242),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chmod": (90, -1),
    "chown": (92, -1),
    "chroot": (161, 51),
    "connect": (42, 203),
    "creat": (85, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fork": (57, -1),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, -1),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "lchown": (94, -1),
    "link": (86, -1),
    "linkat": (265, 37),
    "listen": (50, 201),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "removexattr": (197, 14),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "request_key": (249, 218),
    "rmdir": (84, -1),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "setsid": (112, 157),
    "setxattr": (188, 5),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "socket": (41, 198),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, -1),
    "utimensat": (280, 88),
    "utimes": (235, -1),
    "vfork": (58, -1),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LAST_CALL = 461
"""What was added to Linux later is unknown to it here, whatever it can do."""

Instruction = tuple[int, int, int, int]
LOAD, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
JUMP_GREATER, MASK = 0x25, 0x54
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def _argument(n: int) -> Instruction:
    return (LOAD, 0, 0, 16 + 8 * n)  # the lower half: all arguments looked at are C ints


def _only(n: int, values: list[int]) -> list[Instruction]:
    """Allow the call if its argument n is one of `values`."""
    tests = [(JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(n), *tests, (RETURN, 0, 0, ERROR | EPERM), (RETURN, 0, 0, ALLOW)]


def _not(n: int, values: list[int]) -> list[Instruction]:
    tests = [(JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(n), *tests, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERROR | EPERM)]


def _reading(n: int) -> list[Instruction]:
    """Allow an `open` whose flags (argument n) neither write, create nor truncate."""
    writing = 0o3 | 0o100 | 0o1000
    refuse, allow = (RETURN, 0, 0, ERROR | EROFS), (RETURN, 0, 0, ALLOW)
    return [_argument(n), (JUMP_ANY_BIT, 0, 1, writing), refuse, allow]


def seccomp_filter(pid: int) -> list[Instruction]:
    column, architecture = ARCHITECTURES[os.uname().machine]
    thread = 0x00010000
    special: dict[tuple[int, int], list[Instruction]] = {
        # A thread or nothing. glibc tries clone3 first, whose flags a filter cannot see.
        (56, 220): [
            _argument(0),
            (JUMP_ANY_BIT, 1, 0, thread),
            (RETURN, 0, 0, ERROR | EPERM),
            (RETURN, 0, 0, ALLOW),
        ],
        (435, 435): [(RETURN, 0, 0, ERROR | ENOSYS)],
        (2, -1): _reading(1),  # open
        (257, 56): _reading(2),  # openat
        (437, 437): [(RETURN, 0, 0, ERROR | ENOSYS)],  # openat2
        (62, 129): _only(0, [pid]),  # kill
        (234, 131): _only(0, [pid]),  # tgkill
        (302, 261): _only(0, [0, pid]),  # prlimit64
        (203, 122): _only(0, [0, pid]),  # sched_setaffinity
        (157, 167): _only(0, [15, 16, 0x53564D41]),  # prctl: names of threads and of memory
        (72, 25): _not(1, [8, 10, 15, 1024]),  # fcntl: signals to others, leases
        # socketpair: a connected pair of streams, which event loops need
        (53, 199): [
            _argument(0),
            (JUMP_EQUAL, 0, 3, 1),
            _argument(1),
            (MASK, 0, 0, 0xF),
            (JUMP_EQUAL, 1, 0, 1),
            (RETURN, 0, 0, ERROR | EPERM),
            (RETURN, 0, 0, ALLOW),
        ],
    }
    program: list[Instruction] = [
        (LOAD, 0, 0, 4),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (JUMP_GREATER, 0, 1, LAST_CALL),
        (RETURN, 0, 0, ERROR | ENOSYS),
    ]
    for numbers, block in special.items():
        if numbers[column] >= 0:
            program += [(JUMP_EQUAL, 0, len(block), numbers[column]), *block]
    for numbers in CALLS.values():
        if numbers[column] >= 0:
            program += [(JUMP_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ERROR | EPERM)]
    return [*program, (RETURN, 0, 0, ALLOW)]


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | Any = 0, third: int | Any = 0) -> int:
    return _libc().prctl(option, value, third, 0, 0)


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
    _libc().capset(header, bytes(24))


# Landlock.

READ_FILE, READ_DIR = 1 << 2, 1 << 3


def readable() -> list[str]:
    """What Python needs to import its library and the packages beside it."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(name) for name in names}
    found |= {os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")}
    found |= {"/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo"}
    found |= {"/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}
    return sorted(path for path in found if os.path.exists(path))


def landlock() -> int | None:
    """A ruleset that allows reading `readable()` and nothing else; None where there is none."""
    if sys.platform != "linux" or os.uname().machine not in ARCHITECTURES:
        return None
    libc = _libc()
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return None
    files = (1 << 13) - 1
    files |= (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    net, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    attributes = struct.pack("<QQQ", files, net, scoped)[: 8 if version < 4 else 16 + 8 * (version >= 6)]
    ruleset = libc.syscall(444, attributes, len(attributes), 0)
    if ruleset < 0:
        return None
    for path in readable():
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
        libc.syscall(445, ruleset, 1, struct.pack("<Qi", access, fd), 0)
        os.close(fd)
    return ruleset


# All together.


def limit(memory: int, cpu: int) -> None:
    """`memory` in bytes of address space, `cpu` in seconds of computing."""

    def set_to(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            pass  # macOS has no limit of the address space

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
        _libc().syscall(446, ruleset, 0)
        os.close(ruleset)
    return _install(seccomp_filter(os.getpid()))
