"""Keeping a store in order: what nothing refers to, what is deleted, and how much there is.

Collecting is safe while others write. A blob is published before the manifest that refers to it,
and one that exists already is marked as just used, so a blob that is both unreferenced and old
belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import attrs

from flowyml.digests import is_digest
from flowyml.errors import IntegrityError
from flowyml.store.backend import Backend
from flowyml.store.blobs import blob_key, withdrawn_key
from flowyml.store.manifest import Manifest

GRACE = 3600.0
"""Seconds for which what nobody refers to is left alone: a save may be under way."""


@attrs.frozen
class Collected:
    """What `Store.gc` removed: numbers of blobs and of what was left unfinished, and their bytes.

    Unfinished are saves and launched steps whose process was killed; the bytes are the blobs'.
    """

    blobs: int
    unfinished: int
    size: int


@attrs.frozen
class Stats:
    """How much a store holds.

    Attributes:
        versions: number of versions.
        blobs: number of blobs.
        logical: bytes of all files of all versions, as if each were stored by itself.
        stored: bytes of all blobs.
    """

    versions: int
    blobs: int
    logical: int
    stored: int


def collect(backend: Backend, manifests: Iterable[Manifest], grace: float) -> Collected:
    """Remove blobs that no manifest refers to, and what killed savers left behind."""
    referenced = {file.digest for manifest in manifests for file in manifest.stored.files}
    blobs = size = unfinished = 0
    for digest in filter(is_digest, backend.keys("withdrawn")):
        _put_back(backend, digest)  # whoever withdrew it was killed, or is at it
    for folder in ("staging", "jobs"):
        for name in backend.keys(folder):
            if backend.age(f"{folder}/{name}") >= grace:
                backend.remove(f"{folder}/{name}")
                unfinished += 1
    for digest, key in blob_keys(backend):
        if digest not in referenced and backend.age(key) >= grace:
            freed = removed(backend, digest, grace)
            size += freed or 0
            blobs += freed is not None
    if not backend.keys("withdrawn"):
        backend.remove("withdrawn")
    return Collected(blobs, unfinished, size)


def removed(backend: Backend, digest: str, grace: float) -> int | None:
    """Remove a blob and return its size, or None when a saver has just made use of it.

    A saver marks a blob before it relies on it. Withdrawn first and looked at then, a blob either
    shows the mark and is put back, or is missed by the saver, which publishes it again. Meanwhile
    readers find it where it was withdrawn to.
    """
    withdrawn = withdrawn_key(digest)
    try:
        backend.move(blob_key(digest), withdrawn)
    except FileNotFoundError:  # another process collects
        return None
    if backend.age(withdrawn) >= grace:
        size = backend.size(withdrawn)
        backend.remove(withdrawn)
        return size
    _put_back(backend, digest)
    return None


def _put_back(backend: Backend, digest: str) -> None:
    with suppress(FileNotFoundError):  # another process was faster
        backend.move(withdrawn_key(digest), blob_key(digest))


def measure(backend: Backend, manifests: Iterable[Manifest]) -> Stats:
    """Add up sizes."""
    found = list(manifests)
    sizes = [backend.size(key) for _, key in blob_keys(backend)]
    return Stats(len(found), len(sizes), sum(m.stored.size for m in found), sum(sizes))


def blob_keys(backend: Backend) -> list[tuple[str, str]]:
    """Return digest and key of every blob."""
    return [
        (folder + name, blob_key(folder + name))
        for folder in backend.keys("blobs")
        for name in backend.keys(f"blobs/{folder}")
    ]


def refuse_if_damaged(problems: list[str]) -> None:
    """Refuse to collect where a manifest can't be read: its blobs would be lost."""
    if problems:
        raise IntegrityError(
            "Nothing was removed, since what these versions refer to can't be read: "
            + " ".join(problems)
        )
