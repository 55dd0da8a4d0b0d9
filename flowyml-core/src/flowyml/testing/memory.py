"""How much memory this process may have, and the most it ever had, where the system can tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__tracebackhide__ = True

ROOM = 1 << 30
"""Bytes of memory that loading one artifact may take, where the system can limit them."""


@contextmanager
def limited() -> Iterator[None]:
    """Allow this process so much more memory than it has; where the system can't, do nothing."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + ROOM
    if most != resource.RLIM_INFINITY and limit > most:
        limit = most
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak() -> int:
    """Return the most bytes that this process ever had; 0 where the system can't tell."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
