"""Where in the program a thread is, in the words of a traceback."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import flowyml

_OTHERS = (
    "<frozen",
    *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(flowyml.__file__).parent),
    str(Path(__file__).parent.parent),
)
"""Where files lie that aren't the user's."""

_WAITING = ("/torch/distributed/", "/torch/autograd/graph.py", "/launching/group.py")
"""Files that a thread is in while it waits for another process."""


def place(frame: FrameType) -> str:
    """Return the line of the user's program that a frame is at or was called from."""
    return _told(traceback.extract_stack(frame))


def raised_at(error: BaseException) -> str:
    """Return the line of the user's program that an error came from."""
    return _told(traceback.extract_tb(error.__traceback__))


def waits(frame: FrameType) -> bool:
    """Tell whether the frame is one in which a thread waits for other processes."""
    return any(part in frame.f_code.co_filename for part in _WAITING)


def _told(stack: traceback.StackSummary) -> str:
    if not stack:
        return "an unknown line"
    at = next((line for line in reversed(stack) if _is_users(line.filename)), stack[-1])
    text = f'File "{at.filename}", line {at.lineno}, in {at.name}'
    return f"{text}: {at.line}" if at.line else text


def _is_users(file: str) -> bool:
    return not file.startswith(_OTHERS) and "/site-packages/" not in file
