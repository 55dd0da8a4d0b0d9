"""Other JSON and other zip archives, made of honest ones: as whoever knows the format would."""

from __future__ import annotations

import functools
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from flowyml.testing.damage import seeded, varied
from flowyml.testing.payloads import KNOWN, STRANGE, Payload

BOMB = 5 << 28
"""Bytes that a zip bomb unpacks to."""


def other_json(content: bytes, count: int) -> Iterator[Payload]:
    """Yield other JSON where the content is JSON, with changes in as many places."""
    if content.lstrip()[:1] not in (b"{", b"["):
        return
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return
    for start, what in ((b"[", "lists"), (b'{"a":', "objects")):
        yield Payload(f"is JSON of 100,000 {what} in one another", start * 100_000)
    for what, other in other_data(data, count):
        yield Payload(f"is JSON in which {what}", json.dumps(other).encode())


def other_data(data: Any, count: int) -> Iterator[tuple[str, Any]]:
    """Yield what was changed in JSON data, and the data: names of callables, numbers, nesting.

    Texts come first, each once, since it is names that can be called.
    """
    random = seeded(repr(data).encode())
    places = [*_places(data)]
    texts = [*{leaf: (path, leaf) for path, leaf in places if isinstance(leaf, str)}.values()]
    others = [(path, leaf) for path, leaf in places if not isinstance(leaf, str)]
    chosen = [
        *random.sample(texts, min(count, len(texts))),
        *random.sample(others, min(count // 2, len(others))),
    ]
    for path, leaf in chosen:
        where = "".join(f"[{part!r}]" for part in path)
        for other in _instead_of(leaf):
            shown = "a deeply nested list" if other is _DEEP else repr(other)
            yield f"{where} is {shown}", _replaced(data, path, other)


def _instead_of(leaf: Any) -> list[Any]:
    if isinstance(leaf, str):
        between = ":" if ":" in leaf else "."
        names = (("os", "system"), ("builtins", "eval"), (STRANGE, "run"), (KNOWN, "run"))
        return [*map(between.join, (*names, (KNOWN, "Made"))), STRANGE, _DEEP]
    return [_DEEP, -1, 1 << 40] if isinstance(leaf, (int, float)) else [_DEEP]


def _nested(depth: int) -> list[Any]:
    return [_nested(depth - 1)] if depth else []


_DEEP = _nested(150)
"""As deep as the readers of manifests let through."""


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield where the leaves of JSON data are, and what they are."""
    if isinstance(data, (dict, list)):
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _places(item, (*path, key))
    elif path:
        yield path, data


def _replaced(data: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copied = data.copy()
    copied[path[0]] = _replaced(data[path[0]], path[1:], other)
    return copied


def is_archive(content: bytes) -> bool:
    """Tell whether bytes are a zip archive that can be read."""
    try:
        zipfile.ZipFile(io.BytesIO(content)).close()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return True


def members(content: bytes, count: int) -> dict[str, bytes]:
    """Return the files in a zip archive, or that many of them, of different kinds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        return {name: archive.read(name) for name in varied(names, count)}


def other_archive(content: bytes, name: str, member: bytes) -> bytes:
    """Return a zip archive with one member replaced or added."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        _copy(content, archive, name)
        archive.writestr(zipfile.ZipInfo(name), member)
    return made.getvalue()


def bomb(content: bytes, name: str) -> bytes:
    """Return a zip archive, one member of which unpacks to far more than it takes."""
    made = io.BytesIO()
    packed, checksum = _zeros()
    with zipfile.ZipFile(made, "w") as archive:
        _copy(content, archive, name)
        info = zipfile.ZipInfo(name)
        archive.writestr(info, packed)
        # It is there as it is; now it is said to be compressed.
        info.compress_type, info.file_size, info.CRC = zipfile.ZIP_DEFLATED, BOMB, checksum
        made.seek(info.header_offset)
        made.write(info.FileHeader(zip64=False))
    return made.getvalue()


def _copy(content: bytes, target: zipfile.ZipFile, left_out: str) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            if info.filename != left_out:
                copy = zipfile.ZipInfo(info.filename, info.date_time)
                copy.compress_type = info.compress_type
                target.writestr(copy, archive.read(info))


@functools.cache
def _zeros() -> tuple[bytes, int]:
    """Return zeros as deflated, and their checksum."""
    part, parts = bytes(1 << 20), BOMB >> 20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(parts):
        checksum = zlib.crc32(part, checksum)
    return packed * parts + packer.flush(), checksum
