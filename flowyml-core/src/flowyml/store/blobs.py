"""Blobs: immutable files, each named by the BLAKE3 digest of its bytes.

The digest gives integrity (a blob that doesn't match its name is refused) and deduplication (a
blob that exists already is not written again).
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import blake3

from flowyml.errors import IntegrityError
from flowyml.store.backend import Backend, syncing

_LARGE = 1 << 20
"""Bytes from which on writing to the disk takes longer than starting a thread for it."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest_of(path: Path) -> str:
    """Return the BLAKE3 digest of a file, as 64 hexadecimal digits, using every core."""
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """Return the BLAKE3 digest of bytes, as 64 hexadecimal digits."""
    return blake3.blake3(data).hexdigest()


def is_digest(text: object) -> bool:
    """Tell whether something is a digest as written here."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


class Blobs:
    """The blobs of one store."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add(self, staged: Path) -> tuple[str, int]:
        """Move a staged file among the blobs; return its digest and size in bytes.

        A blob of the same name is compared: one that was damaged on disk is healed.
        """
        size = staged.stat().st_size
        with syncing(staged) if size > _LARGE else nullcontext():
            digest = digest_of(staged)
        staged.chmod(0o444)
        if self._backend.publish(staged, _key(digest)):
            return digest, size
        try:
            self._backend.touch(_key(digest))  # so that nobody collects it before it is referred to
        except FileNotFoundError:
            self._backend.publish(staged, _key(digest))
        if not self._intact(digest, size):
            self._backend.replace(staged, _key(digest))
        return digest, size

    def _intact(self, digest: str, size: int) -> bool:
        try:
            self.checked(digest, size, "blob")
        except IntegrityError:
            return False
        return True

    def checked(self, digest: str, size: int, what: str, *, verify: bool = True) -> Path:
        """Return a local file with the blob's bytes.

        Args:
            digest: its name.
            size: its size in bytes, always checked.
            what: whose file it is, for messages.
            verify: False leaves out reading every byte.

        Raises:
            IntegrityError: when it is missing or not what was saved.
        """
        try:
            path = self._backend.local(_key(digest))
            found = path.stat().st_size
        except OSError as error:
            raise IntegrityError(
                f"{what} can't be read: the blob {digest} is missing ({error.strerror})."
            ) from error
        if found != size:
            raise IntegrityError(
                f"{what} is damaged: the blob {path} has {found} bytes where {size} were saved."
            )
        if verify and digest_of(path) != digest:
            raise IntegrityError(
                f"{what} is damaged: the blob {path} isn't what was saved. If you have another "
                f"copy of this store, take the blob from there."
            )
        return path


def _key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest[2:]}"
