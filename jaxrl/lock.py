"""One process at a time writes to a folder.

`lock.json` in the folder says which process does: its number, host and time. The file is also
locked by the operating system, which lets go when the process ends in whatever way, so a run that
was killed leaves nothing to clean up. Between hosts, where such locks may not reach, the owner
touches the file every few seconds: one that has not been touched for longer was left behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import Any

TOUCH = 5.0
"""Seconds between two signs of life."""

PATIENCE = 30.0
"""Seconds without one after which the process on another host is taken for dead."""

Owner = dict[str, Any]


class Locked(RuntimeError):
    """Another process writes to the folder."""


class Lock:
    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "lock.json"
        self.owner: Owner = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "token": os.urandom(8).hex(),
        }
        self._handle: int | None = None
        self._over = threading.Event()
        self._sign = threading.Thread(target=self._live, daemon=True)

    def take(self) -> None:
        """Become the one that writes, or raise `Locked`."""
        while self._handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._refuse_if_held(handle)
                if _same_file(handle, self.path):  # else it was released while we looked
                    text = json.dumps(self.owner).encode()
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, text, 0)
                    self._handle, handle = handle, -1
            finally:
                if handle >= 0:
                    os.close(handle)
        self._sign.start()

    def _refuse_if_held(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            free = None
        owner = _read(os.pread(handle, 10_000, 0))
        if free is False:
            raise Locked(self._who(owner))
        if owner is None:
            return
        if owner["host"] == self.owner["host"]:
            if free is None and _alive(owner["pid"]):
                raise Locked(self._who(owner))
        elif not self._silent(handle):
            raise Locked(self._who(owner))

    def _silent(self, handle: int) -> bool:
        """Whether the owner on another host gives no sign of life."""
        probe = self.folder / f"lock.{self.owner['token']}"
        probe.touch()
        now = probe.stat().st_mtime  # by the clock that stamps the lock
        probe.unlink()
        before = os.fstat(handle).st_mtime
        if now - before > PATIENCE:
            return True
        print(f"{self.path}: waiting to see whether its owner lives", file=sys.stderr, flush=True)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(min(1.0, PATIENCE / 10))
            if os.stat(self.path).st_mtime != before:
                return False
        return True

    def _who(self, owner: Owner | None) -> str:
        if owner is None:
            who = "another process"
        elif (owner["pid"], owner["host"]) == (self.owner["pid"], self.owner["host"]):
            who = "this very process"
        else:
            who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
        return (
            f"{self.folder} is being written to by {who}: wait until it has ended, stop it, or "
            "give another folder."
        )

    def _live(self) -> None:
        while not self._over.wait(TOUCH):
            if self._handle is not None:
                try:
                    os.utime(self._handle)
                except OSError:
                    return

    def check(self) -> None:
        """Raise `Locked` if another process took over while this one gave no sign of life."""
        try:
            owner = _read(self.path.read_bytes())
        except OSError:
            return
        if owner is not None and owner["token"] != self.owner["token"]:
            raise Locked(self._who(owner))

    def release(self) -> None:
        if self._handle is None:
            return
        self._over.set()
        self._sign.join()
        handle, self._handle = self._handle, None
        owner = _read(os.pread(handle, 10_000, 0))
        ours = owner is not None and owner["token"] == self.owner["token"]
        if ours and _same_file(handle, self.path):
            self.path.unlink(missing_ok=True)
        os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    ours = os.fstat(handle)
    try:
        theirs = path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_ino, ours.st_dev) == (theirs.st_ino, theirs.st_dev)


def _read(text: bytes) -> Owner | None:
    """None for what no process has written, or not to the end."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kinds = {"pid": int, "host": str, "since": str, "token": str}
    if not isinstance(owner, dict):
        return None
    good = all(isinstance(owner.get(name), kind) for name, kind in kinds.items())
    return owner if good else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
