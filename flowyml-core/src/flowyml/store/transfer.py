"""Versions as plain folders, for tools that know nothing of a store and for other stores."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flowyml.digests import digest_of
from flowyml.errors import IntegrityError, StoreError
from flowyml.progress import Progress
from flowyml.store import manifest as manifests
from flowyml.store.blobs import Blobs
from flowyml.store.manifest import Manifest


def export(manifest: Manifest, files: Mapping[str, Path], target: Path) -> Path:
    """Copy a version's files, and its manifest, into a folder that doesn't exist yet.

    The folder appears whole: it is filled under another name first.
    """
    if "manifest.json" in files:
        raise StoreError(f"{manifest.asset.ref} has a file manifest.json of its own.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for name, path in files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, staged / name)
            (staged / "manifest.json").write_bytes(manifests.write(manifest))
            staged.chmod(0o755)
            if target.exists():
                raise FileExistsError(target)
            staged.rename(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except FileExistsError as error:
        raise StoreError(f"{target} exists already; choose a new folder.") from error
    except OSError as error:
        raise StoreError(f"{manifest.asset.ref} can't be exported: {error}.") from error
    return target


def read_manifest(folder: Path) -> bytes:
    """Return the text of an exported version's manifest.

    Raises:
        IntegrityError: when there is something else in its place.
        OSError: when it can't be read.
    """
    path = folder / "manifest.json"
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_MANIFEST:
        raise IntegrityError(f"{path} isn't what was exported.")
    return path.read_bytes()


_LARGEST_MANIFEST = 1 << 28
"""Bytes: far above what any version needs."""


def take_in(
    folder: Path, manifest: Manifest, staging: Path, blobs: Blobs, progress: Progress
) -> None:
    """Copy a folder's files among the blobs, checking every byte.

    Raises:
        IntegrityError: when a file isn't what was exported.
    """
    for file in manifest.stored.files:
        copy, given = staging / "copy", folder / file.path
        found = given.lstat()
        linked = any(above.is_symlink() for above in given.parents if folder in above.parents)
        if linked or not stat.S_ISREG(found.st_mode) or found.st_size != file.size:  # may not end
            raise IntegrityError(f"{given} isn't what was exported.")
        shutil.copyfile(given, copy)
        if digest_of(copy, progress.advance) != file.digest:
            raise IntegrityError(f"{given} isn't what was exported.")
        blobs.add(copy)
        copy.unlink(missing_ok=True)
