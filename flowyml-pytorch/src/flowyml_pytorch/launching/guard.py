"""A small process that outlives the launching one by as much as it takes to end the ranks.

Nobody can clean up after a ``kill -9`` of itself, and a rank that hangs in compiled code, or is
stopped, wouldn't notice. So this file runs as a script too, which needs Python alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Self

_LOOK = 1.0
"""Seconds between two looks at who the parent is: a fork of it may hold its end of the pipe."""


class Guard:
    """Ends groups of processes when this process ends in whatever way; a context.

    Every rank leads a process group, which its own children are in too, such as loader workers.
    """

    def __init__(self) -> None:
        self._ranks: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        command = [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *raised: object) -> None:
        self.sweep()
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def watch(self, ranks: Collection[int]) -> None:
        """Take the processes of these numbers, and their groups, under guard."""
        self._ranks = tuple(ranks)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write((" ".join(map(str, self._ranks)) + "\n").encode())
            self._process.stdin.flush()

    def sweep(self) -> None:
        """End what is left of the groups."""
        for rank in self._ranks:
            if not _is_taken(rank):
                _end(rank)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(rank, 0)
        self.watch(())


def _is_taken(rank: int) -> bool:
    """Tell whether a process has the number that isn't the rank, as that has ended long ago."""
    try:
        os.waitpid(rank, os.WNOHANG)
    except ChildProcessError:
        return Path(f"/proc/{rank}").exists()
    return False


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main(parent: int) -> None:
    """End the groups that the last line of stdin names, once the parent is gone."""
    said = b""
    while os.getppid() == parent:
        if select.select([0], [], [], _LOOK)[0]:
            more = os.read(0, 65536)
            if not more:
                break
            said = (said + more)[-65536:]
    lines = said.split(b"\n")
    for group in lines[-2].split() if len(lines) > 1 else ():
        _end(int(group))


if __name__ == "__main__":
    main(int(sys.argv[1]))
