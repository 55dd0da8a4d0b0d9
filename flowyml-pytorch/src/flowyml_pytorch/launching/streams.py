"""What ranks print, line by line with the rank before it, on this process's stdout and stderr.

torch can only write to files and copy what is in them, ten times a second, cut wherever the end
was. Here each stream is a pipe, so lines come whole and at once, and no file is left.
"""

from __future__ import annotations

import os
import selectors
import sys
import threading
from collections.abc import Mapping
from typing import Any, Self, TextIO

import attrs
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

_LONGEST = 1 << 16
"""Bytes without an end of line after which they are shown anyway."""


@attrs.define
class _Pipe:
    """One stream of one rank.

    Attributes:
        kept: what came after the last end of line.
        bar: whether that is a progress bar, which is shown before its line ends.
    """

    target: TextIO | None
    read: int
    write: int
    prefix: str = ""
    kept: bytes = b""
    bar: bool = False


class Screen:
    """Two targets with one line at most that isn't complete: a progress bar."""

    def __init__(self) -> None:
        self._bar = ""
        self._bar_target: TextIO | None = None

    def line(self, target: TextIO | None, text: str) -> None:
        """Write a line; an unfinished bar goes on below it."""
        bar, where = self._bar, self._bar_target
        if bar and where is not target:
            self._put(where, "\r" + " " * len(bar) + "\r")
            bar_length = 0
        else:
            bar_length = len(bar)
        self._put(target, ("\r" if bar_length else "") + text.ljust(bar_length) + "\n")
        if bar:
            self._put(where, bar)

    def draw(self, target: TextIO | None, text: str) -> None:
        """Show a progress bar in place of the one that is there."""
        self._put(target, "\r" + text.ljust(len(self._bar)))
        self._bar, self._bar_target = text, target

    def finish(self, target: TextIO | None, text: str) -> None:
        """Show the last state of a progress bar, as a line."""
        length, self._bar = len(self._bar), ""
        self._put(target, ("\r" if length else "") + text.ljust(length) + "\n")

    def _put(self, target: TextIO | None, text: str) -> None:
        if target is None:
            return
        try:
            target.write(text)
            target.flush()
        except UnicodeEncodeError:
            encoding = getattr(target, "encoding", None) or "ascii"
            self._put(target, text.encode(encoding, "replace").decode(encoding))
        except Exception:
            return  # nobody reads any more; the ranks must not wait for that


class Streams(LogsSpecs):
    """Where torch's agent sends what the ranks print, and what it adds to their environment.

    A context: at its end everything that was printed has been shown.

    Attributes:
        environment: variables for every rank.
        others: variables for the ranks other than 0.
    """

    def __init__(self, environment: Mapping[str, str], others: Mapping[str, str]) -> None:
        super().__init__()
        self.environment = dict(environment)
        self.others = dict(others)
        self._targets = (sys.stdout, sys.stderr)
        self._screen = Screen()
        self._pipes: dict[tuple[int, int], _Pipe] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="flowyml output", daemon=True)

    @property
    def root_log_dir(self) -> str:
        """No folder."""
        return ""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return the pipes of each rank, by local rank, and add to the environments."""
        for variables in envs.values():
            variables.update(self.environment)
            if variables.get("RANK") != "0":
                variables.update(self.others)
        paths = [self._paths(number, envs) for number in range(2)]
        nowhere = dict.fromkeys(envs, os.devnull)
        return LogsDest(stdouts=paths[0], stderrs=paths[1], error_files=nowhere)

    def _paths(self, number: int, envs: Mapping[int, Mapping[str, str]]) -> dict[int, str]:
        paths = {}
        for local, variables in envs.items():
            with self._lock:
                pipe = self._pipes.get((local, number)) or self._open(local, number)
                self._rest(pipe)
                pipe.prefix = f"[rank {variables.get('RANK', local)}] "
            paths[local] = f"/dev/fd/{pipe.write}"
        return paths

    def _open(self, local: int, number: int) -> _Pipe:
        read, write = os.pipe()
        os.set_blocking(read, False)
        pipe = self._pipes[local, number] = _Pipe(self._targets[number], read, write)
        self._selector.register(read, selectors.EVENT_READ, pipe)
        return pipe

    def __enter__(self) -> Self:
        self._wake_read, self._wake = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended = True
        os.write(self._wake, b"!")
        self._thread.join()
        for pipe in self._pipes.values():
            self._rest(pipe)
            os.close(pipe.read)
            os.close(pipe.write)
        self._selector.close()
        os.close(self._wake)
        os.close(self._wake_read)

    def _run(self) -> None:
        while True:
            ready = [key.data for key, _ in self._selector.select() if key.data is not None]
            with self._lock:
                got = [self._take(pipe) for pipe in ready]
            if self._ended and not any(got):
                return

    def _take(self, pipe: _Pipe) -> bool:
        try:
            data = os.read(pipe.read, 1 << 16)
        except BlockingIOError:
            return False
        *lines, pipe.kept = (pipe.kept + data).split(b"\n")
        for line in lines:
            self._line(pipe, line)
        if len(pipe.kept) > _LONGEST:
            self._rest(pipe)
        elif b"\r" in pipe.kept and _last(pipe.kept):
            again = b"\r" if pipe.kept.endswith(b"\r") else b""
            pipe.kept = b"\r" + _last(pipe.kept) + again
            pipe.bar = True
            self._screen.draw(pipe.target, pipe.prefix + _text(pipe.kept))
        return bool(data)

    def _line(self, pipe: _Pipe, line: bytes) -> None:
        show: Any = self._screen.finish if pipe.bar else self._screen.line
        pipe.bar = False
        show(pipe.target, pipe.prefix + _text(_last(line)))

    def _rest(self, pipe: _Pipe) -> None:
        """Show what has no end of line, as there won't be one."""
        if pipe.kept:
            rest, pipe.kept = pipe.kept, b""
            self._line(pipe, rest)


def _last(line: bytes) -> bytes:
    """Return what a terminal would show of a line that was written over and over."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _text(data: bytes) -> str:
    return data.strip(b"\r").decode("utf-8", "replace")
