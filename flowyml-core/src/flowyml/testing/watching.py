"""What this process does to files, as Python announces it before it happens (`sys.addaudithook`).

A hook can't be taken away again, so this is for the new processes of checks. Code below Python,
such as a library's own writer in C++, is not heard.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__tracebackhide__ = True

Heard = Callable[[str, Path], object]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_CHANGES = {
    "os.chmod": 0,
    "os.link": 1,
    "os.mkdir": 0,
    "os.remove": 0,
    "os.rename": 1,
    "os.rmdir": 0,
    "os.symlink": 1,
    "os.truncate": 0,
    "os.utime": 0,
}
"""Events that change what is on the disk, and which of their arguments says where."""

_RUNS = frozenset(
    {
        "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system",
        "pty.spawn", "socket.connect", "subprocess.Popen",
    }
)  # fmt: skip
"""Events that start a program or call somebody."""

_hearers: list[Callable[[str, tuple[Any, ...]], object]] = []
_hooked: list[bool] = []
_own = threading.local()


@contextmanager
def changes(heard: Heard) -> Iterator[None]:
    """Call a function just before this process changes a file or folder, with event and path.

    What the function does itself isn't heard.
    """

    def hear(event: str, args: tuple[Any, ...]) -> None:
        path = _changed(event, args)
        if path is not None:
            heard(event, path)

    with _hearing(hear):
        yield


@contextmanager
def programs(heard: Callable[[str], object]) -> Iterator[None]:
    """Call a function just before this process starts a program or connects to another one."""
    with _hearing(lambda event, args: heard(event) if event in _RUNS else None):
        yield


@contextmanager
def opening(file: Path, heard: Callable[[str], object]) -> Iterator[None]:
    """Call a function just before this process opens a file."""

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.fsdecode(args[0])
            if path.endswith(file.name) and os.path.abspath(path) == str(file):  # noqa: PTH100
                heard(event)

    with _hearing(hear):
        yield


def _changed(event: str, args: tuple[Any, ...]) -> Path | None:
    """Return the path that an event is going to change, if it changes one that has a name."""
    if event == "open":
        path, _, flags = args
        if not isinstance(flags, int) or not flags & _WRITING:
            return None
    elif event in _CHANGES:
        path = args[_CHANGES[event]]
    else:
        return None
    if not isinstance(path, (str, bytes)) and not hasattr(path, "__fspath__"):
        return None  # a descriptor, whose file was announced when it was opened
    folder = _folder_of(event, args)
    # Not resolve(), which would follow a link that is itself what changes.
    return folder and Path(os.path.abspath(folder / os.fsdecode(path)))  # noqa: PTH100


def _folder_of(event: str, args: tuple[Any, ...]) -> Path | None:
    """Return the folder that an event's path is relative to; None when it can't be known."""
    descriptor = args[-1] if event not in ("open", "os.truncate") else -1
    if not isinstance(descriptor, int) or descriptor < 0:
        return Path.cwd()
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None


@contextmanager
def _hearing(hear: Callable[[str, tuple[Any, ...]], object]) -> Iterator[None]:
    if not _hooked:
        sys.addaudithook(_announced)
        _hooked.append(True)
    _hearers.append(hear)
    try:
        yield
    finally:
        _hearers.remove(hear)


def _announced(event: str, args: tuple[Any, ...]) -> None:
    if not _hearers or getattr(_own, "hears", False):
        return
    _own.hears = True
    try:
        for hear in _hearers[:]:
            hear(event, args)
    finally:
        _own.hears = False
