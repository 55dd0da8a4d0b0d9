"""From an object to its files: which materializer, which format, and how the files are taken in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from flowyml import adapters, encoding
from flowyml.assets import Asset
from flowyml.digests import digest_of_bytes, is_digest
from flowyml.errors import (
    AdapterWarning,
    FlowymlError,
    IntegrityError,
    MaterializationError,
    StoreError,
    told,
    warn,
)
from flowyml.interfaces import Earlier, Materializer, SaveOptions, SaveResult
from flowyml.models import Model
from flowyml.progress import Progress
from flowyml.properties import type_name
from flowyml.store import manifest as manifests
from flowyml.store.blobs import LARGE, Blobs
from flowyml.store.manifest import Manifest
from flowyml.stored import StoredFile


def materializer_of(asset: Asset) -> Materializer:
    """Return the materializer that handles an asset's data.

    Raises:
        MaterializationError: when none does, or several do.
    """
    data = asset.data
    found = adapters.materializer_of(data, asset.framework if isinstance(asset, Model) else None)
    if found is None:
        raise MaterializationError(
            f"No materializer handles a {type_name(data)}, so it can't be saved. Handled are: "
            f"{', '.join(adapters.materialized_types())}."
        )
    return found


def chosen_format(
    materializer: Materializer, asked: str | None, preferred: Iterable[str], asset: Asset
) -> str:
    """Return the format to save in.

    Args:
        materializer: the one that saves.
        asked: the format that has to be, or None.
        preferred: formats in order of preference, for objects that have one of them; without
            any, it is the materializer's first.
        asset: what is saved.

    Raises:
        MaterializationError: when the materializer doesn't have the format that was asked for.
    """
    if asked is None:
        options = asset.described_with()
        for name in preferred:
            if name in materializer.formats and _can_save(materializer, asset.data, name, options):
                return name
        return materializer.formats[0]
    if asked not in materializer.formats:
        known = ", ".join(map(repr, materializer.formats))
        raise MaterializationError(
            f"A {type_name(asset.data)} can't be saved in the format {asked!r}; it can in {known}."
        )
    return asked


def _can_save(
    materializer: Materializer, data: Any, format: str, options: Mapping[str, Any]
) -> bool:
    try:
        return bool(materializer.can_save(data, format, options))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        warn(
            f"The materializer {materializer.key!r} failed to say whether a {type_name(data)} can "
            f"be saved in the format {format!r}, which counts as no: {told(error)}",
            AdapterWarning,
        )
        return False


def is_spread(materializer: Materializer, data: Any) -> bool:
    """Tell whether other processes hold parts of an object.

    Raises:
        MaterializationError: naming the materializer, when it fails to say.
    """
    try:
        return bool(materializer.is_spread(data))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise MaterializationError(
            f"The materializer {materializer.key!r} failed to say whether other processes hold "
            f"parts of a {type_name(data)}: {told(error)}"
        ) from error


def checked_preference(format: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return formats in order of preference, each known to some adapter.

    Raises:
        TypeError: for what is no string or several.
        ValueError: for a format that no materializer has.
    """
    if not isinstance(format, (str, Iterable, type(None))):
        raise TypeError(f"format= takes the names of formats; got a {type_name(format)}.")
    formats = (format,) if isinstance(format, str) else tuple(format or ())
    known = adapters.formats() if formats else []
    for item in formats:
        if not isinstance(item, str):
            raise TypeError(f"format= takes the names of formats; got a {type_name(item)}.")
        if item not in known:
            raise ValueError(
                f"No installed adapter has a format {item!r}; there are "
                f"{', '.join(map(repr, known))}."
            )
    return formats


def checked_text(manifest: Manifest) -> bytes:
    """Write a manifest, making sure that it can be read: adapters fill in some of it."""
    try:
        text = manifests.write(manifest)
        manifests.read(text, str(manifest.asset.ref))
    except (IntegrityError, encoding.EncodingError) as error:
        raise MaterializationError(
            f"{manifest.asset.ref} can't be saved: what the materializer "
            f"{manifest.stored.materializer!r} wrote or returned is unfit: "
            f"{error.__cause__ or error}"
        ) from error
    return text


def origin(materializer: Materializer) -> str:
    """Return which distribution a materializer comes from, with its version."""
    info = adapters.provider(materializer)
    return f"{info.distribution or info.plugin} {info.version or ''}".rstrip()


def written(
    materializer: Materializer, data: Any, folder: Path, options: SaveOptions
) -> SaveResult:
    """Let a materializer write an object's files into a folder.

    Raises:
        MaterializationError: naming the materializer, when it fails.
        OSError: when the folder can't be written.
    """
    try:
        result = materializer.save(data, folder, options)
    except (FlowymlError, OSError, KeyboardInterrupt):
        raise
    except Warning:  # an error where the user wants warnings to be
        raise
    except BaseException as error:
        raise MaterializationError(
            f"A {type_name(data)} can't be saved: the materializer {materializer.key!r} failed "
            f"with {told(error)}"
        ) from error
    if not isinstance(result, SaveResult):
        raise MaterializationError(
            f"The materializer {materializer.key!r} returned a {type_name(result)} where a "
            f"SaveResult is needed."
        )
    return result


class TooLargeError(FlowymlError):
    """An object has more bytes than are to be kept of it."""


def check_limit(size: int, limit: int) -> None:
    """Refuse what is too large. Raises TooLargeError."""
    if size > limit:
        raise TooLargeError(f"{size} bytes are more than {limit}")


def expecting(progress: Progress, limit: int | None) -> Callable[[int], None]:
    """Return what a materializer calls with the number of bytes that it is going to write."""
    if limit is None:
        return progress.expect

    def expect(size: int) -> None:
        check_limit(size, limit)
        progress.expect(size)

    return expect


_AT_ONCE = 4
"""Files that are taken in at the same time: most of that is waiting for the disk."""


class Intake:
    """Takes a version's files in among the blobs, while its materializer writes more of them."""

    def __init__(self, blobs: Blobs, folder: Path, progress: Progress) -> None:
        self._blobs = blobs
        self._folder = folder
        self._progress = progress
        self._pool: ThreadPoolExecutor | None = None
        self._taken: dict[str, Future[StoredFile]] = {}
        self._kept: dict[str, StoredFile] = {}

    def done(self, path: Path) -> None:
        """Take in a file that is complete. A small one waits for the others: it costs nothing."""
        name, size = self._name(path), path.stat().st_size
        if size > LARGE and name not in self._taken:
            self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE, "flowyml-intake")
            self._taken[name] = self._pool.submit(self._take, path, name)

    def keep(self, file: StoredFile, compared: bool) -> bool:
        """Take in a file that is among the blobs already; False when it is damaged there."""
        if file.path not in self._kept:
            if not compared and not self._blobs.keep(file.digest, file.size):
                return False
            self._kept[file.path] = file
            self._progress.advance(file.size)
        return True

    @property
    def kept(self) -> Mapping[str, StoredFile]:
        """The files that were among the blobs already."""
        return self._kept

    def finish(self) -> tuple[StoredFile, ...]:
        """Take in the rest, and return every file, sorted by path."""
        taken = {name: future.result() for name, future in self._taken.items()}
        for path in self._folder.rglob("*"):
            name = self._name(path)
            if path.is_file() and name not in taken:
                taken[name] = self._take(path, name)
        doubled = sorted(set(taken) & set(self._kept))
        if doubled:
            raise MaterializationError(f"{doubled[0]} is both written and kept.")
        files = {**taken, **self._kept}
        for file in files.values():
            self._blobs.mark(file)
        return tuple(files[name] for name in sorted(files))

    def _take(self, path: Path, name: str) -> StoredFile:
        file = StoredFile(name, *self._blobs.add(path))
        self._progress.advance(file.size)
        return file

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class EarlierVersion(Earlier):
    """A version in the same store, as a materializer that saves the next one sees it."""

    def __init__(self, manifest: Manifest, blobs: Blobs, intake: Intake) -> None:
        self._manifest = manifest
        self._files: Mapping[str, StoredFile] = {f.path: f for f in manifest.stored.files}
        self._blobs = blobs
        self._intake = intake

    def files(self) -> Mapping[str, int]:
        """Return the sizes, as the manifest has them."""
        return {path: file.size for path, file in self._files.items()}

    def details(self) -> Mapping[str, Any]:
        """Return the details of the manifest."""
        return self._manifest.details

    def read(self, path: str) -> bytes | None:
        """Read a file that is intact."""
        file = self._files.get(path)
        if file is None:
            return None
        try:
            return self._blobs.checked(file.digest, file.size, path).read_bytes()
        except (IntegrityError, OSError):
            return None

    def open(self, path: str) -> Path | None:
        """Mark the blob as used, and return its file."""
        file = self._files.get(path)
        try:
            if file is None:
                return None
            self._blobs.mark(file)
            return self._blobs.checked(file.digest, file.size, path, verify=False)
        except StoreError:
            return None

    def keep(self, path: str, *, compared: bool = False) -> bool:
        """Mark the blob as used, and compare its bytes with its digest unless that is done."""
        return path in self._files and self._intake.keep(self._files[path], compared)


def digest_of_content(result: SaveResult, files: Iterable[StoredFile]) -> str | None:
    """Return the digest of what a materializer says makes up the content; None for all files.

    Raises:
        MaterializationError: when it names what is neither a digest nor one of the files.
    """
    if result.content is None:
        return None
    digests = {file.path: file.digest for file in files}
    parts = [digests.get(part, part) for part in result.content]
    unknown = [part for part in parts if not is_digest(part)]
    if unknown:
        raise MaterializationError(f"The content has a part {unknown[0]!r}, which is no file.")
    return digest_of_bytes("\n".join(parts).encode())
