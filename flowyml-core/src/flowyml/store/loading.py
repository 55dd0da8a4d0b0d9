"""From files back to the object: what may be asked for, what is intact, and whose fault it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowyml import adapters
from flowyml.errors import FlowymlError, IntegrityError, MaterializationError, told
from flowyml.interfaces import LoadOptions, Materializer, Saved
from flowyml.progress import Progress
from flowyml.store.blobs import LARGE, Blobs
from flowyml.store.manifest import Manifest
from flowyml.stored import StoredFile


def checked_class_map(class_map: Mapping[Any, Any]) -> dict[str, type]:
    """Return a class map whose keys are dotted names and whose values are classes.

    Raises:
        TypeError: when they aren't.
    """
    for name, cls in class_map.items():
        if not isinstance(name, str) or not isinstance(cls, type):
            raise TypeError(
                f"class_map= takes classes by the dotted names of those whose place they take, as "
                f"in {{'old_package.Net': Net}}; got {name!r}: {cls!r}."
            )
    return dict(class_map)


def check_options(materializer: Materializer, manifest: Manifest, options: LoadOptions) -> None:
    """Refuse what a materializer doesn't heed.

    Raises:
        MaterializationError: saying which argument has no meaning here.
    """
    ref, format = manifest.asset.ref, manifest.stored.format
    for name, given in (
        ("into", options.into is not None),
        ("device", options.device is not None),
        ("class_map", bool(options.class_map)),
    ):
        if given and name not in materializer.accepts:
            raise MaterializationError(
                f"{name}= has no meaning for {ref}, which was saved as {format!r}."
            )
    forms = (format, *materializer.conversions.get(format, ()))
    if options.format is not None and options.format not in forms:
        raise MaterializationError(
            f"{ref} was saved as {format!r} and can't be loaded as {options.format!r}; it can as "
            f"{', '.join(map(repr, forms))}."
        )


def saved(manifest: Manifest, files: Mapping[str, Path]) -> Saved:
    """Return what a materializer is given."""
    return Saved(str(manifest.asset.ref), manifest.stored.format, files, manifest.result)


def loaded(materializer: Materializer, saved: Saved, options: LoadOptions) -> Any:
    """Let a materializer load.

    Raises:
        MaterializationError: naming the materializer, when it fails.
    """
    try:
        return materializer.load(saved, options)
    except (FlowymlError, Warning, KeyboardInterrupt):
        raise
    except BaseException as error:  # the files may come from a stranger
        raise MaterializationError(
            f"{saved.ref} can't be loaded: the materializer {materializer.key!r} failed with "
            f"{told(error)}"
        ) from error


def checked_files(
    blobs: Blobs,
    manifest: Manifest,
    verify: bool,
    progress: Progress,
    files: Sequence[StoredFile] | None = None,
) -> dict[str, Path]:
    """Return a local file for each of a version's files, when all are checked.

    Args:
        blobs: where they are.
        manifest: the version.
        verify: False leaves out reading every byte.
        progress: is told of the bytes that were read.
        files: which of the files; all by default.

    Raises:
        IntegrityError: naming asset, version, file and what is lost, for each damaged file.
    """
    with Check(blobs, manifest, verify, progress, files) as check:
        check.finish()
        return check.paths


class Check:
    """Finds a version's files, and compares every byte with its digest on all cores.

    Small files are checked at once, large ones while the caller goes on: nothing of them may be
    handed out before `finish`.

    Attributes:
        paths: a local file for each file that is there.
    """

    def __init__(
        self,
        blobs: Blobs,
        manifest: Manifest,
        verify: bool,
        progress: Progress,
        files: Sequence[StoredFile] | None = None,
    ) -> None:
        self._blobs = blobs
        self._manifest = manifest
        self._progress = progress
        self._problems: list[str] = []
        self._pool: ThreadPoolExecutor | None = None
        self.paths: dict[str, Path] = {}
        files = manifest.stored.files if files is None else files
        for file in files:
            self._look(file, verify and file.size <= LARGE)
        large = [file for file in files if file.size > LARGE] if verify else []
        if large:
            self._pool = ThreadPoolExecutor(min(len(large), os.cpu_count() or 1))
            for file in sorted(large, key=lambda file: -file.size):
                self._pool.submit(self._look, file, True)

    def finish(self) -> None:
        """Wait until all are checked.

        Raises:
            IntegrityError: naming asset, version, file and what is lost, for each damaged file.
        """
        if self._pool is not None:
            self._pool.shutdown()
        if self._problems:
            raise IntegrityError("\n".join(dict.fromkeys(self._problems)))

    def _look(self, file: StoredFile, verify: bool) -> None:
        what = f"{self._manifest.asset.ref}, file {file.path!r},"
        try:
            self.paths[file.path] = self._blobs.checked(
                file.digest, file.size, what, verify=verify, advance=self._progress.advance
            )
        except IntegrityError as error:
            blamed = _blamed(self._blobs, self._manifest, file)
            self._problems.append(f"{error}{blamed}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait, and let damage explain whatever went wrong meanwhile."""
        if isinstance(error, Exception) and not isinstance(error, IntegrityError):
            self.finish()
        elif self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _blamed(blobs: Blobs, manifest: Manifest, damaged: StoredFile) -> str:
    """Say what is lost by a damaged file, if its materializer is installed and can tell."""
    files = {}
    for file in manifest.stored.files:
        try:
            files[file.path] = blobs.checked(file.digest, file.size, file.path, verify=False)
        except IntegrityError:
            continue
    try:
        materializer = adapters.materializer(manifest.stored.materializer)
        lost = materializer.blame(saved(manifest, files), damaged.path)
    except (Exception, SystemExit):  # the files are damaged, after all
        return ""
    return f" Damaged in it: {lost}." if isinstance(lost, str) else ""
