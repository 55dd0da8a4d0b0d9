"""What ``torch.save`` writes around a tensor's elements, made without the elements.

Several processes write the elements of one tensor, each its own, into a file whose frame is there
already. The frame holds a checksum of all elements, which is put in at the end; then the file is,
bit for bit, the one that ``torch.save`` writes for the whole tensor.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from flowyml_pytorch.storing.archive import END, ENTRY

_CHECKSUM = struct.Struct("<I")
_BEFORE_CHECKSUM = 16
"""Bytes of an entry of the archive's directory before the CRC-32 of its record."""
_SIGNATURE = 4
"""Bytes of what follows a record before the CRC-32 of the record."""


def without_elements(
    shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: Any
) -> Tensor:
    """Return a tensor that is like any other but for its elements, which take no memory."""
    with FakeTensorMode():
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)


@attrs.frozen
class Frame:
    """What surrounds the elements of a tensor in its file.

    Attributes:
        before: the bytes before the elements.
        size: how many bytes the elements are; there are some.
        after: the bytes after them, where 0 stands for the checksum of the elements.
    """

    before: bytes
    size: int
    after: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Let torch write the file of a tensor that has no elements."""
        sink: Any = _Sink()
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(tensor, sink)
        return cls(bytes(sink.parts[0]), sink.skipped, bytes(sink.parts[1]))

    def write(self, path: Path) -> None:
        """Write a file with zeros for elements: it has its size, so that nobody has to extend it.

        Raises:
            OSError: when it can't be written.
        """
        with path.open("xb") as file:
            file.write(self.before)
            file.seek(self.size, os.SEEK_CUR)
            file.write(self.after)

    def finish(self, path: Path, checksum: int) -> bytes:
        """Put the CRC-32 of the elements into a file; return what comes after them then.

        Raises:
            OSError: when it can't be written.
        """
        after = self._after(checksum)
        with path.open("r+b") as file:
            file.seek(len(self.before) + self.size)
            file.write(after)
        return after

    def _after(self, checksum: int) -> bytes:
        """Return what comes after elements of which this is the CRC-32.

        The archive's last record, its serialization id, ends in a hash of the CRC-32 of each other
        record: 64 bits in decimal, combined as ``c10::hash_combine`` does.
        """
        after = bytearray(self.after)
        _CHECKSUM.pack_into(after, _SIGNATURE, checksum)
        combined = 0
        for name, at in self._entries():
            if name.endswith(b"/data/0"):
                _CHECKSUM.pack_into(after, at, checksum)
            (known,) = _CHECKSUM.unpack_from(after, at)
            if not name.endswith(b"/.data/serialization_id"):
                mixed = known + 0x9E3779B9 + (combined << 6) + (combined >> 2)
                combined = (combined ^ mixed) & 0xFFFFFFFFFFFFFFFF
                continue
            (found,) = re.finditer(rb"\d{40}", after)
            text = found[0][:20] + b"%020d" % combined
            after[slice(*found.span())] = text
            _CHECKSUM.pack_into(after, found.end() + _SIGNATURE, zlib.crc32(text))
            _CHECKSUM.pack_into(after, at, zlib.crc32(text))
        return bytes(after)

    def _entries(self) -> Iterator[tuple[bytes, int]]:
        """Yield the path of every record, and where its CRC-32 is in the directory."""
        _, _, _, _, _, _, count, _, _, begin, *_ = END.unpack(self.after[-END.size :])
        at = begin - len(self.before) - self.size
        for _ in range(count):
            fields = ENTRY.unpack_from(self.after, at)
            named, extended = fields[6:8]
            yield self.after[at + ENTRY.size :][:named], at + _BEFORE_CHECKSUM
            at += ENTRY.size + named + extended


class _Sink:
    """What torch writes a frame to: it jumps over the elements."""

    def __init__(self) -> None:
        self.parts = [bytearray()]
        self.skipped = 0

    def write(self, data: Any) -> int:
        self.parts[-1] += data
        return len(data)

    def seek(self, offset: int, whence: int) -> None:
        assert whence == os.SEEK_CUR
        self.skipped = offset
        self.parts.append(bytearray())

    def flush(self) -> None:
        """There is nothing to flush."""
