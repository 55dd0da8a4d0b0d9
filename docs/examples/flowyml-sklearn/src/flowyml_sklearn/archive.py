"""Zip archives as they are written here: nothing compressed, no date, one form for one content.

skops writes such archives, and SciPy's sparse matrices are one each. Those that are read may come
from a stranger, so nothing is taken from them but entries whose bytes lie in the file as they are.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping

_DATE = (1980, 1, 1, 0, 0, 0)
_ENTRY = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)?\.(json|npy|npz|bin)")
_HEADER = 22
"""No entry takes less room in an archive than its header."""


class UnfitError(Exception):
    """Bytes aren't what this adapter writes."""


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Return an archive with the entries in the given order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3
            archive.writestr(entry, content)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the entries of an archive that `pack` wrote.

    Raises:
        UnfitError: when it is damaged, compressed, or larger inside than outside.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries, len(data))
            return {entry.filename: archive.read(entry) for entry in entries}
    except UnfitError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for damaged archives
        raise UnfitError(f"no archive as flowyml writes it: {error}") from error


def any_unpack(data: bytes) -> dict[str, bytes]:
    """Return the entries of an archive that a library in this process has just written."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise UnfitError("an archive with two entries of one name")
    for entry in entries:
        if not _ENTRY.fullmatch(entry.filename):
            raise UnfitError(f"an archive with an entry {entry.filename!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UnfitError(f"an archive with a compressed entry {entry.filename!r}")
    if sum(entry.file_size + _HEADER for entry in entries) > size:
        raise UnfitError("an archive whose entries overlap")
