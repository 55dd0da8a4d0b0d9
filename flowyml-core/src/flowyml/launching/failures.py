"""How a function failed in another process: written there, raised again here.

The exception is of the type that it was there, if this process knows the type, and its cause is
the traceback of the process that it was raised in.
"""

from __future__ import annotations

import builtins
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from flowyml import encoding
from flowyml.errors import FlowymlError, LaunchError
from flowyml.interfaces import Group
from flowyml.running import failure

_PREFIX = "failed-"


class RankTraceback(Exception):  # noqa: N818  (people read the name above a traceback)
    """The traceback of an exception that was raised in another process, as text."""


def write(folder: Path, error: BaseException, group: Group | None) -> None:
    """Leave word of an exception; what can't be written is left out."""
    told = failure(error)
    kind = type(error)
    arguments = error.args if encoding.is_encodable(error.args) else None
    data = {
        "rank": None if group is None else group.rank,
        "world_size": None if group is None else group.world_size,
        "restarts": 0 if group is None else group.restarts,
        "time": time.time(),
        "process": os.getpid(),
        "module": kind.__module__,
        "name": kind.__qualname__,
        "arguments": None if arguments is None else encoding.encode(arguments),
        "type": told.type,
        "message": told.message,
        "traceback": told.traceback,
    }
    target = folder / f"{_PREFIX}{platform.node()}-{os.getpid()}.json"
    staged = target.with_suffix(".tmp")
    staged.write_bytes(json.dumps(data, allow_nan=False).encode("ascii"))
    staged.replace(target)


def first(folder: Path, dead: int | None) -> BaseException | None:
    """Return the exception that was raised first, of those after the last restart.

    Args:
        folder: where the processes left word.
        dead: the rank of a process that failed first. If it left no word, what the others met
            with was a consequence, and None is returned.
    """
    found = [data for path in folder.glob(f"{_PREFIX}*.json") if (data := _read(path))]
    found = [data for data in found if data["name"] != "KeyboardInterrupt"]
    if not found:
        return None
    last = max(data["restarts"] for data in found)
    found = [data for data in found if data["restarts"] == last]
    if dead is not None and dead not in (data["rank"] for data in found):
        return None
    return _raisable(min(found, key=lambda data: data["time"]))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _raisable(data: dict[str, Any]) -> BaseException:
    who = "a process"
    if data["rank"] is not None:
        who = f"rank {data['rank']} of {data['world_size']}"
    error = _same_type(data)
    if error is None:
        error = LaunchError(f"{who} failed: {data['type']}: {data['message']}")
    error.__cause__ = RankTraceback(
        f"in {who} (process {data['process']}):\n\n{str(data['traceback']).rstrip()}"
    )
    error.add_note(f"It was raised in {who}.")
    return error


def _same_type(data: dict[str, Any]) -> BaseException | None:
    module = builtins if data["module"] == "builtins" else sys.modules.get(data["module"])
    kind: Any = module
    for part in data["name"].split("."):
        kind = getattr(kind, part, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return None
    if data["arguments"] is None:
        return None
    try:
        made = kind(*encoding.decode(data["arguments"]))
    except Exception:  # its constructor takes something else
        return None
    return made if str(made) == data["message"] or issubclass(kind, FlowymlError) else None
