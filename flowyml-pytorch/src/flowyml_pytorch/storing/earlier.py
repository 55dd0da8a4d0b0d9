"""What the version before holds of the tensors to be saved, so that it isn't written again.

A large tensor is compared with the elements in the file, which is faster than hashing both, and
proves the file intact as well. Small ones are found by their digests, wherever they lie.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import attrs
import torch
from torch import Tensor

from flowyml.digests import digest_of_bytes
from flowyml.errors import FlowymlError
from flowyml.interfaces import Earlier
from flowyml_pytorch.storing import archive
from flowyml_pytorch.storing.index import Row, read_index
from flowyml_pytorch.storing.layout import bytes_of, is_own, name_of
from flowyml_pytorch.storing.mapped import elements_of

_Described = tuple[str | None, tuple[int, ...], tuple[int, ...]]

_START = 4096
"""Bytes that are compared first: tensors that differ mostly do so at once."""


@attrs.define
class EarlierTensors:
    """The tensors of the version before; none when there is no such version.

    Attributes:
        version: the version.
        rows: where its tensors are, by number.
        similar: whether it has tensors of the same shapes in the same order, as after training.
    """

    version: Earlier | None
    rows: list[Row]
    similar: bool
    _files: dict[str, tuple[Path, archive.TensorFile] | None] = attrs.field(factory=dict)
    _by_start: dict[tuple[_Described, bytes], list[Row]] | None = None

    @classmethod
    def of(cls, version: Earlier | None, stored: Sequence[Tensor]) -> Self:
        """Look at a version; a damaged index is as good as none."""
        try:
            rows = read_index(version.details(), version.read) if version else []
        except (ValueError, TypeError, KeyError):
            rows = []
        shapes = [tuple(tensor.shape) for tensor in stored if is_own(tensor)]
        similar = [row.shape for row in rows if row.dtype is not None] == shapes
        return cls(version, rows, similar)

    def new_name(self, stem: str) -> str:
        """Return the path of a new file that none of the version has: any may still be kept."""
        taken = self.version.files() if self.version else {}
        names = (f"tensors/{stem}{more}.pt" for more in _suffixes())
        return next(name for name in names if name not in taken)

    def keep_large(self, number: int, tensor: Tensor) -> Row | None:
        """Keep the file of a tensor that has one of its own; None when there is no equal one.

        Args:
            number: where it stands among those that are saved.
            tensor: a dense tensor on the CPU.
        """
        for row in self._candidates(number, tensor):
            if self.version is not None and self._holds(row, tensor):
                self.version.keep(row.file, compared=True)
                return row
        return None

    def at(self, number: int, tensor: Tensor) -> tuple[Row, Path, archive.TensorFile] | None:
        """Return the intact file of the tensor at a number, if it is of the same kind as another.

        Args:
            number: where it stands.
            tensor: the other one; its elements aren't looked at.
        """
        row = self.rows[number] if number < len(self.rows) else None
        if row is None or row.offset is not None or _described(row) != _described_tensor(tensor):
            return None
        opened = self._opened(row)
        if opened is None or frame_of(*opened) != row.frame:
            return None
        return row, *opened

    def differs(self, number: int, tensor: Tensor) -> bool:
        """Tell whether a tensor begins otherwise than the one of its number: then it is new."""
        if not (self.similar and is_own(tensor) and tensor.device.type == "cpu"):
            return False
        row = self.rows[number] if number < len(self.rows) else None
        opened = self._opened(row) if row and row.offset is None else None
        if opened is None:
            return True
        here = bytes_of(tensor)[:_START]
        return bytes(_elements_in(*opened)[: len(here)].tolist()) != bytes(here)

    def _candidates(self, number: int, tensor: Tensor) -> list[Row]:
        described = _described_tensor(tensor)
        same = self.rows[number : number + 1]
        found = [row for row in same if row.offset is None and _described(row) == described]
        if self.similar or not self.rows:
            return found
        if self._by_start is None:
            self._by_start = self._starts()
        start = bytes(_elements(tensor)[:_START].tolist())
        return [*found, *self._by_start.get((described, start), [])]

    def _starts(self) -> dict[tuple[_Described, bytes], list[Row]]:
        """Return the rows of large tensors by what they are and how their elements begin."""
        starts = defaultdict(list)
        for row in self.rows:
            opened = self._opened(row) if row.offset is None and row.dtype else None
            if opened is not None:
                start = bytes(_elements_in(*opened)[:_START].tolist())
                starts[_described(row), start].append(row)
        return starts

    def _opened(self, row: Row) -> tuple[Path, archive.TensorFile] | None:
        if row.file not in self._files:
            path = self.version.open(row.file) if self.version else None
            try:
                found = None if path is None else (path, archive.check(path, row.file))
            except FlowymlError:
                found = None
            self._files[row.file] = found
        return self._files[row.file]

    def _holds(self, row: Row, tensor: Tensor) -> bool:
        """Tell whether a file is intact and holds a tensor, bit for bit."""
        opened = self._opened(row)
        if opened is None:
            return False
        path, file = opened
        there, here = _elements_in(path, file), _elements(tensor)
        if there.numel() != here.numel() or not torch.equal(there[:_START], here[:_START]):
            return False
        wide = here.numel() // 8 * 8
        return (
            torch.equal(there[:wide].view(torch.int64), here[:wide].view(torch.int64))
            and torch.equal(there[wide:], here[wide:])
            and frame_of(path, file) == row.frame
        )

    def keep_small(self, tensors: Mapping[str, Tensor], pack: int) -> dict[str, Row]:
        """Keep the files in which small tensors lie together, and return where by digest.

        A file is worth it as long as half of it is needed; and there are never many of them.

        Args:
            tensors: those that are looked for, on the CPU, by digest.
            pack: bytes of a file of new ones, at most.
        """
        if self.version is None:
            return {}
        found = {
            row.digest: row
            for row in self.rows
            if row.digest in tensors and self._has_among_others(row, tensors[row.digest])
        }
        sizes = self.version.files()
        needed: dict[str, int] = defaultdict(int)
        for row in found.values():
            needed[row.file] += tensors[row.digest].nbytes
        many = len(needed) > 8 + 2 * sum(needed.values()) // pack
        kept = {
            name
            for name, size in needed.items()
            if not many and 2 * size >= sizes.get(name, 0) and self.version.keep(name)
        }
        return {digest: row for digest, row in found.items() if row.file in kept}

    def _has_among_others(self, row: Row, tensor: Tensor) -> bool:
        """Tell whether a file with small tensors holds one where its row says so, bit for bit.

        The digest in the row is only a hint: a version may have come from a stranger.
        """
        opened = self._opened(row) if row.offset is not None else None
        if opened is None or row.offset is None or _described(row) != _described_tensor(tensor):
            return False
        there, here = _elements_in(*opened), _elements(tensor)
        return torch.equal(there[row.offset : row.offset + here.numel()], here)


def frame_of(path: Path, file: archive.TensorFile) -> str:
    """Return the digest of what surrounds the elements in a file."""
    with path.open("rb") as opened:
        before = opened.read(file.data_offset)
        opened.seek(file.data_offset + file.data_size)
        return digest_of_bytes(before, opened.read())


def _described(row: Row) -> _Described:
    return row.dtype, row.shape, row.stride


def _described_tensor(tensor: Tensor) -> _Described:
    return name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride())


def _elements(tensor: Tensor) -> Tensor:
    """Return the bytes of a dense tensor whose storage is all its own."""
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(tensor.untyped_storage())


def _elements_in(path: Path, file: archive.TensorFile) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(elements_of(path, file))


def _suffixes() -> itertools.chain[str]:
    return itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
