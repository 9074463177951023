"""A filter of system calls, as Linux' seccomp takes it.

In words: no sockets, no new processes (threads are fine), no programs, no signals to others, no
looking into others, and no file opened for writing or changed in any way.
"""

from __future__ import annotations

import os

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
