"""Stored tensors in files: each large one by itself, small ones together, none of them twice.

Every file holds one tensor, as ``torch.save`` writes it. A large tensor has a file of its own,
without its name, so that equal tensors are one blob whatever model they belong to. Small ones lie
in one tensor of bytes, so that they don't become thousands of files. A tensor that the version
before holds already is not written again: the new version refers to the file where it lies.
`storing.index` says where each tensor is.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError
from flowyml.interfaces import Earlier, SaveOptions
from flowyml_pytorch.storing import archive
from flowyml_pytorch.storing.index import Row, read_index, write_index
from flowyml_pytorch.storing.layout import Layout, bytes_of, dtype_of, is_own, name_of, within

_SMALLEST_OWN = 16 << 10
_LARGEST_SHARED = 1 << 20
"""Bytes: a tensor of as many has a file of its own, smaller ones only while there are few."""
_FEW = 32
_PACK = 16 << 20
"""Bytes of small tensors in one file, at most."""
_ALIGNMENT = 64
"""Bytes: where a tensor in a file with others begins, so that any data type may be read there."""


@attrs.frozen
class Written:
    """The digest of all tensors in their order, and details that `index.read_index` needs."""

    digest: str
    details: dict[str, Any]


def write(layout: Layout, folder: Path, options: SaveOptions) -> Written:
    """Write what is stored, and the index.

    Raises:
        MaterializationError: when what was written can't be read back safely.
        OSError: when it can't be written.
    """
    (folder / "tensors").mkdir()
    options.expect(sum(tensor.nbytes for tensor in layout.stored if is_own(tensor)))
    digests = [_digest(tensor) for tensor in layout.stored]
    rows = _kept(digests, options.earlier()) if layout.stored else {}
    todo: dict[str, int] = {}
    for number, digest in enumerate(digests):
        if digest not in rows:
            todo.setdefault(digest, number)
    own_from = _own_from([t.nbytes for t in layout.stored if is_own(t)])
    packed: dict[tuple[bool, bool], list[tuple[str, Tensor]]] = defaultdict(list)
    for digest, number in todo.items():
        tensor = layout.stored[number]
        if is_own(tensor) and tensor.nbytes < own_from:
            packed[layout.kinds[number]].append((digest, tensor))
        else:
            rows[digest] = _write_alone(digest, tensor, folder, options)
    for kind in sorted(packed):
        for together in _packs(packed[kind]):
            rows.update(_write_pack(together, folder, options))
    details = write_index([rows[digest] for digest in digests], folder)
    return Written(digest_of_bytes(*(digest.encode() for digest in digests)), details)


def _digest(tensor: Tensor) -> str:
    """Return the digest of a tensor's content; the device is no part of it."""
    if not is_own(tensor):
        hasher = _Hasher()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(tensor, hasher)  # type: ignore[arg-type]  # it only writes and flushes
        return digest_of_bytes(*hasher.parts)
    described = [name_of(tensor.dtype), list(tensor.shape), list(tensor.stride())]
    return digest_of_bytes(json.dumps(described).encode(), bytes_of(_on_cpu(tensor)))


class _Hasher:
    """Keeps what is written, to be hashed."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(self.parts[-1])

    def flush(self) -> None:
        """There is nothing to flush."""


def _on_cpu(tensor: Tensor) -> Tensor:
    """Return a dense tensor on the CPU whose storage is all its own; copies only from devices."""
    if tensor.device.type != "cpu":
        flat = tensor.as_strided((tensor.numel(),), (1,)).cpu()
        return flat.as_strided(tensor.shape, tensor.stride())
    start = int(tensor.storage_offset()) * tensor.element_size()
    return within(tensor.untyped_storage(), start, tensor.shape, tensor.stride(), tensor.dtype)


def _own_from(sizes: Sequence[int]) -> int:
    """Return from how many bytes on a tensor has a file of its own."""
    limit = _SMALLEST_OWN
    while limit < _LARGEST_SHARED and sum(size >= limit for size in sizes) > _FEW:
        limit *= 2
    return limit


def _write_alone(digest: str, tensor: Tensor, folder: Path, options: SaveOptions) -> Row:
    name = f"tensors/{digest[:16]}.pt"
    if is_own(tensor):
        _save(_on_cpu(tensor), folder / name)
        row = Row(
            digest, name, None, name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride())
        )
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _save(tensor, folder / name)
        _read_back(folder / name)
        row = Row(digest, name, None, None, (), ())
    options.done(folder / name)
    return row


def _packs(tensors: list[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Divide small tensors among files."""
    pack: list[tuple[str, Tensor]] = []
    size = 0
    for digest, tensor in tensors:
        if size + tensor.nbytes > _PACK:
            yield pack
            pack, size = [], 0
        pack.append((digest, tensor))
        size += _aligned(tensor.nbytes)
    yield pack


def _write_pack(
    tensors: list[tuple[str, Tensor]], folder: Path, options: SaveOptions
) -> dict[str, Row]:
    name = f"tensors/{digest_of_bytes(*(digest.encode() for digest, _ in tensors))[:16]}.pt"
    parts: list[Any] = []
    rows: dict[str, Row] = {}
    offset = 0
    for digest, tensor in tensors:
        dtype, shape, stride = name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride())
        rows[digest] = Row(digest, name, offset, dtype, shape, stride)
        padding = _aligned(tensor.nbytes) - tensor.nbytes
        parts += [bytes_of(_on_cpu(tensor)), bytes(padding)]
        offset += tensor.nbytes + padding
    elements = bytearray(b"".join(parts)) or bytearray(_ALIGNMENT)
    _save(torch.frombuffer(elements, dtype=torch.uint8), folder / name)
    options.done(folder / name)
    return rows


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _save(tensor: Tensor, path: Path) -> None:
    """Write a file with ``torch.save``.

    Raises:
        OSError: when the disk is full, for example, which torch alone would not say.
    """
    sink = _File(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    try:
        torch.save(tensor, sink)  # type: ignore[arg-type]  # it only writes and flushes
    except Exception:
        if sink.error is not None:
            raise sink.error from None
        raise
    finally:
        os.close(sink.descriptor)


class _File:
    """What ``torch.save`` writes to: a file that remembers why writing failed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.write(self.descriptor, view[written:])
        except OSError as error:
            self.error = error
            raise
        return written

    def flush(self) -> None:
        """There is nothing to flush."""


def unpickled(path: Path) -> Tensor:
    """Read an unusual tensor with torch's own reader of weights.

    Raises:
        TypeError: when the file holds something else; torch raises much more.
    """
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
        warnings.simplefilter("ignore")  # torch warns of what it uses itself
        found: Any = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    if not isinstance(found, Tensor):
        raise TypeError("it holds no tensor")
    return found


def _read_back(path: Path) -> None:
    """Make sure that an unusual tensor can be read: better now than when it is needed."""
    try:
        archive.check(path, path.name)
        unpickled(path)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise MaterializationError(f"{path.name} could not be read back: {reason}") from error


def _kept(digests: Sequence[str], earlier: Earlier | None) -> dict[str, Row]:
    """Return where the version before holds tensors, in files that are worth keeping.

    A file is, as long as half of it is still needed; and there are never many small ones.
    """
    if earlier is None:
        return {}
    try:
        rows = read_index(earlier.details(), earlier.read)
    except ValueError:  # it is damaged: then everything is written
        return {}
    wanted = set(digests)
    found: Mapping[str, Row] = {row.digest: row for row in rows if row.digest in wanted}
    sizes = earlier.files()
    needed: dict[str, int] = defaultdict(int)
    packs: set[str] = set()
    for row in found.values():
        needed[row.file] += sizes[row.file] if row.offset is None else _size(row)
        if row.offset is not None:
            packs.add(row.file)
    small = sum(needed[name] for name in packs)
    too_many = len(packs) > 8 + 2 * small // _PACK
    kept = {
        name
        for name, size in needed.items()
        if 2 * size >= sizes[name] and not (too_many and name in packs) and earlier.keep(name)
    }
    return {digest: row for digest, row in found.items() if row.file in kept}


def _size(row: Row) -> int:
    return math.prod(row.shape) * dtype_of(row.dtype).itemsize
