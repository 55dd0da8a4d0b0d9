"""The content digest: BLAKE3 of bytes, as 64 hexadecimal digits.

It gives integrity, deduplication and the proof that two results are equal, so it is computed in
one way everywhere.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3

_DIGEST = re.compile(r"[0-9a-f]{64}")

_LARGE = 1 << 20
"""Bytes from which on several threads hash faster than one."""

_WINDOW = 32 << 20
"""Bytes of a file that are mapped at a time: what is mapped counts as memory of the process."""


_threads: int = blake3.blake3.AUTO


def _use_one_thread() -> None:
    global _threads  # noqa: PLW0603  (it is a fact about the process)
    _threads = 1


# A forked process inherits BLAKE3's pool of threads without the threads, and would wait for them.
os.register_at_fork(after_in_child=_use_one_thread)


def digest_of(path: Path, advance: Callable[[int], Any] | None = None) -> str:
    """Return the digest of a file, using every core.

    Args:
        path: the file.
        advance: called with the number of bytes after each part.

    Raises:
        OSError: when it can't be read.
    """
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        if size < _LARGE:
            file.seek(0)
            digest = digest_of_bytes(file.read())
            if advance:
                advance(size)
            return digest
        hasher = blake3.blake3(max_threads=_threads)
        for start in range(0, size, _WINDOW):
            length = min(_WINDOW, size - start)
            with mmap.mmap(file.fileno(), length, offset=start, access=mmap.ACCESS_READ) as window:
                hasher.update(window)
            if advance:
                advance(length)
    return hasher.hexdigest()


def digest_of_bytes(*parts: Any) -> str:
    """Return the digest of bytes, or of any buffers of bytes one after the other."""
    size = sum(map(len, parts))
    hasher = blake3.blake3(max_threads=_threads if size > _LARGE else 1)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def hasher() -> blake3.blake3:
    """Return what takes bytes with ``update()`` and gives their digest with ``hexdigest()``."""
    return blake3.blake3()


def is_digest(text: object) -> bool:
    """Tell whether something is a digest as written here."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None
