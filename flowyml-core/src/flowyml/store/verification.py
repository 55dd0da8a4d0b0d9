"""Comparing what is on the disk with what was saved, for many versions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from flowyml.errors import IntegrityError
from flowyml.progress import Progress
from flowyml.store.blobs import Blobs
from flowyml.store.loading import checked_files
from flowyml.store.manifest import Manifest


@attrs.frozen
class Verification:
    """What `Store.verify` checked: numbers of versions and files, and their bytes."""

    versions: int
    files: int
    size: int


def verify(
    blobs: Blobs,
    manifests: Sequence[Manifest],
    problems: list[str],
    is_there: Callable[[Manifest], bool],
) -> Verification:
    """Read every blob that versions refer to, each once.

    Args:
        blobs: the store's.
        manifests: the versions.
        problems: gets a text for each damaged file.
        is_there: tells whether a version hasn't been deleted meanwhile.
    """
    sizes = {file.digest: file.size for m in manifests for file in m.stored.files}
    seen: set[str] = set()
    with Progress("Verifying", sum(sizes.values())) as progress:
        for manifest in manifests:
            new = [file for file in manifest.stored.files if file.digest not in seen]
            seen.update(file.digest for file in new)
            try:
                checked_files(blobs, manifest, True, progress, new)
            except IntegrityError as error:
                if is_there(manifest):
                    problems.append(str(error))
    return Verification(len(manifests), len(sizes), sum(sizes.values()))
