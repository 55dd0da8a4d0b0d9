"""Elements of a whole tensor in a file that several processes write, each its own pieces.

Everything goes through plain reads and writes of a few megabytes: what is mapped would count as
memory of the process, and file systems over a network don't keep mapped pages apart.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import attrs
import torch
from torch import Tensor

from flowyml.digests import hasher
from flowyml.errors import MaterializationError
from flowyml_pytorch.storing.content import description
from flowyml_pytorch.storing.layout import within
from flowyml_pytorch.storing.shards import Piece, stretches

_AT_ONCE = 1 << 20
"""Bytes that are read or added up at a time; a multiple of every element's."""

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@attrs.frozen
class Tally:
    """How many bytes there are, and the sum of their words: in whatever order they are added up.

    It tells whether a file system has kept what each process wrote.
    """

    size: int = 0
    words: int = 0

    @classmethod
    def of(cls, elements: Tensor) -> Self:
        """Add up a tensor."""
        plain = torch.view_as_real(elements) if elements.is_complex() else elements
        words = plain.view(_word(elements.dtype))
        sums = [block.sum(dtype=torch.int64) for block in _blocks(words)]
        return cls(elements.nbytes, int(torch.stack(sums).sum()))

    def plus(self, other: Tally) -> Tally:
        """Add another one."""
        return Tally(self.size + other.size, (self.words + other.words) % 2**64)

    def check(self, wrote: Tally, path: Path) -> None:
        """Compare what is in a file with what was written into it.

        Raises:
            MaterializationError: when something is lost.
        """
        if self.plus(Tally()) != wrote.plus(Tally()):
            raise MaterializationError(
                f"{path} doesn't hold what the processes wrote into it: {wrote.size} of its "
                f"{self.size} bytes, which add up to another sum. The file system of the store "
                f"has to let several processes write into one file at the same time."
            )


def _word(dtype: torch.dtype) -> torch.dtype:
    """Return the integers as which elements are added up: of complex numbers, their parts."""
    return _WORDS[dtype.itemsize // (2 if dtype.is_complex else 1)]


def _blocks(elements: Tensor) -> Iterator[Tensor]:
    """Yield parts of a tensor that take little memory where they have to be converted."""
    if elements.nbytes <= _AT_ONCE or not elements.dim():
        yield elements
    elif elements.shape[0] == 1:
        yield from _blocks(elements[0])
    else:
        for part in elements.split(max(1, _AT_ONCE * elements.shape[0] // elements.nbytes)):
            yield from _blocks(part)


def put(path: Path, begin: int, parts: Sequence[Piece], stride: Sequence[int]) -> Tally:
    """Write pieces of a whole tensor.

    Args:
        path: the file, which has its size already.
        begin: where the whole's elements begin in it.
        parts: the pieces.
        stride: the whole's strides.

    Raises:
        OSError: when it can't be written.
    """
    found = Tally()
    if not parts:
        return found
    file = os.open(path, os.O_WRONLY)
    try:
        for piece in parts:
            found = found.plus(Tally.of(piece.elements))
            for at, data in stretches(piece, stride):
                _write(file, begin + at, data)
    finally:
        os.close(file)
    return found


def _write(file: int, at: int, data: memoryview) -> None:
    while data:
        done = os.pwrite(file, data, at)
        at, data = at + done, data[done:]


def holds(path: Path, begin: int, parts: Sequence[Piece], stride: Sequence[int]) -> bool:
    """Tell whether a file has the pieces of a whole tensor already; arguments as in `put`."""
    with path.open("rb", buffering=0) as file:
        return all(
            os.pread(file.fileno(), len(here), begin + at + start) == here
            for piece in parts
            for at, data in stretches(piece, stride)
            for start in range(0, len(data), _AT_ONCE)
            for here in [data[start : start + _AT_ONCE]]
        )


def read_through(path: Path, begin: int, tensor: Tensor) -> tuple[str, int, Tally]:
    """Return digest, CRC-32 and tally of a whole tensor's elements in a file.

    Args:
        path: the file.
        begin: where they begin in it.
        tensor: what the whole is like; it has no elements here.

    Raises:
        OSError: when it can't be read.
    """
    digest, checksum, tally = hasher(), 0, Tally()
    digest.update(description(tensor))
    for part in _read(path, begin, tensor.nbytes):
        digest.update(part)
        checksum = zlib.crc32(part, checksum)
        tally = tally.plus(Tally.of(torch.frombuffer(part, dtype=_word(tensor.dtype))))
    return digest.hexdigest(), checksum, tally


def read(path: Path, begin: int, tensor: Tensor, wrote: Tally) -> Tensor:
    """Return a whole tensor on the CPU; arguments as in `read_through`.

    Raises:
        MaterializationError: when it isn't what was written.
        OSError: when it can't be read.
    """
    elements = bytearray().join(_read(path, begin, tensor.nbytes))
    if not elements:
        none = torch.UntypedStorage(0, device="cpu")
        return within(none, 0, tensor.shape, tensor.stride(), tensor.dtype)
    memory = torch.frombuffer(elements, dtype=torch.uint8).untyped_storage()
    found = within(memory, 0, tensor.shape, tensor.stride(), tensor.dtype)
    Tally.of(found).check(wrote, path)
    return found


def _read(path: Path, begin: int, size: int) -> Iterator[memoryview]:
    """Yield the bytes of a stretch of a file; each part only until the next one."""
    memory = memoryview(bytearray(min(size, _AT_ONCE)))
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while size:
            wanted = memory[:size]
            done = 0
            while done < len(wanted):
                more = file.readinto(wanted[done:])
                if not more:
                    raise OSError(f"{path} ends {size - done} bytes too early")
                done += more
            yield wanted
            size -= len(wanted)
