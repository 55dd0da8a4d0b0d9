"""A static check of a ``torch.save`` file, made before torch sees any of it.

A store keeps each tensor in a file of its own, and torch writes such a file in one way only: so
the archive is compared with that way byte by byte, and its pickle runs on a machine that knows
tensors and calls nothing. Neither takes torch, so that a store can be verified without it.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickletools import genops
from typing import Any

import attrs

from flowyml.errors import MaterializationError, UntrustedDataError


@attrs.frozen
class TensorFile:
    """What a file says about its tensor.

    Attributes:
        dtype: as torch prints it, such as ``"torch.float32"``.
        shape: the size of each dimension.
        stride: in elements, per dimension; empty for a sparse tensor.
        offset: of the first element in the storage, in elements.
        device: where the tensor was, such as ``"cpu"``.
        data_offset: where the storage's bytes begin in the file.
        data_size: how many bytes they are; both are 0 for a sparse and a meta tensor, which have
            no storage of their own.
        opaque: whether it takes more than dtype, shape, stride and bytes to make the tensor: it
            is sparse, quantized, lazily conjugated or negated, or on the meta device.
        native: whether the bytes are in this machine's order; torch swaps them when it reads.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    device: str
    data_offset: int
    data_size: int
    opaque: bool = False
    native: bool = True


class _UnfitError(Exception):
    """The file isn't what torch writes for a tensor; the text says in what."""


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
    except (_UnfitError, OSError) as error:
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
    except (_UnfitError, OSError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a file for `_read`; gives its descriptor and its size."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise _UnfitError("it is no regular file")
    with path.open("rb", buffering=0) as file:
        yield file.fileno(), os.fstat(file.fileno()).st_size


def _read(file: int, start: int, stop: int) -> bytes:
    data = os.pread(file, stop - start, start)
    if len(data) != stop - start:
        raise _UnfitError(f"it ends before byte {stop}")
    return data


def _want(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _UnfitError(otherwise)


# The archive. Of all that https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT allows,
# torch's writer uses this: no compression, record upon record without a gap, the data aligned by
# padding before it and followed by its CRC, and a directory in zip64 form at the end.

_ENTRY = struct.Struct("<4sH10sIIIHHHHHII")
_END = struct.Struct("<4sQHHIIQQQQ4sIQI4sHHHHIIH")
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
    _want(at == len(directory), "its directory has more in it than entries")
    top = entries[0][0].partition(b"/")[0]
    _want(_FOLDER.fullmatch(top) is not None, "its records are in no proper folder")
    records: dict[str, _Record] = {}
    expected = 0
    nexts = [*(header for *_, header in entries[1:]), begin]
    for (path, fixed, crc, length, header), following in zip(entries, nexts, strict=True):
        folder, _, rest = path.partition(b"/")
        name = rest.decode(errors="replace")
        if folder != top or not _RECORD.fullmatch(name):
            name = path.decode(errors="replace")
            raise _UnfitError(f"torch writes no record {name[:80]!r} for a tensor")
        if name in records:
            raise _UnfitError(f"its record {name!r} is there twice")
        if length > _LARGEST_TEXT and not name.startswith("data/"):
            raise _UnfitError(f"its record {name!r} has {length} bytes; a tensor needs fewer")
        wide = _in_64_bits([length, 0] * (length >= _WIDE) + [header] * (header >= _WIDE))
        sizes = "QQ" if wide else "II"
        after = struct.pack(f"<4sI{sizes}", b"PK\7\x08", crc, length, length) if length else b""
        stop = following - len(after)
        start = stop - length
        if header != expected or not 0 <= start - header - 30 - len(path) <= 0xFFFF:
            raise _UnfitError(f"its record {name!r} overlaps another, or there is a gap")
        records[name] = _Record(path, fixed, header, start, stop, wide, after)
        expected = following
    return records


def _directory_bounds(file: int, size: int) -> tuple[int, int, int]:
    """Return how many entries the directory has, and where it begins and ends."""
    end = size - _END.size
    _want(end > 0, "it is too short for an archive")
    last = _read(file, end, size)
    _, _, made, needed, _, _, count, _, length, begin, *_ = _END.unpack(last)
    expected = _END.pack(
        *(b"PK\6\6", 44, made, needed, 0, 0, count, count, length, begin),
        *(b"PK\6\7", 0, end, 1),
        *(b"PK\5\6", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF)),
        *(min(length, _WIDE), min(begin, _WIDE), 0),
    )
    _want(last == expected, "it is cut off, or ends otherwise than an archive of torch")
    if not 0 < count <= _MOST_RECORDS:
        raise _UnfitError(f"it has {count} records, and torch writes 9 at most for a tensor")
    _want(begin + length == end and length <= _LARGEST_TEXT, "its directory is misplaced")
    return count, begin, end


def _entry(directory: bytes, at: int) -> tuple[tuple[bytes, bytes, int, int, int], int]:
    """Return an entry's path, fixed part, CRC, length and header; and where the next begins."""
    _want(at + _ENTRY.size <= len(directory), "its directory breaks off")
    fields = _ENTRY.unpack_from(directory, at)
    _, made, fixed, crc, packed, length, named, extended, _, _, _, _, header = fields
    odd = "its records are compressed, encrypted or otherwise not what torch writes"
    _want(fixed[2:6] == (b"\x08\x08\0\0" if length else b"\0\x08\0\0") and packed == length, odd)
    path, extra = directory[at + _ENTRY.size :][:named], directory[at + _ENTRY.size + named :]
    wide = [int.from_bytes(extra[i : i + 8], "little") for i in range(4, extended, 8)]
    if length == _WIDE and wide:
        length = wide[0]
    if header == _WIDE and wide:
        header = wide[-1]
    extra = _in_64_bits([length, length] * (length >= _WIDE) + [header] * (header >= _WIDE))
    sizes = crc, min(length, _WIDE), min(length, _WIDE), len(path), len(extra), 0, 0
    # No attributes: torch's reader wouldn't read what they call a folder, but memory as it was.
    expected = _ENTRY.pack(b"PK\1\2", made, fixed, *sizes, 0, 0, min(header, _WIDE))
    expected += path + extra
    _want(directory[at : at + len(expected)] == expected, "its directory is malformed")
    return (path, fixed, crc, length, header), at + len(expected)


def _in_64_bits(values: list[int]) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _check_surroundings(file: int, record: _Record) -> None:
    """Make sure that around a record's data is just what torch writes there."""
    odd = "what surrounds a record contradicts its directory"
    extended = record.start - record.header - 30 - len(record.path)
    padded = extended - len(record.wide) - 4
    _want(padded >= 0, odd)
    lengths = struct.pack("<HH", len(record.path), extended)
    padding = struct.pack("<2sH", b"FB", padded) + b"Z" * padded
    header = b"PK\3\4" + record.fixed + bytes(12) + lengths + record.path + record.wide + padding
    _want(_read(file, record.header, record.start) == header, odd)
    after = _read(file, record.stop, record.stop + len(record.descriptor))
    _want(after == record.descriptor, odd)


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
        if names := _foreign_imports(os.pread(file, _LARGEST_TEXT, 0)):
            raise _ForeignError(*names)
        raise _UnfitError("it is no zip archive" if size else "it is empty")
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
        _want(name in texts, f"its record {name!r} is missing")
    _want(texts["byteorder"] in (b"little", b"big"), "its byte order is neither little nor big")
    alignment = texts.get(".storage_alignment", b"1")
    _want(re.fullmatch(rb"[1-9][0-9]{0,4}", alignment) is not None, "its alignment is no number")
    misplaced = any(record.start % int(alignment) for record in records.values())
    _want(not misplaced, "its records aren't aligned as it says")
    try:
        found = _Tensors(data).only(_tree(texts["data.pkl"]))
    except _UnfitError:
        if names := _foreign_imports(texts["data.pkl"]):
            raise _ForeignError(*names) from None
        raise
    return attrs.evolve(found, native=texts["byteorder"] == sys.byteorder.encode())


# The pickle: what torch.Tensor.__reduce_ex__ returns, and the opcodes that spell it.

_ITEM_SIZE = {
    f"torch {dtype}": size
    for size, dtypes in {
        1: "bool uint8 int8 quint8 qint8 quint4x2 quint2x4 bits8 bits1x8 bits2x4 bits4x2 "
        "float4_e2m1fn_x2 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
        "int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7",
        2: "uint16 int16 float16 bfloat16 bits16",
        4: "uint32 int32 float32 complex32 qint32",
        8: "uint64 int64 float64 complex64",
        16: "complex128",
    }.items()
    for dtype in dtypes.split()
}
_PER_ITEM = {"torch quint4x2": 2, "torch quint2x4": 4}
_KINDS = (
    "Bool:bool Byte:uint8 Char:int8 Short:int16 Int:int32 Long:int64 Half:float16 Float:float32 "
    "Double:float64 BFloat16:bfloat16 ComplexFloat:complex64 ComplexDouble:complex128 QInt8:qint8 "
    "QUInt8:quint8 QInt32:qint32 QUInt4x2:quint4x2 QUInt2x4:quint2x4"
)
_STORAGE_DTYPE = {"torch.storage UntypedStorage": ""} | {
    f"torch {kind}Storage": f"torch {dtype}"
    for kind, dtype in (pair.split(":") for pair in _KINDS.split())
}
_COMPRESSED = ("torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr", "torch.sparse_bsc")
_GLOBALS = {
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    *("torch._utils _rebuild_qtensor", "torch per_tensor_affine", "torch per_channel_affine"),
    *("torch._utils _rebuild_sparse_tensor", "torch.serialization _get_layout", "torch Size"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "collections OrderedDict"),
    *_STORAGE_DTYPE,
    *_ITEM_SIZE,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_DEVICE = re.compile(r"(?!meta)[a-z][a-z0-9_]{0,31}(:[0-9]{1,4})?")
_TOO_MUCH = 1 << 63


@attrs.frozen(eq=False)
class _Name:
    """A global, as ``"module name"``."""

    name: str


@attrs.frozen(eq=False)
class _Call:
    """A call of a function, or the storage that a persistent id stands for."""

    function: str
    arguments: Any


@attrs.frozen
class _Storage:
    """Bytes in the file; without a dtype where the tensor says it."""

    dtype: str
    device: str
    start: int
    size: int


def _tree(pickled: bytes) -> Any:
    """Return the tree of calls that a pickle spells, none of which is made."""
    _want(pickled[:2] == b"\x80\2", "its pickle has another protocol than 2")
    machine = _Machine()
    at: int | None = None
    try:
        for opcode, argument, at in genops(pickled):  # noqa: B007  # the last one counts
            machine.step(opcode.name, argument)
    except _UnfitError:
        raise
    except Exception as error:  # whatever is wrong with it
        raise _UnfitError("its pickle is malformed") from error
    whole = at == len(pickled) - 1 and len(machine.stack) == 1 and not machine.marks
    _want(whole, "its pickle has something left over")
    return machine.stack[0]


class _Machine:
    """The state of torch's unpickler, and its opcodes as far as a tensor needs them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"):
            stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == "GLOBAL":
            if argument not in _GLOBALS:
                raise _UnfitError(f"no tensor needs {argument[:80]!r}")
            stack.append(_Name(argument))
        elif opcode == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif opcode == "TUPLE":
            items = self.marked()
            self.stack.append(tuple(items))
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.popped(int(opcode[-1]))))
        elif opcode == "REDUCE":
            function, arguments = self.popped(2)
            stack.append(_Call(function.name, arguments))
        elif opcode == "BINPERSID":
            stack.append(_Call("storage", stack.pop()))
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.popped(2) if opcode == "SETITEM" else self.marked()
            _fill(self.stack[-1], items)
        elif opcode != "STOP" and (opcode, argument) != ("PROTO", 2):
            raise _UnfitError(f"its pickle uses {opcode}, which no tensor needs")

    def popped(self, count: int) -> list[Any]:
        _want(len(self.stack) >= count, "its pickle takes more than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items


def _fill(metadata: Any, items: list[Any]) -> None:
    """Note that a tensor is conjugated or negated whenever it is used."""
    _want(type(metadata) is dict, "its pickle fills what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        known = key in ("conj", "neg") and value is True  # another key might take ever to hash
        _want(known, "a tensor has no such metadata")
        metadata[key] = value


class _Tensors:
    """Turns calls into what they say of a tensor, or refuses what torch wouldn't write.

    Only flat tuples are looked into: deep or repeated ones can stand for more than memory holds.
    """

    def __init__(self, data: dict[str, tuple[int, int]]) -> None:
        self.data = data  # where each storage begins in the file, and its size
        self.storages: dict[str, _Storage] = {}

    def only(self, tree: Any) -> TensorFile:
        """Describe the tensor that is all of a file."""
        match tree:
            case _Call(
                "torch._utils _rebuild_qtensor",
                (source, *view, scheme, bool(), _Call("collections OrderedDict", ())),
            ):
                found = self.quantized(self.storage(source), view, scheme)
            case _Call(
                "torch._utils _rebuild_sparse_tensor",
                (_Call("torch.serialization _get_layout", (layout,)), parts),
            ):
                found = self.sparse(layout, parts)
            case _Call(
                "torch._utils _rebuild_meta_tensor_no_storage", (_Name(dtype), *view, bool())
            ):
                nothing = _Storage(dtype, "meta", 0, _TOO_MUCH)
                found = attrs.evolve(_view(nothing, dtype, [0, *view]), data_size=0, opaque=True)
            case _:
                found = self.dense(tree)
        _want(self.storages.keys() == self.data.keys(), "it has data that its tensor doesn't use")
        return found

    def dense(self, tree: Any) -> TensorFile:
        """Describe a strided tensor that isn't quantized."""
        match tree:
            case _Call(
                "torch._utils _rebuild_tensor_v2",
                (source, at, shape, stride, bool(), _Call("collections OrderedDict", ()), *bits),
            ):
                storage = self.storage(source)
                dtype = storage.dtype
                _want(not dtype.startswith("torch q"), "it is quantized by no scheme")
            case _Call(
                "torch._utils _rebuild_tensor_v3",
                (source, at, shape, stride, bool(), _Call("collections OrderedDict", ()),
                 _Name(dtype), *bits),
            ):  # fmt: skip
                storage = self.storage(source)
                _want(not storage.dtype and dtype not in _STORAGE_DTYPE.values(), "two dtypes")
            case _:
                raise _UnfitError("it holds something else than one tensor")
        _want(len(bits) <= 1 and all(type(item) is dict for item in bits), "odd metadata")
        lazy = dict(*bits)
        _want("conj" not in lazy or "complex" in dtype, "real numbers have no conjugate")
        return attrs.evolve(_view(storage, dtype, [at, shape, stride]), opaque=bool(lazy))

    def storage(self, tree: Any) -> _Storage:
        """Return the storage that a persistent id stands for."""
        match tree:
            case _Call("storage", ("storage", _Name(kind), str(key), str(device), int(count))):
                name = f"data/{key}"
                _want(kind in _STORAGE_DTYPE and name in self.data, "its storage is missing")
                _want(_DEVICE.fullmatch(device) is not None, "its device is none")
                dtype, (start, size) = _STORAGE_DTYPE[kind], self.data[name]
                needed = count * _ITEM_SIZE.get(dtype, 1)
                if needed != size:
                    raise _UnfitError(f"its storage of {needed} bytes has {size}")
                storage = _Storage(dtype, device, start, size)
                _want(self.storages.setdefault(name, storage) == storage, "its storages clash")
                return storage
        raise _UnfitError("its tensor has no storage")

    def quantized(self, storage: _Storage, view: list[Any], scheme: Any) -> TensorFile:
        """Describe a quantized tensor. Older torch doesn't compare the axis with the shape."""
        found = attrs.evolve(_view(storage, storage.dtype, view), opaque=True)
        rows, row = math.prod(found.shape[:-1]), found.shape[-1] if found.shape else 1
        fits = found.dtype.startswith("torch.q")
        fits = fits and rows * -(-row // _PER_ITEM.get(storage.dtype, 1)) <= storage.size
        match scheme:
            case (_Name("torch per_tensor_affine"), float(), int(zero)):
                fits = fits and abs(zero) < _TOO_MUCH
            case (_Name("torch per_channel_affine"), scales, zeros, int(axis)):
                channels = found.shape[axis : axis + 1] if axis >= 0 else ()
                fits = fits and self.dense(scales).shape == self.dense(zeros).shape == channels
                fits = fits and len(channels) == 1
            case _:
                fits = False
        _want(fits, "its quantization doesn't fit its shape and dtype")
        return found

    def sparse(self, layout: Any, parts: Any) -> TensorFile:
        """Describe a sparse tensor."""
        match layout, parts:
            case "torch.sparse_coo", (indices, values, _Call("torch Size", (size,)), bool()):
                at, of, shape = self.dense(indices), self.dense(values), _shape(size)
                fits = _fits_coo(at.shape, of.shape, shape) and at.dtype == "torch.int64"
            case str(), (starts, indices, values, _Call("torch Size", (size,))):
                by, at, of = self.dense(starts), self.dense(indices), self.dense(values)
                shape = _shape(size)
                fits = _fits_compressed(layout, by.shape, at.shape, of.shape, shape)
                fits = fits and by.dtype == at.dtype and at.dtype in ("torch.int32", "torch.int64")
            case _:
                raise _UnfitError("it is sparse in an unknown way")
        _want(fits and not at.opaque and not of.opaque, "its indices don't fit its values")
        return TensorFile(of.dtype, shape, (), 0, of.device, 0, 0, opaque=True)


_Shape = tuple[int, ...]


def _fits_coo(indices: _Shape, values: _Shape, shape: _Shape) -> bool:
    if len(indices) != 2 or indices[0] > len(shape):
        return False
    return values == (indices[1], *shape[indices[0] :])


def _fits_compressed(
    layout: str, starts: _Shape, indices: _Shape, values: _Shape, shape: _Shape
) -> bool:
    """Tell whether the parts fit together. On blocks of nothing torch would divide by zero."""
    batches = len(indices) - 1
    blocked = 2 if "sparse_bs" in layout else 0
    rest = values[batches + 1 :]
    block = rest[:blocked] if blocked else (1, 1)
    matrix = shape[batches : batches + 2]
    if layout not in _COMPRESSED or batches < 0 or len(matrix) != 2 or len(block) != 2:
        return False
    if 0 in block or any(n % step for n, step in zip(matrix, block, strict=True)):
        return False
    along = 0 if layout.endswith("r") else 1
    lines = matrix[along] // block[along]
    return (
        starts == (*indices[:-1], lines + 1)
        and shape == (*indices[:-1], *matrix, *rest[blocked:])
        and values == (*indices, *rest)
    )


def _view(storage: _Storage, dtype: str, view: list[Any]) -> TensorFile:
    """Describe a view of a storage: it lies in it, and has no more elements than that."""
    _want(dtype in _ITEM_SIZE and len(view) == 3, "it has no dtype, shape or stride")
    (offset,), shape, stride = _numbers((view[0],)), _shape(view[1]), _numbers(view[2])
    _want(len(shape) == len(stride), "it has not one stride for each dimension")
    room = storage.size // _ITEM_SIZE[dtype] * _PER_ITEM.get(dtype, 1)
    last = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    reach = offset if 0 in shape else offset + last + 1
    if max(math.prod(shape), reach) > room:
        raise _UnfitError(
            f"shape {shape} with stride {stride} from {offset} exceeds its storage, which has "
            f"{room} elements"
        )
    name = dtype.replace(" ", ".")
    return TensorFile(name, shape, stride, offset, storage.device, storage.start, storage.size)


def _shape(value: Any) -> _Shape:
    shape = _numbers(value)
    if math.prod(max(n, 1) for n in shape) >= _TOO_MUCH // 16:
        raise _UnfitError(f"no memory holds shape {shape}")
    return shape


def _numbers(value: Any) -> _Shape:
    plain = type(value) is tuple and len(value) <= 64 and all(type(n) is int for n in value)
    _want(plain and all(0 <= n < _TOO_MUCH for n in value), "its shape, stride or offset is none")
    return tuple(value)


def _foreign_imports(data: bytes) -> list[str]:
    """Return what unpickling would import and no tensor needs, as far as that can be told."""
    found: dict[str, None] = {}
    stream = io.BytesIO(data)
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")  # of an odd escape in a string
        while stream.tell() < len(data):  # a file of old has several pickles
            for name in _imports(stream):
                dotted = name.replace(" ", ".")
                if name not in _GLOBALS and all(map(str.isidentifier, dotted.split("."))):
                    found[dotted] = None
    return list(found)


def _imports(pickled: io.BytesIO) -> Iterator[str]:
    """Yield every global of the next pickle, as ``"module name"``."""
    texts = ["", ""]
    memo: dict[Any, str] = {}
    for opcode, argument, _ in genops(pickled):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument)
        elif name == "STACK_GLOBAL":
            yield " ".join(texts[-2:])
        elif name.startswith("EXT"):  # a number that stands for a global
            yield "copyreg _inverted_registry"
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1]
        elif name.endswith("PUT"):
            memo[argument] = texts[-1]
        elif name.endswith("GET"):
            texts.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            texts.append(argument)
