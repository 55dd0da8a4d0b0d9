"""A static check of a ``torch.save`` file, made before torch sees any of it.

A store keeps each tensor in a file of its own, and torch writes such a file in one way only: so
the archive is compared with that way byte by byte, and its pickle is described without being
run (`storing.tensor_pickle`). Neither takes torch, so that a store can be verified without.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from flowyml.errors import MaterializationError, UntrustedDataError
from flowyml_pytorch.storing.tensor_pickle import (
    TensorFile,
    UnfitError,
    describe,
    foreign_imports,
    want,
)

__all__ = ["TensorFile", "check", "damaged_ranges"]


class _ForeignError(Exception):
    """The file's pickle would import what no tensor needs; the arguments are the names."""


def check(path: Path, what: str) -> TensorFile:
    """Make sure that a file holds one tensor and nothing else, whatever torch would make of it.

    The tensor's own bytes aren't read. For a sparse tensor they include its indices: have torch
    check those when it loads them (``torch.sparse.check_sparse_tensor_invariants``).

    Args:
        path: what ``torch.save`` wrote for a single tensor.
        what: whose file it is, for messages.

    Raises:
        UntrustedDataError: when the pickle would import anything that no tensor needs.
        MaterializationError: when the file can't be read, or isn't as torch writes it.
    """
    try:
        with _opened(path) as (file, size):
            return _describe(file, size)
    except _ForeignError as error:
        raise UntrustedDataError(
            f"{what}: {path} is no stored tensor: its pickle would import "
            f"{', '.join(error.args[:10])}, and nothing of it was run. trust= doesn't extend to a "
            "tensor's file: get the asset again from where it was saved.",
            error.args,
        ) from None
    except (UnfitError, OSError) as error:
        raise MaterializationError(
            f"{what}: {path} is no tensor as torch.save writes it, so torch was not given it: "
            f"{error}. Restore the file from a copy, or save the asset again."
        ) from error


def damaged_ranges(path: Path) -> list[tuple[int, int]] | None:
    """Tell what of a file is damaged, where its digest says that something is.

    Returns:
        The storages whose bytes disagree with their CRC-32, each as ``(start, stop)`` in bytes;
        an empty list when all agree, so that only what surrounds them is damaged; None when the
        file can't be read as an archive any more, so that this can't be told. A file that torch
        wrote with ``compute_crc32`` turned off can't absolve its storages: all are returned.
    """
    try:
        with _opened(path) as (file, size):
            return [
                (record.start, record.stop)
                for name, record in _directory(file, size).items()
                if name.startswith("data/") and not _agrees_with_crc(file, record)
            ]
    except (UnfitError, OSError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a file for `_read`; gives its descriptor and its size."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise UnfitError("it is no regular file")
    with path.open("rb", buffering=0) as file:
        yield file.fileno(), os.fstat(file.fileno()).st_size


def _read(file: int, start: int, stop: int) -> bytes:
    data = os.pread(file, stop - start, start)
    if len(data) != stop - start:
        raise UnfitError(f"it ends before byte {stop}")
    return data


# The archive. Of all that https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT allows,
# torch's writer uses this: no compression, record upon record without a gap, the data aligned by
# padding before it and followed by its CRC, and a directory in zip64 form at the end.

ENTRY = struct.Struct("<4sH10sIIIHHHHHII")
END = struct.Struct("<4sQHHIIQQQQ4sIQI4sHHHHIIH")
_WIDE = 0xFFFFFFFF  # in a field of 32 bits: the value stands in one of 64 bits
_MOST_RECORDS = 16
_LARGEST_TEXT = 1 << 16
_FOLDER = re.compile(rb"(?!\.\.?$)[^/\\:\x00-\x1f]+")
_RECORD = re.compile(
    r"data\.pkl|\.format_version|\.storage_alignment|byteorder|version|\.data/serialization_id"
    r"|data/(0|[1-9][0-9]?)"
)


@attrs.frozen
class _Record:
    """A file in the archive: header and padding, then its data, then its descriptor."""

    path: bytes
    fixed: bytes  # version, flags, method and time, which directory and header share
    header: int
    start: int
    stop: int
    wide: bytes  # what its header has in 64 bits
    descriptor: bytes


def _directory(file: int, size: int) -> dict[str, _Record]:
    """Return the records by name, as the directory at the end of the file has them."""
    count, begin, end = _directory_bounds(file, size)
    directory = _read(file, begin, end)
    entries, at = [], 0
    for _ in range(count):
        entry, at = _entry(directory, at)
        entries.append(entry)
    want(at == len(directory), "its directory has more in it than entries")
    top = entries[0][0].partition(b"/")[0]
    want(_FOLDER.fullmatch(top) is not None, "its records are in no proper folder")
    records: dict[str, _Record] = {}
    expected = 0
    nexts = [*(header for *_, header in entries[1:]), begin]
    for (path, fixed, crc, length, header), following in zip(entries, nexts, strict=True):
        folder, _, rest = path.partition(b"/")
        name = rest.decode(errors="replace")
        if folder != top or not _RECORD.fullmatch(name):
            name = path.decode(errors="replace")
            raise UnfitError(f"torch writes no record {name[:80]!r} for a tensor")
        if name in records:
            raise UnfitError(f"its record {name!r} is there twice")
        if length > _LARGEST_TEXT and not name.startswith("data/"):
            raise UnfitError(f"its record {name!r} has {length} bytes; a tensor needs fewer")
        wide = _in_64_bits([length, 0] * (length >= _WIDE) + [header] * (header >= _WIDE))
        sizes = "QQ" if wide else "II"
        after = struct.pack(f"<4sI{sizes}", b"PK\7\x08", crc, length, length) if length else b""
        stop = following - len(after)
        start = stop - length
        if header != expected or not 0 <= start - header - 30 - len(path) <= 0xFFFF:
            raise UnfitError(f"its record {name!r} overlaps another, or there is a gap")
        records[name] = _Record(path, fixed, header, start, stop, wide, after)
        expected = following
    return records


def _directory_bounds(file: int, size: int) -> tuple[int, int, int]:
    """Return how many entries the directory has, and where it begins and ends."""
    end = size - END.size
    want(end > 0, "it is too short for an archive")
    last = _read(file, end, size)
    _, _, made, needed, _, _, count, _, length, begin, *_ = END.unpack(last)
    expected = END.pack(
        *(b"PK\6\6", 44, made, needed, 0, 0, count, count, length, begin),
        *(b"PK\6\7", 0, end, 1),
        *(b"PK\5\6", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF)),
        *(min(length, _WIDE), min(begin, _WIDE), 0),
    )
    want(last == expected, "it is cut off, or ends otherwise than an archive of torch")
    if not 0 < count <= _MOST_RECORDS:
        raise UnfitError(f"it has {count} records, and torch writes 9 at most for a tensor")
    want(begin + length == end and length <= _LARGEST_TEXT, "its directory is misplaced")
    return count, begin, end


def _entry(directory: bytes, at: int) -> tuple[tuple[bytes, bytes, int, int, int], int]:
    """Return an entry's path, fixed part, CRC, length and header; and where the next begins."""
    want(at + ENTRY.size <= len(directory), "its directory breaks off")
    fields = ENTRY.unpack_from(directory, at)
    _, made, fixed, crc, packed, length, named, extended, _, _, _, _, header = fields
    odd = "its records are compressed, encrypted or otherwise not what torch writes"
    want(fixed[2:6] == (b"\x08\x08\0\0" if length else b"\0\x08\0\0") and packed == length, odd)
    path, extra = directory[at + ENTRY.size :][:named], directory[at + ENTRY.size + named :]
    wide = [int.from_bytes(extra[i : i + 8], "little") for i in range(4, extended, 8)]
    if length == _WIDE and wide:
        length = wide[0]
    if header == _WIDE and wide:
        header = wide[-1]
    extra = _in_64_bits([length, length] * (length >= _WIDE) + [header] * (header >= _WIDE))
    sizes = crc, min(length, _WIDE), min(length, _WIDE), len(path), len(extra), 0, 0
    # No attributes: torch's reader wouldn't read what they call a folder, but memory as it was.
    expected = ENTRY.pack(b"PK\1\2", made, fixed, *sizes, 0, 0, min(header, _WIDE))
    expected += path + extra
    want(directory[at : at + len(expected)] == expected, "its directory is malformed")
    return (path, fixed, crc, length, header), at + len(expected)


def _in_64_bits(values: list[int]) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _check_surroundings(file: int, record: _Record) -> None:
    """Make sure that around a record's data is just what torch writes there."""
    odd = "what surrounds a record contradicts its directory"
    extended = record.start - record.header - 30 - len(record.path)
    padded = extended - len(record.wide) - 4
    want(padded >= 0, odd)
    lengths = struct.pack("<HH", len(record.path), extended)
    padding = struct.pack("<2sH", b"FB", padded) + b"Z" * padded
    header = b"PK\3\4" + record.fixed + bytes(12) + lengths + record.path + record.wide + padding
    want(_read(file, record.header, record.start) == header, odd)
    after = _read(file, record.stop, record.stop + len(record.descriptor))
    want(after == record.descriptor, odd)


def _agrees_with_crc(file: int, record: _Record) -> bool:
    """Tell whether data agrees with its CRC in the directory or in its descriptor."""
    crc, step = 0, 1 << 20
    for start in range(record.start, record.stop, step):
        crc = zlib.crc32(_read(file, start, min(start + step, record.stop)), crc)
    after = _read(file, record.stop, record.stop + len(record.descriptor))
    if not after or struct.pack("<I", crc) in (record.descriptor[4:8], after[4:8]):
        return True
    _check_surroundings(file, record)  # or else the data may lie elsewhere
    return False


def _describe(file: int, size: int) -> TensorFile:
    """Read everything but the tensor's own bytes."""
    if os.pread(file, 4, 0) != b"PK\3\4":
        if names := foreign_imports(os.pread(file, _LARGEST_TEXT, 0)):
            raise _ForeignError(*names)
        raise UnfitError("it is no zip archive" if size else "it is empty")
    records = _directory(file, size)
    for record in records.values():
        _check_surroundings(file, record)
    texts, data = {}, {}
    for name, record in records.items():
        if name.startswith("data/"):
            data[name] = record.start, record.stop - record.start
        else:
            texts[name] = _read(file, record.start, record.stop)
    for name in ("data.pkl", "byteorder", "version"):
        want(name in texts, f"its record {name!r} is missing")
    want(texts["byteorder"] in (b"little", b"big"), "its byte order is neither little nor big")
    alignment = texts.get(".storage_alignment", b"1")
    want(re.fullmatch(rb"[1-9][0-9]{0,4}", alignment) is not None, "its alignment is no number")
    misplaced = any(record.start % int(alignment) for record in records.values())
    want(not misplaced, "its records aren't aligned as it says")
    try:
        found = describe(texts["data.pkl"], data)
    except UnfitError:
        if names := foreign_imports(texts["data.pkl"]):
            raise _ForeignError(*names) from None
        raise
    return attrs.evolve(found, native=texts["byteorder"] == sys.byteorder.encode())
