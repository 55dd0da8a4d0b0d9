"""What a call has to leave alone: random numbers, the current folder, output, and files."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowyml import adapters
from flowyml.errors import FlowymlWarning
from flowyml.testing import watching
from flowyml.testing.checks import staying
from flowyml.testing.predictions import is_same
from flowyml.testing.subject import ConformanceError

__tracebackhide__ = True

_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python doesn't show to users."""

_NOWHERE = (Path("/dev"), Path("/proc"))


@contextmanager
def unmoved(what: str) -> Iterator[None]:
    """Make sure that a block draws no random numbers and stays in the current folder.

    Raises:
        ConformanceError: when it doesn't, about `what`.
    """
    states = _random_states()
    with staying(what):
        yield
    for name, state in _random_states().items():
        if not is_same(states.get(name), state):
            raise ConformanceError(
                f"{what} draws or seeds random numbers of {name!r}, so that a program gives other "
                f"results with it. Save that state and put it back."
            )


@contextmanager
def quiet(what: str) -> Iterator[None]:
    """Make sure that a block prints nothing, below Python too, and warns of nothing.

    Warnings of flowyml are for users, such as `MaterializationWarning`.

    Raises:
        ConformanceError: when it does, about `what`.
    """
    with warnings.catch_warnings(record=True) as warned, printed(1) as lines:
        warnings.simplefilter("always")
        yield
    if lines[0].strip():
        raise ConformanceError(
            f"{what} prints {lines[0].strip()[:300]!r}. Take the print away, or use the logging "
            f"module; a library below Python has a setting for it."
        )
    for warning in warned:
        if not issubclass(warning.category, (FlowymlWarning, *_HIDDEN)):
            raise ConformanceError(
                f"{what} warns, as {warning.category.__name__}: {str(warning.message)[:300]!r}. "
                f"Mend what it warns of; what your users have to know is a MaterializationWarning."
            )


@contextmanager
def no_changes(what: str, advice: str, *allowed: Path) -> Iterator[None]:
    """Make sure that a block changes no file or folder but in those that it may change.

    Raises:
        ConformanceError: when it does, about `what`, with an advice.
    """
    heard: list[tuple[str, Path]] = []
    with watching.changes(lambda event, path: heard.append((event, path))):
        yield
    for event, path in heard:
        if not _is_in(path, (*allowed, *_NOWHERE)):
            raise ConformanceError(f"{what}: {event} of {path}. {advice}")


@contextmanager
def printed(*streams: int) -> Iterator[list[str]]:
    """Catch what is printed, below Python too; the list holds it after the block."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(stream) for stream in streams]
        for stream in streams:
            os.dup2(file.fileno(), stream)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip(streams, kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
            file.seek(0)
            lines.append(file.read().decode(errors="replace"))


def _random_states() -> dict[str, Any]:
    return {source.name: source.state() for source in adapters.random_sources()}


def _is_in(path: Path, folders: tuple[Path, ...]) -> bool:
    resolved = path.parent.resolve() / path.name
    return any(path.is_relative_to(folder) or resolved.is_relative_to(folder) for folder in folders)
