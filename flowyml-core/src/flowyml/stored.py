"""What the store knows of an asset that it holds: its files, digests and where it comes from."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import attrs

Restore: TypeAlias = Literal["exact", "weights"]


@attrs.frozen
class StoredFile:
    """One file of a stored asset: its path as written, BLAKE3 digest and size in bytes."""

    path: str
    digest: str
    size: int


@attrs.frozen
class Stored:
    """What the store knows about an asset that it holds; see `docs/on-disk.md`."""

    digest: str
    created_at: datetime
    type: str
    adapter: str
    materializer: str
    format: str
    files: tuple[StoredFile, ...]
    restore: Restore = "exact"
    restore_reason: str | None = None
    required_trust: tuple[str, ...] = ()
    content: str | None = None
    run: str | None = None
    step: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)
