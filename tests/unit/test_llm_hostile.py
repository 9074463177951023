"""Programs that try to get a reward they do not deserve, to get out, or to stay for ever. Each is
one completion in the table; whatever it does, it gets the worth that stands there, the next
completion is scored as if nothing had been, and nothing of it is left."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxrl.llm.verifiers import Code, Pattern, Program, Symbolic, Unprotected, Workers, whole
from jaxrl.llm.verifiers import workers as pool

LINUX = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64")
pytestmark = pytest.mark.skipif(not LINUX, reason="completions are confined on Linux only")

# It must be 4, and no completion in FORGERIES computes it.
TESTS = "assert f(2) == 4\nassert f(3) == 9"

# For those who look for the tests: text shifted by one is compared, so that nobody finds himself.
LOOK = """
        import ctypes, gc, os, sys
        SHIFTED, TABLE = b"bttfsu!g)3*", bytes((i + 1) % 256 for i in range(256))
        def seen(data): return SHIFTED in data.translate(TABLE)

        def in_memory():
            write, (r, w) = ctypes.CDLL(None).write, os.pipe()
            for near in {id(x) >> 24 for x in (os, SHIFTED, write, [])}:
                start = near << 24
                for at in range(start - (1 << 24), start + (1 << 25), 4096):
                    if write(w, ctypes.c_void_p(at), 1) == 1:
                        os.read(r, 1)
                        if seen(ctypes.string_at(at, 4096)): return True
            return False
"""  # fmt: skip

# All are worth 0.
FORGERIES = {
    # Ending before the tests, as if they had passed.
    "os._exit(0)": "import os\nos._exit(0)",
    "os._exit(0) when called": "import os\ndef f(x): os._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "sys.exit when called": "import sys\ndef f(x): sys.exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "KeyboardInterrupt when called": "def f(x): raise KeyboardInterrupt",
    "GeneratorExit when called": "def f(x): raise GeneratorExit",
    "StopIteration when called": "def f(x): raise StopIteration",
    "own BaseException": "class E(BaseException): pass\ndef f(x): raise E",
    "an exception that breaks when looked at": """
        class Meta(type):
            def __getattribute__(cls, name): raise KeyboardInterrupt
        class E(BaseException, metaclass=Meta): pass
        def f(x): raise E
    """,
    "atexit": "import atexit, os\natexit.register(os._exit, 0)",
    "quit": "quit()",
    # Printing a verdict.
    "prints a verdict": """
        import json, os, sys
        text = json.dumps({"passed": 2, "total": 2})
        print(text)
        sys.stderr.write(text)
        sys.__stdout__.write(text)
        os.write(1, text.encode())
        def f(x): return text
    """,
    "writes a verdict to every file": """
        import json, os, struct
        text = json.dumps({"passed": 2, "total": 2}).encode()
        for fd in range(1024):
            for data in (text, b"R" + text, struct.pack("<I", len(text)) + text):
                try: os.write(fd, data)
                except OSError: pass
        def f(x): return 0
    """,
    "says ready, then that all is well": """
        import json, os, struct
        def say(x):
            data = json.dumps(x).encode()
            os.write(4, struct.pack("<I", len(data)) + data)
        say(["ready"]); say(["value", True, None]); say({"passed": 2, "total": 2})
    """,
    "answers with an unknown handle": """
        import json, os, struct
        data = json.dumps(["value", ["h", 10**9], None]).encode()
        os.write(4, (struct.pack("<I", len(data)) + data) * 9)
    """,
    "answers with no JSON": "import os\nos.write(4, b'\\x05\\0\\0\\0hello' * 9)",
    "answers with a length that never ends": "import os\nos.write(4, b'\\xff' * 99)",
    "answers with invalid UTF-8": "import os\nos.write(4, b'\\x04\\0\\0\\0\"\\xff\\xfe\"' * 9)",
    "answers with a deep list": """
        import os, struct
        data = b"[" * 100_000
        os.write(4, struct.pack("<I", len(data)) + data)
    """,
    "answers with an exception that ends programs": """
        import json, os, struct
        data = json.dumps(["raised", "SystemExit", None]).encode()
        os.write(4, (struct.pack("<I", len(data)) + data) * 9)
    """,
    "answers with something that is no exception": """
        import json, os, struct
        for name in ("exec", "__import__", "nothing"):
            data = json.dumps(["raised", name, None]).encode()
            os.write(4, struct.pack("<I", len(data)) + data)
    """,
    # Changing what the tests are made of.
    "equal to everything": """
        class All:
            def __eq__(self, other): return True
            def __bool__(self): return True
            def __hash__(self): return 4
        def f(x): return All()
    """,
    "an int equal to everything": """
        class All(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        def f(x): return All(5)
    """,
    "a list equal to everything": """
        class All(list):
            def __eq__(self, other): return True
        def f(x): return All()
    """,
    "an array equal to everything": """
        class All:
            def tolist(self): return self
            def __eq__(self, other): return True
        def f(x): return All()
    """,
    "patched builtins": """
        import builtins
        for name in ("AssertionError", "compile", "exec", "eval", "isinstance", "all", "any"):
            setattr(builtins, name, lambda *a, **k: True)
        def f(x): return 5
    """,
    "AssertionError that is none": "import builtins\nbuiltins.AssertionError = None",
    "patched json": 'import json\njson.dumps = lambda *a, **k: \'{"passed": 2, "total": 2}\'',
    "patched examiner": """
        import sys
        for module in [m for n, m in sys.modules.items() if n.startswith("confined")]:
            for name in dir(module):
                if not name.startswith("__"):
                    try: setattr(module, name, lambda *a, **k: True)
                    except Exception: pass
        def f(x): return 5
    """,
    "patched unittest": """
        import unittest
        unittest.TestCase.assertEqual = lambda *a: None
        unittest.TestCase.run = lambda *a: None
    """,
    "patched operators of int": """
        import ctypes
        def f(x): return 5
        try:
            p = ctypes.py_object.from_address(id(int.__dict__) + 16)
            p.value["__eq__"] = lambda a, b: True
        except Exception: pass
    """,
    "a trace function": "import sys\nsys.settrace(print)\nsys.setprofile(lambda *a: None)",
    "looks for the tests in its frames": LOOK
    + """
        def f(x):
            frame = sys._getframe()
            while frame:
                for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
                    if seen(repr(value).encode(errors="replace")): return x * x
                frame = frame.f_back
    """,
    "looks for the tests among all objects": LOOK
    + """
        def f(x):
            for o in gc.get_objects():
                if type(o) in (dict, list, tuple) and seen(repr(o).encode(errors="replace")):
                    return x * x
    """,
    "looks for the tests in its memory": LOOK
    + """
        def f(x):
            return x * x if in_memory() else None
    """,
    "reads its parent's memory": """
        import os
        def f(x):
            open(f"/proc/{os.getppid()}/mem", "rb").read(1)
            return x * x
    """,
    "reads its parent's files": """
        import os
        def f(x):
            os.listdir(f"/proc/{os.getppid()}/fd")
            return x * x
    """,
    "reads its parent's environment": """
        import os
        def f(x):
            open(f"/proc/{os.getppid()}/environ", "rb").read()
            return x * x
    """,
    "reads the tests' file": f"def f(x):\n    open({__file__!r}).read()\n    return x * x",
    "nothing": "",
    "no Python": "This is the answer: 4",
    "a null byte": "def f(x): return x * x\0",
    "a lone surrogate": "def f(x): return '\udc80'",
    "invalid UTF-8 as text": "def f(x): return b'\\xff\\xfe'.decode('utf-8', 'surrogateescape')",
    "deep brackets": "x = " + "(" * 5000 + ")" * 5000,
    "deep indentation": "\n".join(" " * i + "if 1:" for i in range(150)),
    "many minus signs": "x = " + "-" * 100_000 + "1",
    "a long line": "x = '" + "a" * 1_000_000 + "'",
    "deep list": "def f(x):\n    for _ in range(100_000): x = [x]\n    return x",
    "a list that holds itself": "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "a dict that holds itself": "def f(x):\n    x = {}\n    x[0] = x\n    return x",
    "NaN": "def f(x): return float('nan')",
    "a huge number": "def f(x): return 1 << 10_000_000",
    "a huge text": "def f(x): return 'a' * 50_000_000",
    "a type": "def f(x): return int",
    "a function": "def f(x): return f",
    "a generator": "def f(x): yield x * x",
    "f is no function": "f = 4",
    "True for 4": "def f(x): return True",
    "text for 4": "def f(x): return '4'",
    # Taking too much.
    "endless loop": "while True: pass",
    "endless loop when called": "def f(x):\n    while True: pass",
    "endless loop in C": "sum(iter(int, 1))",
    "sleeps": "import time\ntime.sleep(1000)",
    "sleeps when called": "import time\ndef f(x): time.sleep(1000)",
    "waits for input": "def f(x): return input()",
    "waits for a lock": "import threading\nx = threading.Lock()\nx.acquire()\nx.acquire()",
    "waits for itself": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "ignores signals": """
        import signal
        for n in range(1, 65):
            try: signal.signal(n, lambda *a: None)
            except (OSError, ValueError): pass
        while True: pass
    """,
    "blocks signals": """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: pass
    """,
    "goes on after its time": """
        import signal
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True:
            try:
                while True: pass
            except BaseException: pass
    """,
    "a finalizer that never ends": """
        class A:
            def __del__(self):
                while True: pass
        a = A()
        del a
    """,
    "an exception handler that never ends": """
        def f(x):
            try: raise ValueError
            finally:
                while True: pass
    """,
    "recursion": "def f(x): return f(x)",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "recursion in C": """
        import sys
        sys.setrecursionlimit(10**9)
        class A:
            def __getattr__(self, name): return getattr(self, name + "a")
        A().a
    """,
    "recursion in repr": """
        import sys
        sys.setrecursionlimit(10**9)
        x = []
        for _ in range(10**6): x = [x]
        repr(x)
    """,
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "kills itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "memory at once": "x = bytearray(1 << 40)",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory when called": "def f(x):\n    y = []\n    while True: y.append('a' * 10**6)",
    "memory again and again": """
        while True:
            try:
                x = []
                while True: x.append(bytearray(1 << 22))
            except MemoryError: pass
    """,
    "memory by mmap": "import mmap\nx = [mmap.mmap(-1, 1 << 26) for _ in range(10_000)]",
    "a big power": "9 ** 9 ** 9",
    "a big product": "'a' * 10**18",
    "a big list": "[0] * 10**12",
    "a big decimal": "from decimal import Decimal\nDecimal(10) ** 10**18 + 1",
    "slow regular expression": "import re\nre.match('(a+)+b', 'a' * 99)",
    "many threads": """
        import threading, time
        while True:
            try: threading.Thread(target=time.sleep, args=(1000,)).start()
            except RuntimeError: pass
    """,
    "threads that never end": """
        import threading
        def spin():
            while True: pass
        for _ in range(8): threading.Thread(target=spin).start()
    """,
    "a thread that exits": """
        import os, threading
        threading.Thread(target=os._exit, args=(0,)).start()
    """,
    "many files": "import os\nx = []\nwhile True: x.append(os.open('/dev/null', os.O_RDONLY))",
    "closes all files": "import os\nos.closerange(0, 10_000)\ndef f(x): return 4",
    "duplicates all files": "import os\nfor i in range(64): os.dup2(1, i)",
    "closes its answers": "import os\nos.close(4)\nimport time\ntime.sleep(1000)",
    "swaps its files": "import os\nos.dup2(3, 5); os.dup2(4, 3); os.dup2(5, 4)",
    "prints for ever": "while True: print('a' * 1000)",
    "prints for ever without line ends": "import os\nwhile True: os.write(1, b'a' * 65536)",
    "floods its answers": "import os\nwhile True: os.write(4, b'\\0' * 65536)",
    "floods with frames": "import os\nwhile True: os.write(4, b'\\1\\0\\0\\0[' * 1000)",
    "ANSI escapes": "print('\\x1b[2J\\x1b]0;pwned\\x07')\ndef f(x): return '\\x1b[31m4'",
    "terminal input": "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSTI, b'x')",
}

# What must be refused: the statement, tried within a function that then says so. Those that would
# do harm where they are not refused send signal 0, or go to places that are not there.
REFUSED = {
    "fork": "os.fork()",
    "fork by ctypes": "check(libc.fork())",
    "vfork": "check(libc.vfork())",
    "clone": "check(libc.syscall(56 if x86 else 220, 17, 0, 0, 0, 0))",
    "clone3": "check(libc.syscall(435, bytes(88), 88))",
    "fork bomb": "while True: os.fork()",
    "forks and outlives": "if not os.fork(): os.setsid(); time.sleep(1000)",
    "subprocess": "subprocess.run(['/bin/sh', '-c', 'sleep 1000'])",
    "os.system": "raised(lambda: check(-abs(os.system('sleep 1000'))))",
    "os.posix_spawn": "os.posix_spawn('/bin/sleep', ['sleep', '1000'], {})",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "exec of Python": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "multiprocessing": "multiprocessing.get_context('fork').Process(target=print).start()",
    "pty": "raised(pty.fork)",
    "new session": "os.setsid()",
    "new group": "os.setpgid(0, 0)",
    "kills its parent": "os.kill(os.getppid(), 0)",
    "kills its grandparent's group": "os.killpg(os.getpgid(os.getppid()), 0)",
    "kills everybody": "os.kill(-1, 0)",
    "kills its group": "os.kill(0, 0)",
    "kills the trainer": "os.kill(TRAINER, 0)",
    "interrupts the trainer": "os.kill(TRAINER, 0)",
    "queues a signal": "check(libc.sigqueue(os.getppid(), 0, None))",
    "signals by tkill": "check(libc.syscall(200 if x86 else 130, os.getppid(), 0))",
    "signals by a file": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "signals by pidfd": "os.pidfd_open(os.getppid())",
    "traces its parent": "check(libc.ptrace(16, os.getppid(), 0, 0))",
    "reads the trainer": "check(libc.process_vm_readv(TRAINER, 0, 0, 0, 0, 0))",
    "limits its parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "slows its parent": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "moves its parent": "os.sched_setaffinity(os.getppid(), {0})",
    "lives on without its parent": "check(libc.prctl(1, 0, 0, 0, 0))",
    "opens itself to others": "check(libc.prctl(4, 1, 0, 0, 0))",
    "more memory": "raised(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))",
    "more time": "raised(lambda: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)))",
    "TCP": "socket.socket()",
    "UDP": "socket.socket(type=socket.SOCK_DGRAM)",
    "IPv6": "socket.socket(socket.AF_INET6)",
    "Unix sockets": "socket.socket(socket.AF_UNIX)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "raw packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "datagrams of a pair": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a pair that connects": "socket.socketpair()[0].connect('/run/x')",
    "socket by ctypes": "check(libc.socket(2, 1, 0))",
    "HTTP": "raised(lambda: urllib.request.urlopen('http://127.0.0.1:1'))",
    "names": "raised(lambda: socket.getaddrinfo('example.org', 80))",
    "io_uring": "check(libc.syscall(425, 8, bytes(120)))",
    "writes here": "open('x', 'w')",
    "writes to /tmp": "open('/tmp/jaxrl-was-here', 'w')",
    "writes to /dev/shm": "open('/dev/shm/jaxrl-was-here', 'w')",
    "appends to a file": "open(VICTIM, 'a')",
    "truncates a file": "os.truncate(VICTIM, 0)",
    "removes a file": "os.unlink(VICTIM)",
    "renames a file": "os.rename(VICTIM, VICTIM + 'x')",
    "opens a file to all": "os.chmod(VICTIM, 0o777)",
    "touches a file": "os.utime(VICTIM)",
    "attributes of a file": "os.setxattr(VICTIM, 'user.x', b'x')",
    "makes a folder": "os.mkdir('x')",
    "makes a link": "os.symlink('/', 'x')",
    "makes a hard link": "os.link(VICTIM, 'x')",
    "makes a pipe with a name": "os.mkfifo('x')",
    "makes a device": "os.mknod('x')",
    "a temporary file": "raised(tempfile.TemporaryFile)",
    "a file in memory": "os.memfd_create('x')",
    "shared memory": "check(libc.shmget(0, 4096, 0o1600))",
    "a semaphore": "multiprocessing.Semaphore()",
    "openat2": "check(libc.syscall(437, -100, b'x', bytes([66]) + bytes(23), 24))",
    "creates by ctypes": "check(libc.creat(b'x', 0o600))",
    "reads /etc/passwd": "open('/etc/passwd')",
    "reads the home folder": "os.listdir(os.path.expanduser('~root'))",
    "reads the root folder": "os.listdir('/')",
    "reads this table": "open(TABLE)",
    "reads through a link": "open('/proc/self/' + 'root' + '/etc/passwd')",
    "reads its own status": "open('/proc/self/status')",
    "walks upwards": "os.listdir('../..')",
    "changes its root": "os.chroot('/')",
    "mounts": "check(libc.mount(b'none', b'/nowhere', b'tmpfs', 0, 0))",
    "new namespaces": "check(libc.unshare(0x10000000))",
    "becomes another user": "raised(lambda: os.setuid(1))",
    "changes the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "changes the host's name": "socket.sethostname(socket.gethostname())",
    "keys of the kernel": "check(libc.syscall(248 if x86 else 217, b'user', b'x', b'y', 1, -2))",
    "BPF": "check(libc.syscall(321 if x86 else 280, 0, 0, 0))",
    "performance events": "check(libc.syscall(298 if x86 else 241, 0, 0, 0, 0, 0))",
    "calls of tomorrow": "check(libc.syscall(500))",
    "calls of the x32 kind": "check(libc.syscall(0x40000000 + 41, 2, 1, 0))",
    "syncs all disks": "check(libc.syscall(162 if x86 else 81))",
}

ATTEMPT = """
import ctypes, os, sys
{imports}
libc = ctypes.CDLL(None, use_errno=True)
x86 = os.uname().machine == "x86_64"
TRAINER, TABLE, VICTIM = {trainer}, {table!r}, {victim!r}

def check(status):
    if status < 0:
        raise OSError(ctypes.get_errno(), "refused")

def raised(action):
    try:
        action()
    except (OSError, ValueError):
        raise OSError(1, "refused")

def attempt():
    try:
        {statement}
    except OSError as error:
        return "refused" if error.errno in (1, 13, 30, 38) else repr(error)
    return "done"
"""

# As programs that print: the worth, the program, the input, what it should print.
PROGRAMS: dict[str, tuple[float, str, str, str]] = {
    "an honest one": (1.0, "print(int(input()) ** 2)", "3", "9\n"),
    "reads all": (1.0, "print(sum(map(int, open(0).read().split())))", "1\n2\n", "3"),
    "exits with 0": (1.0, "print(9)\nraise SystemExit", "", "9"),
    "a thread that prints": (
        1.0,
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print(9))).start()",
        "",
        "9",
    ),
    "asyncio": (1.0, "import asyncio\nasync def f(): print(9)\nasyncio.run(f())", "", "9"),
    "wrong": (0.0, "print(8)", "", "9"),
    "right, then exits with 1": (0.0, "print(9)\nexit(1)", "", "9"),
    "right, then fails": (0.0, "print(9, flush=True)\n1 / 0", "", "9"),
    "right, then dies": (0.0, "import os\nprint(9, flush=True)\nos.abort()", "", "9"),
    "right, then hangs": (0.0, "print(9, flush=True)\nwhile 1: pass", "", "9"),
    "right, closes, then hangs": (
        0.0,
        "import os, time\nprint(9, flush=True)\nos.close(1)\ntime.sleep(1000)",
        "",
        "9",
    ),
    "prints for ever": (0.0, "while 1: print(9)", "", "9"),
    "prints invalid UTF-8": (0.0, "import os\nos.write(1, b'\\xff9')", "", "9"),
    "prints null bytes": (0.0, "print('9' + chr(0))", "", "9"),
    "prints a verdict": (0.0, """print('R{"passed": 1, "total": 1}')""", "", "9"),
    "writes to its input": (0.0, "import os\nos.write(0, b'9')", "", "9"),
    "fills its input": (0.0, "import os\nwhile 1: os.write(0, b'9' * 10**6)", "", "9"),
    "answers elsewhere": (0.0, "import os\nfor i in range(3, 99): os.write(i, b'9')", "", "9"),
    "patches print": (0.0, "import builtins\nbuiltins.print = lambda *a: None\nprint(9)", "", "9"),
    "a stdout of its own": (0.0, "import sys, io\nsys.stdout = io.StringIO()\nprint(9)", "", "9"),
    "looks for the answer": (
        0.0,
        "import gc\n[print(o['expected']) for o in gc.get_objects() if isinstance(o, dict) "
        "and 'expected' in o]",
        "",
        "secret",
    ),
}  # fmt: skip

MODULES = ("fcntl", "multiprocessing", "pty", "resource", "signal", "socket", "subprocess")
MODULES = (*MODULES, "tempfile", "time", "urllib.request")


def attempt(statement: str, victim: Path) -> str:
    """A completion whose function `attempt` says how it went."""
    needed = [name for name in MODULES if name + "." in statement]
    return ATTEMPT.format(
        imports="\n".join(f"import {name}" for name in needed),
        trainer=os.getpid(),
        table=__file__,
        victim=str(victim),
        statement=statement,
    )


GOOD = "def f(x):\n    return x * x"


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(4, seconds=0.8, memory=256, output=1 << 18) as workers:
        yield workers


@pytest.fixture(scope="module")
def patient() -> Iterator[Workers]:
    """For those that end by themselves: a busy machine is no reason to fail."""
    with Workers(4, seconds=20.0, memory=256, output=1 << 18) as workers:
        yield workers


@pytest.fixture(scope="module")
def worths(
    workers: Workers, patient: Workers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float | None]:
    """All of the tables, several at a time, and a good completion after each."""
    code, program = (
        {pool: kind(pool, extract=whole) for pool in (workers, patient)} for kind in (Code, Program)
    )
    victim = tmp_path_factory.mktemp("hostile") / "victim"
    victim.write_text("untouched")
    jobs = {}
    for name, source in FORGERIES.items():
        jobs["forgery " + name] = (code[workers], textwrap.dedent(source), TESTS)
    for name, statement in REFUSED.items():
        source = attempt(statement, victim)
        jobs["refused " + name] = (code[patient], source, 'assert attempt() == "refused"')
    for name, (worth, source, given, printed) in PROGRAMS.items():
        verifier = program[patient if worth else workers]
        jobs["program " + name] = (verifier, source, json.dumps([[given, printed]]))

    def one(name: str) -> tuple[float | None, float | None]:
        verifier, completion, answer = jobs[name]
        good = code[verifier.workers]
        return verifier(completion, answer), good(GOOD, TESTS) or good(GOOD, TESTS)

    with ThreadPoolExecutor(4) as threads:
        found = dict(zip(jobs, threads.map(one, jobs), strict=True))
    assert victim.read_text() == "untouched" and len(list(victim.parent.iterdir())) == 1
    after = {name: good for name, (_, good) in found.items() if good != 1.0}
    assert not after, f"after these, a good completion was not worth 1: {after}"
    return {name: worth for name, (worth, _) in found.items()}


def test_there_are_a_hundred_of_them() -> None:
    assert len(FORGERIES) >= 100 and len(REFUSED) >= 80 and len(PROGRAMS) >= 20


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_is_worth_anything(name: str, worths: dict[str, float | None]) -> None:
    assert worths["forgery " + name] == 0.0


@pytest.mark.parametrize("name", [name for name in FORGERIES if "looks for" in name])
def test_those_who_look_would_find(name: str, patient: Workers) -> None:
    leak = "leaked = {'it': ['asser' 't f(2)' for _ in range(9)]}\n"
    assert Code(patient, extract=whole)(leak + textwrap.dedent(FORGERIES[name]), TESTS) == 1.0


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, worths: dict[str, float | None]) -> None:
    assert worths["refused " + name] == 1.0


READS = ("reads ", "walks ")


def test_without_landlock_only_reading_is_not_refused(tmp_path: Path) -> None:
    """As on older kernels and in some containers: the filter does the rest by itself."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    workers = Workers(4, seconds=20.0, memory=256)
    workers.options["landlock"] = False

    def one(name: str) -> float | None:
        source = attempt(REFUSED[name], victim)
        return Code(workers, extract=whole)(source, 'assert attempt() == "refused"')

    with workers, ThreadPoolExecutor(4) as threads:
        names = [name for name in REFUSED if not name.startswith(READS)]
        found = dict(zip(names, threads.map(one, names), strict=True))
        assert not workers.guarantees["reading"]
    assert [name for name, worth in found.items() if worth != 1.0] == []
    assert victim.read_text() == "untouched" and list(tmp_path.iterdir()) == [victim]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_worth_what_it_prints(name: str, worths: dict[str, float | None]) -> None:
    assert worths["program " + name] == PROGRAMS[name][0]


def test_what_happened_was_counted(
    workers: Workers, patient: Workers, worths: dict[str, float | None]
) -> None:
    counts = workers.counts
    assert counts["checks"] + patient.counts["checks"] >= 2 * len(worths)
    assert counts["time"] >= 15 and counts["memory"] >= 3 and counts["crash"] >= 3
    assert counts["output"] >= 1 and counts["tests"] == counts["missing"] == 0
    assert counts["worker"] == patient.counts["worker"] == 0  # no server was lost


def descendants(of: int) -> dict[int, str]:
    """Processes that come from this one, and how they were called."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(
                    (folder / "stat").read_text().rpartition(")")[2].split()[1]
                )
                names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue

    def comes(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == of:
                return True
        return False

    return {pid: names.get(pid, "") for pid in parents if comes(pid)}


def test_nothing_is_left(workers: Workers, worths: dict[str, float | None]) -> None:
    del workers, worths
    mine = descendants(os.getpid())
    assert sum("from confined" in name for name in mine.values()) == 8  # the servers
    marks = ('"seconds": 0.8', '"seconds": 20.0')
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in mine:
            words, stat = read(folder / "cmdline"), read(folder / "stat")
            if "from confined" in words and any(mark in words for mark in marks):
                assert stat.rpartition(")")[2].split()[1] != "1", "an orphan"
    assert not Path("/tmp/jaxrl-was-here").exists()
    assert not Path("/dev/shm/jaxrl-was-here").exists()


def test_all_guarantees_hold_here(workers: Workers) -> None:
    kept = workers.guarantees
    assert kept.pop("reading") or not os.path.exists("/sys/kernel/security/landlock")
    assert kept and all(kept.values())


def test_a_server_that_was_killed_is_replaced() -> None:
    with Workers(1, seconds=1.0) as workers:
        code = Code(workers)
        assert code(GOOD, TESTS) == 1.0
        for pid in [p for p, name in descendants(os.getpid()).items() if '"seconds": 1.0' in name]:
            os.kill(pid, 9)
        assert code(GOOD, TESTS) == 1.0
        assert workers.counts["worker"] == 0


def test_a_killed_server_takes_its_check_with_it() -> None:
    seconds = 2.25
    with Workers(1, seconds=seconds) as workers:
        code = Code(workers)
        assert code(GOOD, TESTS) == 1.0

        def running() -> list[int]:
            mark = f'"seconds": {seconds}'
            folders = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
            return [int(p.name) for p in folders if mark in read(p / "cmdline")]

        (server,) = running()
        found: list[float | None] = []
        sleeper = "import time\ndef f(x): time.sleep(1000)"
        thread = threading.Thread(target=lambda: found.append(code(sleeper, TESTS)))
        thread.start()
        while len(running()) < 3:  # server, examiner, subject
            time.sleep(0.01)
        time.sleep(0.3)  # now it sleeps, and all are confined
        old = set(running())
        os.kill(server, 9)
        deadline = time.monotonic() + 3
        while old & set(running()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not old & set(running())
        thread.join()  # a second server tried again, until its time was up
        assert found == [0.0]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_closing_ends_the_processes_and_their_folders(tmp_path: Path) -> None:
    with Workers(2, seconds=1.25) as workers:
        Code(workers)(GOOD, TESTS)
        folders = [s.folder for s in list(workers._free.queue) if s]  # pyright: ignore
        assert folders and all(os.path.isdir(folder) for folder in folders)
    assert not any(os.path.exists(folder) for folder in folders)
    assert not [n for n in descendants(os.getpid()).values() if '"seconds": 1.25' in n]


def test_works_beside_the_main_thread_and_keeps_its_time() -> None:
    found: list[float | None] = []
    with Workers(1, seconds=0.5) as workers:
        code = Code(workers)
        assert code(GOOD, TESTS) == 1.0  # started
        began = time.monotonic()
        thread = threading.Thread(target=lambda: found.append(code("while True: pass", TESTS)))
        thread.start()
        thread.join()
        assert found == [0.0] and 0.4 < time.monotonic() - began < 3.0


def test_time_and_memory_are_those_asked_for() -> None:
    with Workers(1, seconds=2.0, memory=128) as small, Workers(1, seconds=2.0, memory=512) as large:
        source = "def f(x):\n    bytearray(200 << 20)\n    return x * x"
        assert Code(small)(source, TESTS) == 0.0 and small.counts["memory"] == 1
        assert Code(large)(source, TESTS) == 1.0 and large.counts["memory"] == 0
        wait = "import time\ndef f(x):\n    time.sleep(0.6)\n    return x * x"
        assert Code(large)(wait, TESTS) == 1.0 and large.counts["time"] == 0


def test_computing_can_be_limited_apart_from_time() -> None:
    with Workers(1, seconds=20.0, cpu=1) as workers:
        began = time.monotonic()
        assert Code(workers)("while True: pass", TESTS) == 0.0
        assert time.monotonic() - began < 10.0
        assert workers.counts["time"] == 1


def test_regular_expressions_and_formulas_may_hang(workers: Workers) -> None:
    assert Pattern(workers, "(a+)+b")("a" * 40) is None
    assert Pattern(workers, "(a+)+b")("aab") == 1.0
    assert Pattern(workers, "(")("a") is None
    worth = Symbolic(workers)("$9^{9^{9^{9}}}$", "3")
    assert worth in (None, 0.0)


def test_a_machine_that_confines_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(self: object, *question: object) -> dict[str, bool]:
        return {"network": False, "processes": True, "signals": True, "writing": True}

    monkeypatch.setattr(pool._Server, "ask", probed)  # pyright: ignore
    with pytest.raises(Unprotected, match="network.*unprotected=True"):
        Code(Workers(1))(GOOD, TESTS)
    assert not Workers(1, unprotected=True).guarantees["network"]


@pytest.mark.parametrize("name", ["count", "seconds", "memory", "cpu", "output"])
def test_limits_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1"):
        Workers(**{name: -1})
