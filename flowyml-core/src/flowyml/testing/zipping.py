"""Other zip archives, made of honest ones: as whoever knows the format would."""

from __future__ import annotations

import functools
import io
import zipfile
import zlib

from flowyml.testing.damage import varied

__tracebackhide__ = True

BOMB = 5 << 28
"""Bytes that a zip bomb unpacks to."""


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
