"""Writing in the background: one thing at a time, errors never lost, and finished at exit.

Nothing but the interpreter's own end can be waited for by a daemon thread's caller, and a store
needs threads of its own to write; so what is under way is completed before Python stops threads.
"""

from __future__ import annotations

import atexit
import contextvars
import sys
import threading
import time
import weakref
from collections.abc import Callable

from flowyml.errors import told


class Writer:
    """Does one job at a time in a thread.

    Attributes:
        name: what is written, for messages.
        waited: seconds for which callers have waited for a job before theirs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        _writers.add(self)

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Do a job in a thread, in a copy of the caller's context; waits for the one before.

        Raises:
            Exception: what an earlier job raised.
        """
        self.finish()
        _finish_at_exit()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._do, job), name=f"flowyml {self.name}", daemon=True
        )
        self._thread.start()

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # whatever it is, the caller has to hear of it
            self._error = error

    def finish(self) -> None:
        """Wait for the job under way.

        Raises:
            Exception: what it raised.
        """
        self.join()
        self.check()

    def join(self) -> None:
        """Wait for the job under way, whatever comes of it."""
        if self.is_busy:
            assert self._thread is not None
            started = time.perf_counter()
            self._thread.join()
            self.waited += time.perf_counter() - started
        self._thread = None

    def check(self) -> None:
        """Raise what a job has raised, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def complete(self) -> None:
        """Finish at exit: nobody is left to raise an error to, so it is told."""
        self.join()
        error, self._error = self._error, None
        if error is not None:
            print(f"flowyml: {self.name} could not be saved: {told(error)}", file=sys.stderr)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_lock = threading.Lock()
_registered = False


def _finish_at_exit() -> None:
    """See to it, once, that everything is completed while threads may still be started."""
    global _registered  # noqa: PLW0603  (the interpreter has one end)
    with _lock:
        if _registered:
            return
        _registered = True
        import concurrent.futures.thread  # noqa: F401  (its own hook has to come after ours)

        # atexit comes after the pools of concurrent.futures are closed, which savers use.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_complete)


def _complete() -> None:
    for writer in list(_writers):
        writer.complete()
