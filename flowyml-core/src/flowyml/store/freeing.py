"""Deleting versions together with the room that only they took.

`Store.gc` looks at a whole store and leaves alone what is young. A program that saves and deletes
all the time, such as a long training with checkpoints, frees here what it has deleted itself:
files that no version refers to, and that nobody has made use of for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowyml.errors import StoreError
from flowyml.store import maintenance
from flowyml.store.blobs import blob_key

if TYPE_CHECKING:
    from flowyml.store.store import Store

GRACE = 60.0
"""Seconds for which a file is left alone: another saver may be about to refer to it."""


class Freeing:
    """Deletes versions of one store, and frees their files.

    It remembers what others refer to, since manifests never change: freeing costs a look at the
    names of what is there, and at what is new among it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, frozenset[str]] = {}
        """Digests of the files of every version, by its ref."""
        self._waiting: set[str] = set()
        """Digests of files of deleted versions."""

    def delete(self, ref: str) -> None:
        """Delete a version; nothing when it is gone already.

        Raises:
            OSError: when the store's folder can't be changed.
        """
        try:
            stored = self._store.get(ref).stored
            self._store.delete(ref)
        except StoreError:
            return
        self._waiting |= {file.digest for file in stored.files} if stored else set()

    def free(self, grace: float = GRACE) -> int:
        """Remove files of deleted versions; return their bytes.

        Args:
            grace: seconds for which what somebody has made use of is left alone. What is younger
                waits for the next time.
        """
        backend = self._store._backend
        self._waiting = {each for each in self._waiting if backend.size(blob_key(each))}
        old = {digest for digest in self._waiting if backend.age(blob_key(digest)) >= grace}
        others = self._others() if old else None
        if others is None:
            return 0
        freed = 0
        for digest in old:
            self._waiting.discard(digest)
            if digest not in others:
                freed += maintenance.removed(backend, digest, grace) or 0
        return freed

    def _others(self) -> set[str] | None:
        """Return the digests that versions refer to; None when that isn't known of all."""
        catalog = self._store._catalog
        refs = {*self._store.refs(), *catalog.kept()}
        self._files = {ref: files for ref, files in self._files.items() if ref in refs}
        try:
            for ref in refs - self._files.keys():
                files = catalog.manifest(ref).stored.files
                self._files[ref] = frozenset(file.digest for file in files)
        except StoreError:  # damaged, or deleted at the same time
            return None
        return set().union(*self._files.values())
