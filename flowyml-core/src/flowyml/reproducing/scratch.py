"""Where a run stores what it makes when it is repeated: in a store of its own, for that time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from flowyml.assets import Asset
from flowyml.errors import StoreError
from flowyml.names import parse_ref, version_order
from flowyml.store import Store, saving
from flowyml.store.manifest import Manifest
from flowyml.stored import Stored


class Scratch(Store):
    """A store that gives what is made again the version that it had.

    A function may return that version, or load what it saved by it.
    """

    def __init__(self, path: str, formats: Iterable[str]) -> None:
        """Use an empty directory.

        Args:
            path: the directory.
            formats: the formats to store in, in order of preference.
        """
        super().__init__(path, format=formats)
        self._versions: dict[str, list[str]] = {}

    def expect(self, refs: Iterable[str]) -> None:
        """Say what is going to be made again: these versions, and then new ones."""
        self._versions.clear()
        for name, version in map(parse_ref, refs):
            if version is not None:
                self._versions.setdefault(name, []).append(version)
        for versions in self._versions.values():
            versions.sort(key=version_order)

    def _publish(
        self, asset: Asset, name: str, stored: Stored, details: dict[str, Any], folder: Path
    ) -> str:
        versions = self._versions.get(name)
        if versions:
            version = versions.pop(0)
            to_write = attrs.evolve(asset, name=name, version=version, stored=stored)
            if self._catalog.commit(Manifest(to_write, details), folder):
                return version
        return super()._publish(asset, name, stored, details, folder)


def formats_of(refs: Iterable[str], store: Store) -> list[str]:
    """Return the formats that versions are stored in, each once: digests hang on them."""
    found: dict[str, None] = {}
    for ref in refs:
        try:
            stored = store.get(ref).stored
            if stored is not None:
                found.update(dict.fromkeys(saving.checked_preference(stored.format)))
        except (StoreError, ValueError):  # it is gone, or its adapter is
            continue
    return list(found)
