"""What each process of a group runs: ``python -m flowyml.launching.worker FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
