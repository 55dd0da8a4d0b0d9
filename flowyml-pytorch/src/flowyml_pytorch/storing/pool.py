"""Stored tensors in files: each large one by itself, small ones together, none of them twice.

Every file holds one tensor, as ``torch.save`` writes it. A large tensor has a file of its own,
without its name, so that equal tensors are one blob whatever model they belong to. Small ones lie
in one tensor of bytes, so that they don't become thousands of files. A tensor that the version
before holds already is not written again, see `storing.earlier`; `storing.index` says where each
tensor is.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowyml.digests import digest_of_bytes
from flowyml.errors import MaterializationError
from flowyml.interfaces import SaveOptions
from flowyml_pytorch.storing import archive
from flowyml_pytorch.storing.content import Digesting, digest_of_elements, on_cpu, write_unusual
from flowyml_pytorch.storing.earlier import EarlierTensors, frame_of
from flowyml_pytorch.storing.index import Row, write_index
from flowyml_pytorch.storing.layout import Layout, bytes_of, is_own, name_of
from flowyml_pytorch.storing.mapped import unpickled

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
    """What makes up the content of the tensors, and details that `index.read_index` needs.

    Attributes:
        content: for each stored tensor what `content.digests_of` returns, or the file whose digest
            that is.
        details: members of the manifest's details.
    """

    content: list[str]
    details: dict[str, Any]


@attrs.frozen
class Ready:
    """What several processes have written already.

    Attributes:
        rows: where tensors are that have a file of their own, by number.
        small: returns small tensors, by number.
        clear: removes what they were read from.
    """

    rows: Mapping[int, Row] = attrs.field(factory=dict)
    small: Mapping[int, Callable[[], Tensor]] = attrs.field(factory=dict)
    clear: Callable[[], None] = lambda: None


@attrs.frozen
class _ByDigest(Mapping[str, Tensor]):
    """Small tensors by digest, which may have to be read first."""

    numbers: Mapping[str, int]
    get_tensor: Callable[[int], Tensor]

    def __getitem__(self, digest: str) -> Tensor:
        return self.get_tensor(self.numbers[digest])

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __contains__(self, digest: object) -> bool:
        return digest in self.numbers


def small_ones(stored: Sequence[Tensor]) -> list[int]:
    """Return the numbers of the tensors that share files with others."""
    sizes = [tensor.nbytes if is_own(tensor) else 0 for tensor in stored]
    own_from = _own_from(sizes)
    return [n for n, tensor in enumerate(stored) if is_own(tensor) and sizes[n] < own_from]


def write(layout: Layout, folder: Path, options: SaveOptions, ready: Ready) -> Written:
    """Write what is stored, and the index.

    Args:
        layout: what is stored.
        folder: where to write.
        options: how.
        ready: what needs not be written any more.

    Raises:
        MaterializationError: when what was written can't be read back safely.
        OSError: when it can't be written.
    """
    (folder / "tensors").mkdir(exist_ok=True)
    stored = layout.stored
    options.expect(sum(tensor.nbytes for tensor in stored if is_own(tensor)))
    small = small_ones(stored)
    earlier = EarlierTensors.of(options.earlier() if stored else None, stored)
    rows = dict(ready.rows)
    large = sorted(set(range(len(stored))) - set(small) - set(rows))
    # What has changed goes to the disk while the rest is compared.
    with Digesting() as digesting:
        for number in sorted(large, key=lambda number: not earlier.differs(number, stored[number])):
            rows[number] = _alone(number, stored[number], earlier, digesting, folder, options)
    here = {number: on_cpu(stored[number]) for number in small if number not in ready.small}

    def plain(number: int) -> Tensor:
        return here[number] if number in here else ready.small[number]()

    digests = {number: digest_of_elements(plain(number)) for number in small}
    numbers = {digest: number for number, digest in digests.items()}
    known = earlier.keep_small(_ByDigest(numbers, plain), _PACK)
    todo = {digest: number for number, digest in reversed(digests.items()) if digest not in known}
    packed: dict[tuple[bool, bool], dict[str, int]] = defaultdict(dict)
    for digest, number in reversed(todo.items()):
        packed[layout.kinds[number]][digest] = number
    for kind in sorted(packed):
        for together in _packs(packed[kind], stored):
            fetched = [(digest, plain(number)) for digest, number in together]
            known.update(_write_pack(fetched, folder, options))
    rows |= {number: known[digest] for number, digest in digests.items()}
    listed = [rows[number] for number in range(len(stored))]
    content = [row.digest or row.file for row in listed]
    return Written(content, write_index(listed, folder))


def _own_from(sizes: Sequence[int]) -> int:
    """Return from how many bytes on a tensor has a file of its own."""
    limit = _SMALLEST_OWN
    while limit < _LARGEST_SHARED and sum(size >= limit for size in sizes) > _FEW:
        limit *= 2
    return limit


def _alone(
    number: int,
    tensor: Tensor,
    earlier: EarlierTensors,
    digesting: Digesting,
    folder: Path,
    options: SaveOptions,
) -> Row:
    """Write a tensor into a file of its own, unless the version before has it in one."""
    name = earlier.new_name(str(number))
    if not is_own(tensor):
        return _unusual(tensor, name, folder, options)
    tensor = on_cpu(tensor)
    digest = digesting.of(tensor)
    found = earlier.keep_large(number, tensor)
    if found is not None:
        return attrs.evolve(found, digest=digest())  # what a row says of itself isn't believed
    _save(tensor, folder / name)
    frame = frame_of(folder / name, archive.check(folder / name, name))
    options.done(folder / name)
    described = name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride())
    return Row(digest(), name, None, *described, frame)


def _unusual(tensor: Tensor, name: str, folder: Path, options: SaveOptions) -> Row:
    """Write a tensor that is more than its bytes: the file's digest is the tensor's."""
    _write(lambda sink: write_unusual(tensor, sink), folder / name)
    _read_back(folder / name)
    options.done(folder / name)
    return Row("", name, None, None, (), ())


def _packs(numbers: Mapping[str, int], stored: Sequence[Tensor]) -> Iterator[list[tuple[str, int]]]:
    """Divide small tensors among files."""
    pack: list[tuple[str, int]] = []
    size = 0
    for digest, number in numbers.items():
        nbytes = stored[number].nbytes
        if size + nbytes > _PACK:
            yield pack
            pack, size = [], 0
        pack.append((digest, number))
        size += _aligned(nbytes)
    yield pack


def _write_pack(
    tensors: list[tuple[str, Tensor]], folder: Path, options: SaveOptions
) -> dict[str, Row]:
    together = digest_of_bytes(*(digest.encode() for digest, _ in tensors))
    name = f"tensors/small-{together[:16]}.pt"
    parts: list[Any] = []
    rows: dict[str, Row] = {}
    offset = 0
    for digest, tensor in tensors:
        dtype, shape, stride = name_of(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride())
        rows[digest] = Row(digest, name, offset, dtype, shape, stride)
        padding = _aligned(tensor.nbytes) - tensor.nbytes
        parts += [bytes_of(tensor), bytes(padding)]
        offset += tensor.nbytes + padding
    elements = bytearray(b"".join(parts)) or bytearray(_ALIGNMENT)
    _save(torch.frombuffer(elements, dtype=torch.uint8), folder / name)
    options.done(folder / name)
    return rows


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _save(tensor: Tensor, path: Path) -> None:
    """Write a file with ``torch.save``."""
    _write(lambda sink: torch.save(tensor, sink), path)


def _write(save: Callable[[Any], None], path: Path) -> None:
    """Write a file with what lets torch write.

    Raises:
        OSError: when the disk is full, for example, which torch alone would not say.
    """
    sink = _File(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    try:
        save(sink)  # torch only writes and flushes
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


def _read_back(path: Path) -> None:
    """Make sure that an unusual tensor can be read: better now than when it is needed."""
    try:
        archive.check(path, path.name)
        unpickled(path)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise MaterializationError(f"{path.name} could not be read back: {reason}") from error
