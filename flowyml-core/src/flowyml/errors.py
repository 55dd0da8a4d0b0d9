"""Every error and warning that flowyml raises on purpose.

Each message says what failed and on what, what is known about it, and what to do next. Errors
about an argument also derive from the builtin that Python users expect for it.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FlowymlError(Exception):
    """Base of every error of flowyml."""


class AdapterError(FlowymlError):
    """An adapter is broken, or two adapters contradict each other."""


class AdapterNotFoundError(AdapterError, AttributeError):
    """No usable adapter answers for the framework that was asked for."""


class UnsupportedObjectError(FlowymlError, TypeError):
    """An object of the wrong type was given."""


class UnknownFrameworkError(UnsupportedObjectError):
    """No adapter recognises the object."""


class AmbiguousFrameworkError(UnsupportedObjectError):
    """More than one adapter claims the object."""


class StoreError(FlowymlError):
    """The store can't do what was asked: its folder, a name, a version or a format is unfit."""


class AssetNotFoundError(StoreError, LookupError):
    """The store holds no asset of that name or version."""


class IntegrityError(StoreError):
    """What is on disk isn't what was saved."""


class MaterializationError(FlowymlError):
    """An object can't be turned into files, or files can't be turned back into the object."""


class LaunchError(FlowymlError):
    """The processes that a step runs in can't be started, or don't work together.

    Attributes:
        rank: of the process that ended without an exception of its own, such as one that was
            killed; None when that isn't the reason.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class UntrustedDataError(FlowymlError):
    """Loading would need code that the caller hasn't trusted.

    Attributes:
        required: the dotted names that would have to be imported or listed in ``trust=``.
    """

    def __init__(self, message: str, required: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.required = tuple(required)


class FlowymlWarning(UserWarning):
    """Base of every warning of flowyml."""


class AdapterWarning(FlowymlWarning):
    """An adapter failed; everything else goes on without it."""


class MaterializationWarning(FlowymlWarning):
    """Something was not stored, or is stored but can't be restored exactly."""


def told(error: BaseException | None) -> str:
    """Return an error in words, with its type; one that has no words, or wild ones, too."""
    name = type(error).__name__
    try:
        text = str(error).encode("utf-8", "backslashreplace").decode()
    except (Exception, SystemExit):  # its __str__ is a stranger's too
        return f"{name} (whose text can't be had)"
    text = text if len(text) <= _LONG else f"{text[:_LONG]}…"
    return f"{name}: {text}" if text else name


_LONG = 2000


_here = threading.local()


@contextmanager
def quiet() -> Iterator[None]:
    """Give no warnings of ours here, where nothing is done that the user asked for."""
    before = getattr(_here, "quiet", False)
    _here.quiet = True
    try:
        yield
    finally:
        _here.quiet = before


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the line that led here from outside of flowyml and its adapters."""
    if getattr(_here, "quiet", False):
        return
    level, frame = 1, sys._getframe()
    while _is_ours(str(frame.f_globals.get("__name__"))) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.startswith("flowyml") or module == "contextlib"  # which calls what we decorate
