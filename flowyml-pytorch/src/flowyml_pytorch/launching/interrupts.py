"""Signals that end this process, while ranks run: never when ranks would be left by it.

torch's agent raises an error where a signal finds it. While it starts ranks it doesn't know them
yet, and nobody would end them; and whoever presses Ctrl-C again mustn't keep others from ending.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from torch.distributed.elastic.multiprocessing.api import SignalException

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"
"""Which signals torch's agent is to handle: none, as they are handled here."""


class Interrupts:
    """Raises torch's `SignalException` for signals that would end this process; a context.

    It only notes them, at first. Handlers of the user stay; so do those of all signals where this
    isn't the main thread.

    Attributes:
        came: the first signal that came.
        again: whether another one has come since.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self.again = False
        self._held = True
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._variable = os.environ.get(_VARIABLE)
        if threading.current_thread() is threading.main_thread():
            os.environ[_VARIABLE] = ""
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if threading.current_thread() is threading.main_thread():
            del os.environ[_VARIABLE]
            if self._variable is not None:
                os.environ[_VARIABLE] = self._variable

    def hold(self) -> None:
        """Only note from now on which signal comes."""
        self._held = True

    def release(self) -> None:
        """Raise for a signal that has come, or when one comes."""
        self._held = False
        if self.came is not None:
            _raise(self.came)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raise for a signal that comes in the block at its end."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.again = self.came is not None
        self.came = self.came or signal.Signals(number)
        if not self._held:
            _raise(signal.Signals(number))


def _raise(number: signal.Signals) -> None:
    raise SignalException(f"{number.name} came", sigval=number)
