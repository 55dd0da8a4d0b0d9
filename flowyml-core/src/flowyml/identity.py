"""What an object is, as one digest: the same that the store gives it when it is saved.

That is how an argument is recognised as what an earlier step returned, whether an equal call has
been made before, and what a step has changed in place.
"""

from __future__ import annotations

import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowyml import adapters
from flowyml.assets import Asset
from flowyml.digests import digest_of, digest_of_bytes
from flowyml.errors import FlowymlError, quiet, told
from flowyml.interfaces import Materializer, SaveOptions
from flowyml.properties import type_name
from flowyml.stored import StoredFile


class NoDigestError(FlowymlError):
    """An object can't be told from another by its content."""


def content_digest_of(obj: Any) -> str:
    """Return the content digest that an object would have in a store; writes nothing there.

    Of an asset it is that of its data, of a function that of its code.

    Raises:
        NoDigestError: with the reason, when it has none.
    """
    try:
        return _digest_of(obj)
    except (KeyboardInterrupt, NoDigestError):
        raise
    except BaseException as error:  # the adapter's code, and the object's own
        text = str(error) if isinstance(error, FlowymlError) else told(error)
        raise NoDigestError(text) from error


def _digest_of(obj: Any) -> str:
    if isinstance(obj, Asset):
        if obj.data is None and obj.digest is not None:
            return obj.digest
        obj = obj.data
    if isinstance(obj, (types.FunctionType, type)):
        return _digest_of_code(obj)
    materializer = adapters.materializer_of(obj)
    if materializer is None:
        raise NoDigestError(f"no materializer handles a {type_name(obj)}")
    return _digest_by(materializer, obj)


def is_canonical(materializer: Materializer, format: str) -> bool:
    """Tell whether what is stored in a format has the digest that its object has."""
    return format == materializer.formats[0]


def _digest_by(materializer: Materializer, obj: Any) -> str:
    from flowyml.store import manifest as manifests

    format = materializer.formats[0]
    found = materializer.digests(obj, format)
    if found is None:
        return _digest_by_saving(materializer, obj, format)
    if isinstance(found, Mapping):
        files = tuple(StoredFile(path, digest, 0) for path, digest in found.items())
        return manifests.content_digest(materializer.key, format, files, None)
    content = digest_of_bytes("\n".join(found).encode())
    return manifests.content_digest(materializer.key, format, (), content)


def _digest_by_saving(materializer: Materializer, obj: Any, format: str) -> str:
    from flowyml.store import manifest as manifests
    from flowyml.store import saving

    with tempfile.TemporaryDirectory(prefix="flowyml-") as name:
        folder = Path(name)
        with quiet():
            result = saving.written(materializer, obj, folder, SaveOptions(format))
        files = tuple(
            StoredFile(path.relative_to(folder).as_posix(), digest_of(path), path.stat().st_size)
            for path in folder.rglob("*")
            if path.is_file()
        )
        content = saving.digest_of_content(result, files)
    return manifests.content_digest(materializer.key, format, files, content)


def _digest_of_code(obj: Any) -> str:
    from flowyml import code

    found = code.describe(obj, digest_of=content_digest_of)
    if found.unknown:
        raise NoDigestError(found.unknown[0])
    return found.digest
