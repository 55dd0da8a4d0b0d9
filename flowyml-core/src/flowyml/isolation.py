"""Loads a plugin where it can do little harm: in a thread of its own, for a limited time.

A plugin that hangs then holds up its user for that time only, and one that calls ``sys.exit`` ends
its own thread. What it prints is caught, so that the output of programs stays what they meant.
"""

from __future__ import annotations

import _thread
import inspect
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flowyml._version import __version__
from flowyml.contents import Contents
from flowyml.errors import AdapterError, AdapterWarning, warn
from flowyml.plugins import collect

LIMIT = "FLOWYML_ADAPTER_TIMEOUT"
"""The environment variable with the seconds that loading one adapter may take."""

_SECONDS = 30.0


class Attempt:
    """The loading of one plugin, which may go on after nobody waits for it any more.

    Attributes:
        plugin: what was loaded.
        contents: what it brings.
        notes: what its author should know, though it works.
        error: why it can't be used.
    """

    def __init__(self, load: Callable[[], object]) -> None:
        self.plugin: object = None
        self.contents = Contents()
        self.notes: tuple[str, ...] = ()
        self.error: BaseException | None = None
        self._load = load
        self._thread: int | None = None
        self._done = threading.Event()
        self._inside: int | None = None
        self._text = _Caught()
        self._printed = io.TextIOWrapper(self._text, "utf-8", "replace", write_through=True)

    def is_inside(self) -> bool:
        """Tell whether it is the plugin that calls."""
        return self._inside == threading.get_ident()

    def goes_on(self) -> bool:
        """Tell whether its thread is at work, so that it can be waited for again."""
        return self._thread is not None and not self._done.is_set()

    def finish(self, *, trusted: bool = False) -> None:
        """Load, or wait for it, until it is done or the time is up.

        Args:
            trusted: whether the caller wrote the plugin, who may wait for it and see its output.
        """
        if trusted:
            self._run(trusted=True)
            return
        if self._thread is None and _is_importing():
            # A thread would wait for the import, and the import for the thread.
            with _divided_output():
                self._run()
        else:
            self._wait()
        text = self._text.getvalue().decode("utf-8", "replace")
        if text.strip():
            self.notes = (*self.notes, f"it prints when it is loaded: {_shortened(text)!r}")

    def _wait(self) -> None:
        limit = _limit()
        with _divided_output():
            if self._thread is None:
                # Not threading.Thread: an interrupt while that starts leaves it unusable, and it
                # refuses to where others have broken threading's hooks.
                try:
                    self._thread = _thread.start_new_thread(self._run, (), {"alone": True})
                except RuntimeError:  # there are no more threads, none at all, or the end is near
                    self._run()
                    return
            is_late = not self._done.wait(limit)
            if is_late:
                _stop(self._thread)
                self._done.wait(0.1)  # its last words are still caught
        if is_late:
            self.error = TimeoutError(
                f"loading it takes longer than {limit:g} s; {LIMIT} sets another limit"
            )

    def _run(self, *, trusted: bool = False, alone: bool = False) -> None:
        self._inside = threading.get_ident()
        if not trusted:
            _catching[self._inside] = self._printed
        before = {*sys.modules}
        try:
            self.plugin = self._load()
            self.contents = collect(self.plugin)
            self._note_eager_imports(before)
        except BaseException as error:  # whatever a stranger's code raises
            if not alone and isinstance(error, KeyboardInterrupt):
                raise  # the user's
            self.error = error  # first, as what explains it asks a stranger's error
            self.error = _explained(error)
        finally:
            self._inside = None
            _catching.pop(threading.get_ident(), None)
            self._done.set()

    def _note_eager_imports(self, before: set[str]) -> None:
        eager = sorted((self.contents.modules() & {*sys.modules}) - before)
        if eager:
            self.notes = (
                f"it imports {', '.join(eager)} when it is loaded, for which everybody waits who "
                f"has it installed; it should import that when there is work",
            )


class _Caught(io.BytesIO):
    """What was printed; of endless output the beginning."""

    def write(self, data: Any, /) -> int:
        """Keep what there is room for."""
        return super().write(data) if self.tell() < 10_000 else len(data)

    def close(self) -> None:
        """Do nothing: whoever wraps ``sys.stdout.buffer`` closes it in the end."""


_catching: dict[int, Any] = {}
"""Where what a thread prints goes that loads an adapter, by the thread's identity."""

_divided: list[_Divided] = []
"""Kept forever: ``print`` holds no reference to ``sys.stdout``, so that freeing one while some
thread prints would crash the interpreter (before Python 3.14)."""


class _Divided:
    """Standard output, but for threads that load an adapter another stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(_catching.get(threading.get_ident(), self.stream), name)


@contextmanager
def _divided_output() -> Iterator[None]:
    stream: Any = getattr(sys, "stdout", None)
    if stream is None or isinstance(stream, _Divided):
        yield
        return
    ours = next((each for each in _divided if each.stream is stream), None)
    if ours is None:
        ours = _Divided(stream)
        _divided.append(ours)
    is_alone = threading.active_count() == 1
    sys.stdout = ours
    try:
        yield
    finally:
        # What another thread put there meanwhile, redirecting it, isn't ours to take away.
        if is_alone or getattr(sys, "stdout", None) is ours:
            sys.stdout = stream


def _stop(thread: int) -> None:
    """Ask a thread to end, as it does once it is in Python code: it slows all others down."""
    with suppress(Exception):  # what it takes is CPython's own
        import ctypes

        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(SystemExit)
        )


def _limit() -> float:
    text = os.environ.get(LIMIT, "")
    try:
        seconds = float(text) if text else _SECONDS
        if 0 < seconds <= threading.TIMEOUT_MAX:
            return seconds
    except ValueError:
        pass
    warn(
        f"{LIMIT} is {text!r}; needed is a number of seconds. Adapters get {_SECONDS:g} s each.",
        AdapterWarning,
    )
    return _SECONDS


def _is_importing() -> bool:
    """Tell whether it is a module being imported that calls, by whatever ways."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def _explained(error: BaseException) -> BaseException:
    """Say of a name that the core doesn't have what that probably means."""
    name = error.name if isinstance(error, ImportError) else None
    if not isinstance(name, str) or name.partition(".")[0] != "flowyml":
        return error
    explained = AdapterError(
        f"{error}; it may be written for another flowyml-core than {__version__}"
    )
    explained.__cause__ = error
    return explained


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 200 else f"{text[:200]}…"
