"""From files back to the object: what may be asked for, what is intact, and whose fault it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flowyml import adapters
from flowyml.assets import StoredFile
from flowyml.errors import FlowymlError, IntegrityError, MaterializationError
from flowyml.interfaces import LoadOptions, Materializer, Saved
from flowyml.progress import Progress
from flowyml.store.blobs import LARGE, Blobs
from flowyml.store.manifest import Manifest


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
    except (FlowymlError, Warning):
        raise
    except Exception as error:  # the files may come from a stranger
        raise MaterializationError(
            f"{saved.ref} can't be loaded: the materializer {materializer.key!r} failed with "
            f"{type(error).__name__}: {error}"
        ) from error


def checked_files(
    blobs: Blobs,
    manifest: Manifest,
    verify: bool,
    progress: Progress,
    files: Sequence[StoredFile] | None = None,
) -> dict[str, Path]:
    """Return a local file for each of a version's files, checked in parallel.

    Args:
        blobs: where they are.
        manifest: the version.
        verify: False leaves out reading every byte.
        progress: is told of the bytes that were read.
        files: which of the files; all by default.

    Raises:
        IntegrityError: naming asset, version, file and what is lost, for each damaged file.
    """
    problems: list[str] = []

    def check(file: StoredFile) -> Path | None:
        what = f"{manifest.asset.ref}, file {file.path!r},"
        try:
            return blobs.checked(
                file.digest, file.size, what, verify=verify, advance=progress.advance
            )
        except IntegrityError as error:
            problems.append(f"{error}{_blamed(blobs, manifest, file)}")
            return None

    files = manifest.stored.files if files is None else files
    if verify and len(files) > 1 and sum(file.size for file in files) > LARGE:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            paths = [*pool.map(check, files)]
    else:
        paths = [*map(check, files)]
    if problems:
        raise IntegrityError("\n".join(problems))
    return {file.path: path for file, path in zip(files, paths, strict=True) if path}


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
        told = materializer.blame(saved(manifest, files), damaged.path)
    except Exception:  # the files are damaged, after all
        return ""
    return f" Damaged in it: {told}." if isinstance(told, str) else ""
