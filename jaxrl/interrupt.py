"""Ctrl-C and SIGTERM as a request to come to a good end: the chunk that runs is finished first."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, the first signal is only noted, in `asked`; a second one acts at once.

    Python delivers signals to the main thread alone, so elsewhere this does nothing. A signal that
    was being ignored (under `nohup`, say) stays ignored.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not None and before != signal.SIG_IGN:  # None: not set from Python
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.obey()
        self.asked = signal.Signals(number)
        text = f"\n{self.asked.name}: finishing this chunk, then saving; once more stops at once\n"
        os.write(2, text.encode())  # print is not safe in a signal handler

    def obey(self) -> None:
        """Do what was asked: leave, as if the signal had not been held back."""
        self._restore()
        if self.asked is signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
