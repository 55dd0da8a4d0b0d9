"""From an object to its files: which materializer, which format, and what it may not do wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowyml import adapters, encoding
from flowyml.errors import FlowymlError, IntegrityError, MaterializationError
from flowyml.interfaces import Materializer, SaveOptions, SaveResult
from flowyml.properties import type_name
from flowyml.store import manifest as manifests
from flowyml.store.manifest import Manifest


def materializer_of(data: object) -> Materializer:
    """Return the materializer that handles an object.

    Raises:
        MaterializationError: when none does.
    """
    found = adapters.materializer_of(data)
    if found is None:
        raise MaterializationError(
            f"No materializer handles a {type_name(data)}, so it can't be saved. Handled are: "
            f"{', '.join(adapters.materialized_types())}."
        )
    return found


def checked_format(materializer: Materializer, format: str | None, data: object) -> str:
    """Return the format to save in: the one asked for, or the materializer's first.

    Raises:
        MaterializationError: when the materializer doesn't have it.
    """
    if format is None:
        return materializer.formats[0]
    if format not in materializer.formats:
        known = ", ".join(map(repr, materializer.formats))
        raise MaterializationError(
            f"A {type_name(data)} can't be saved in the format {format!r}; it can in {known}."
        )
    return format


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
    except (FlowymlError, OSError, Warning):  # warnings are errors where the user wants them to be
        raise
    except Exception as error:
        raise MaterializationError(
            f"A {type_name(data)} can't be saved: the materializer {materializer.key!r} failed "
            f"with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(result, SaveResult):
        raise MaterializationError(
            f"The materializer {materializer.key!r} returned a {type_name(result)} where a "
            f"SaveResult is needed."
        )
    return result
