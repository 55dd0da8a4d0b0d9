"""Loads a plugin where it can do little harm: in a thread of its own, for a limited time.

A plugin that hangs then holds up its user for that time only, and one that calls ``sys.exit`` ends
its own thread. What it prints is caught, so that the output of programs stays what they meant.
"""

from __future__ import annotations

import inspect
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

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
        self._thread: threading.Thread | None = None
        self._inside: int | None = None
        self._text = io.BytesIO()
        self._printed = io.TextIOWrapper(self._text, "utf-8", "replace", write_through=True)

    def is_inside(self) -> bool:
        """Tell whether it is the plugin that calls."""
        return self._inside == threading.get_ident()

    def finish(self, *, trusted: bool = False) -> None:
        """Load, or wait for it, until it is done or the time is up.

        Args:
            trusted: whether the caller wrote the plugin, who may wait for it and see its output.
        """
        if trusted:
            self._run()
            return
        if self._thread is None and _is_importing():
            # A thread would wait for the import, and the import for the thread.
            with self._caught():
                self._run()
        else:
            self._wait()
        text = self._text.getvalue().decode("utf-8", "replace")
        if text.strip():
            self.notes = (*self.notes, f"it prints when it is loaded: {_shortened(text)!r}")

    def _wait(self) -> None:
        limit = _limit()
        with self._caught():
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="flowyml-adapter", daemon=True
                )
                self._thread.start()
            self._thread.join(limit)
        if self._thread.is_alive():
            self.error = TimeoutError(
                f"loading it takes longer than {limit:g} s; {LIMIT} sets another limit"
            )

    def _run(self) -> None:
        self._inside = threading.get_ident()
        before = {*sys.modules}
        try:
            self.plugin = self._load()
            self.contents = collect(self.plugin)
        except BaseException as error:  # whatever a stranger's code raises
            if self._thread is None and isinstance(error, KeyboardInterrupt):
                raise  # the user's
            self.error = _explained(error)
        finally:
            self._inside = None
        eager = sorted((self.contents.modules() & {*sys.modules}) - before)
        if eager:
            self.notes = (
                f"it imports {', '.join(eager)} when it is loaded, for which everybody waits who "
                f"has it installed; it should import that when there is work",
            )

    @contextmanager
    def _caught(self) -> Iterator[None]:
        if sys.stdout is None:
            yield
            return
        with redirect_stdout(cast(Any, _Divided(sys.stdout, self._printed, self.is_inside))):
            yield


class _Divided:
    """Standard output, but for one thread another stream."""

    def __init__(self, stream: Any, other: Any, is_other: Callable[[], bool]) -> None:
        self._stream = stream
        self._other = other
        self._is_other = is_other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other if self._is_other() else self._stream, name)


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
    name = getattr(error, "name", None) or ""
    if not isinstance(error, ImportError) or name.partition(".")[0] != "flowyml":
        return error
    explained = AdapterError(
        f"{error}; it may be written for another flowyml-core than {__version__}"
    )
    explained.__cause__ = error
    return explained


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 200 else f"{text[:200]}…"
