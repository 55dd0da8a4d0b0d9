"""Runs other programs, such as git, which may be missing, fail or hang."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

_AT_ONCE = 1 << 16


def succeeds(
    command: Sequence[str],
    take: Callable[[bytes], object],
    deadline: float,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Run a program; tell whether it ended in time and well.

    It has no input and no terminal, and its standard error is dropped. When the time is up, it is
    killed together with what it started, which might hold the pipe open.

    Args:
        command: the program's path, and its arguments.
        take: called with each part of its standard output; what came before a failure, too.
        deadline: the value of `time.monotonic` from which on nobody waits for it.
        environment: its environment variables; by default those of this process.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return False
    with process:
        try:
            read = _read(process, take, deadline)
            return read and process.wait(max(deadline - time.monotonic(), 0)) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.returncode is None:  # so its number can't be another's yet
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)


def _read(
    process: subprocess.Popen[bytes], take: Callable[[bytes], object], deadline: float
) -> bool:
    """Hand on what a process prints, until it closes its output; False when the time is up."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if selector.select(left):
                part = os.read(output, _AT_ONCE)
                if not part:
                    return True
                take(part)
    return False
