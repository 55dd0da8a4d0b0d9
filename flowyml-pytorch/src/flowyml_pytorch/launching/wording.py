"""What is told of other processes, in messages."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowyml_pytorch.launching.presence import Where

RETURNED = "returned"
"""How a process has ended that did all of its part."""

_HINTS = {
    "SIGKILL": "The system kills processes so when memory runs out.",
    "SIGBUS": "That may be for want of shared memory, which loader workers use.",
    "SIGSEGV": "Compiled code that it ran is at fault.",
    "SIGABRT": "Compiled code gave up; what it printed says why.",
}


def ranks(numbers: Sequence[int]) -> str:
    """Return ranks in words."""
    shown = ", ".join(map(str, numbers[:8]))
    if len(numbers) > 8:
        return f"ranks {shown} and {len(numbers) - 8} more"
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"


def on(channel: str) -> str:
    """Return what processes talk about, as an addition."""
    return f" for {channel!r}" if channel else ""


def at(rank: int, where: Where | None) -> str:
    """Return where a process is, as a sentence."""
    if where is None:
        return f"Rank {rank} doesn't answer: it ended, is stopped, or is held up in compiled code."
    return f"Rank {rank} is at {where.place}."


def gone(rank: int, how: str) -> str:
    """Return how a process has ended, as the end of a sentence."""
    if how == RETURNED:
        return f"rank {rank} has already returned. All ranks have to take part equally often."
    return f"rank {rank} failed with {how}"


def ended(name: str, code: int) -> str:
    """Return with which exit code a process ended, as sentences."""
    if code >= 0:
        return f"{name} ended with exit code {code}."
    try:
        signal_name = signal.Signals(-code).name
    except ValueError:
        signal_name = f"signal {-code}"
    return " ".join(filter(None, [f"{name} was killed by {signal_name}.", _HINTS.get(signal_name)]))
