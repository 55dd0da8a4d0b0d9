"""Blobs: immutable files, each named by the BLAKE3 digest of its bytes.

The digest gives integrity (a blob that doesn't match its name is refused) and deduplication (a
blob that exists already is not written again).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowyml.digests import digest_of
from flowyml.errors import IntegrityError, StoreError
from flowyml.store.backend import Backend
from flowyml.stored import StoredFile

LARGE = 1 << 20
"""Bytes from which on writing to the disk takes longer than starting a thread for it."""


class Blobs:
    """The blobs of one store."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add(self, staged: Path) -> tuple[str, int]:
        """Move a staged file among the blobs; return its digest and size in bytes.

        A blob of the same name is compared: one that was damaged on disk is healed.
        """
        size = staged.stat().st_size
        digest = digest_of(staged)
        staged.chmod(0o444)
        os.utime(staged)  # what is published is young, however old the file is that was copied
        if self._backend.publish(staged, blob_key(digest)):
            return digest, size
        if not self.keep(digest, size):
            self._backend.replace(staged, blob_key(digest))
        return digest, size

    def keep(self, digest: str, size: int) -> bool:
        """Make use of a blob once more; False when it is missing or damaged.

        It is marked before it is looked at, so that nobody collects it in between.
        """
        try:
            self._backend.touch(blob_key(digest))
            self.checked(digest, size, "blob")
        except (FileNotFoundError, IntegrityError):
            return False
        return True

    def checked(
        self,
        digest: str,
        size: int,
        what: str,
        *,
        verify: bool = True,
        advance: Callable[[int], Any] | None = None,
    ) -> Path:
        """Return a local file with the blob's bytes.

        Args:
            digest: its name.
            size: its size in bytes, always checked.
            what: whose file it is, for messages.
            verify: False leaves out reading every byte.
            advance: called with the number of bytes after each part that was read.

        Raises:
            IntegrityError: when it is missing or not what was saved.
        """
        try:
            path = self._local(digest)
            found = path.stat().st_size
            intact = found == size and (not verify or digest_of(path, advance) == digest)
        except OSError as error:
            raise IntegrityError(
                f"{what} can't be read: the blob {digest} is missing ({error.strerror})."
            ) from error
        if found != size:
            raise IntegrityError(
                f"{what} is damaged: the blob {path} has {found} bytes where {size} were saved."
            )
        if not intact:
            raise IntegrityError(
                f"{what} is damaged: the blob {path} isn't what was saved. If you have another "
                f"copy of this store, take the blob from there."
            )
        return path

    def mark(self, file: StoredFile) -> None:
        """Make a blob young, just before a version refers to it.

        Raises:
            StoreError: when it was collected: the save has taken longer than `gc` waits.
        """
        try:
            self._backend.touch(blob_key(file.digest))
        except FileNotFoundError as error:
            raise StoreError(
                f"The file {file.path!r} was collected before the save was done. Save again, and "
                f"let gc() keep files for longer than a save takes: gc(grace=...)."
            ) from error

    def _local(self, digest: str) -> Path:
        """Return the file of a blob, which a collector may be looking at."""
        for key in (blob_key(digest), withdrawn_key(digest)):
            with suppress(FileNotFoundError):
                return self._backend.local(key)
        return self._backend.local(blob_key(digest))


def withdrawn_key(digest: str) -> str:
    """Return where a blob is while a collector decides whether somebody needs it."""
    return f"withdrawn/{digest}"


def blob_key(digest: str) -> str:
    """Return where a blob is."""
    return f"blobs/{digest[:2]}/{digest[2:]}"
