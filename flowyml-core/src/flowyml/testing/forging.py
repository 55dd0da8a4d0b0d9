"""Versions as a stranger would write them: any files and details, with every digest right.

A digest proves that files are what somebody saved, not that whoever saved them meant well. So
what stands in them is put to the test with forged versions, which no check of digests refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from flowyml.assets import Asset
from flowyml.digests import digest_of_bytes
from flowyml.store import Store
from flowyml.store import manifest as manifests
from flowyml.store.blobs import blob_key
from flowyml.store.catalog import manifest_key
from flowyml.stored import StoredFile

__tracebackhide__ = True

_NAME = "forged"
_VERSION = "v1"


@attrs.frozen
class Honest:
    """A version that was saved: what is known of it, and its files' bytes by path."""

    asset: Asset
    details: Mapping[str, Any]
    files: Mapping[str, bytes]


def read(store: Store, asset: Asset) -> Honest:
    """Read a version whole."""
    name, version = str(asset.name), str(asset.version)
    text = (store.path / manifest_key(name, version)).read_bytes()
    manifest = manifests.read(text, f"{name}@{version}")
    files = {file.path: blob(store, file).read_bytes() for file in manifest.stored.files}
    return Honest(manifest.asset, manifest.details, files)


def blob(store: Store, file: StoredFile) -> Path:
    """Return where a store keeps the bytes of a file."""
    return store.path / blob_key(file.digest)


@contextmanager
def forged(
    store: Store, honest: Honest, files: Mapping[str, bytes], details: Mapping[str, Any]
) -> Iterator[str]:
    """Put a version into a store that differs from an honest one; it is gone afterwards.

    Args:
        store: which has the honest version.
        honest: the version it passes for.
        files: its files' bytes, by path.
        details: what its materializer is said to have noted for loading.

    Yields:
        The ref to load it by.
    """
    assert honest.asset.stored is not None
    new: list[Path] = []
    listed = []
    for path, content in sorted(files.items()):
        file = StoredFile(path, digest_of_bytes(content), len(content))
        listed.append(file)
        if not blob(store, file).exists():
            new.append(_written(blob(store, file), content))
    stored = attrs.evolve(honest.asset.stored, files=tuple(listed))
    digest = manifests.content_digest(
        stored.materializer, stored.format, stored.files, stored.content
    )
    asset = attrs.evolve(
        honest.asset, name=_NAME, version=_VERSION, stored=attrs.evolve(stored, digest=digest)
    )
    text = manifests.write(manifests.Manifest(asset, dict(details)))
    new.append(_written(store.path / manifest_key(_NAME, _VERSION), text))
    try:
        yield f"{_NAME}@{_VERSION}"
    finally:
        for written in new:
            written.unlink(missing_ok=True)


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return path
