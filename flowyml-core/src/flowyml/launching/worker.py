"""What each process of a group runs: ``python -m flowyml.launching.worker FOLDER``."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from flowyml.interfaces import Group
from flowyml.launching import failures, jobs


def main(folder: Path) -> int:
    """Make the call that is described in a folder, as one of its processes; return 0 if it is."""
    from flowyml.launching.work import Work

    warnings.formatwarning = _in_short
    group: list[Group] = []
    try:
        Work(folder, jobs.private()).do(group.append)
    except BaseException as error:  # whatever a user's function raises is for the caller
        failures.write(folder, error, group[0] if group else None)
        return 1
    return 0


def _in_short(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Leave out the line that led to a warning: it would be one of this file."""
    return f"{category.__name__}: {message}\n"


def _end(code: int) -> NoReturn:
    """End as Python does, but for taking itself apart: threads of libraries may not survive that.

    All is done by then, and a crash would count as a failure of the step.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # it waits for threads, as Python's end does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main(Path(sys.argv[1])))
