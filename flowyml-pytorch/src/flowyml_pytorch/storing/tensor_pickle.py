"""What the pickle of a stored tensor says, found on a machine that calls nothing.

torch's own unpickler builds whatever it is told to, if only of the types that it allows. Here no
more is known than what ``torch.Tensor.__reduce_ex__`` returns and the opcodes that spell it, and
the tensor has to lie in its storage.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pickletools import genops
from typing import Any

import attrs


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


class UnfitError(Exception):
    """The file isn't what torch writes for a tensor; the text says in what."""


def want(condition: bool, otherwise: str) -> None:
    """Raise an `UnfitError` unless a condition holds."""
    if not condition:
        raise UnfitError(otherwise)


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
    want(pickled[:2] == b"\x80\2", "its pickle has another protocol than 2")
    machine = _Machine()
    at: int | None = None
    try:
        for opcode, argument, at in genops(pickled):  # noqa: B007  # the last one counts
            machine.step(opcode.name, argument)
    except UnfitError:
        raise
    except Exception as error:  # whatever is wrong with it
        raise UnfitError("its pickle is malformed") from error
    whole = at == len(pickled) - 1 and len(machine.stack) == 1 and not machine.marks
    want(whole, "its pickle has something left over")
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
                raise UnfitError(f"no tensor needs {argument[:80]!r}")
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
            raise UnfitError(f"its pickle uses {opcode}, which no tensor needs")

    def popped(self, count: int) -> list[Any]:
        want(len(self.stack) >= count, "its pickle takes more than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items


def _fill(metadata: Any, items: list[Any]) -> None:
    """Note that a tensor is conjugated or negated whenever it is used."""
    want(type(metadata) is dict, "its pickle fills what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        known = key in ("conj", "neg") and value is True  # another key might take ever to hash
        want(known, "a tensor has no such metadata")
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
        want(self.storages.keys() == self.data.keys(), "it has data that its tensor doesn't use")
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
                want(not dtype.startswith("torch q"), "it is quantized by no scheme")
            case _Call(
                "torch._utils _rebuild_tensor_v3",
                (source, at, shape, stride, bool(), _Call("collections OrderedDict", ()),
                 _Name(dtype), *bits),
            ):  # fmt: skip
                storage = self.storage(source)
                want(not storage.dtype and dtype not in _STORAGE_DTYPE.values(), "two dtypes")
            case _:
                raise UnfitError("it holds something else than one tensor")
        want(len(bits) <= 1 and all(type(item) is dict for item in bits), "odd metadata")
        lazy = dict(*bits)
        want("conj" not in lazy or "complex" in dtype, "real numbers have no conjugate")
        return attrs.evolve(_view(storage, dtype, [at, shape, stride]), opaque=bool(lazy))

    def storage(self, tree: Any) -> _Storage:
        """Return the storage that a persistent id stands for."""
        match tree:
            case _Call("storage", ("storage", _Name(kind), str(key), str(device), int(count))):
                name = f"data/{key}"
                want(kind in _STORAGE_DTYPE and name in self.data, "its storage is missing")
                want(_DEVICE.fullmatch(device) is not None, "its device is none")
                dtype, (start, size) = _STORAGE_DTYPE[kind], self.data[name]
                needed = count * _ITEM_SIZE.get(dtype, 1)
                if needed != size:
                    raise UnfitError(f"its storage of {needed} bytes has {size}")
                storage = _Storage(dtype, device, start, size)
                want(self.storages.setdefault(name, storage) == storage, "its storages clash")
                return storage
        raise UnfitError("its tensor has no storage")

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
        want(fits, "its quantization doesn't fit its shape and dtype")
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
                raise UnfitError("it is sparse in an unknown way")
        want(fits and not at.opaque and not of.opaque, "its indices don't fit its values")
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
    want(dtype in _ITEM_SIZE and len(view) == 3, "it has no dtype, shape or stride")
    (offset,), shape, stride = _numbers((view[0],)), _shape(view[1]), _numbers(view[2])
    want(len(shape) == len(stride), "it has not one stride for each dimension")
    room = storage.size // _ITEM_SIZE[dtype] * _PER_ITEM.get(dtype, 1)
    last = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    reach = offset if 0 in shape else offset + last + 1
    if max(math.prod(shape), reach) > room:
        raise UnfitError(
            f"shape {shape} with stride {stride} from {offset} exceeds its storage, which has "
            f"{room} elements"
        )
    name = dtype.replace(" ", ".")
    return TensorFile(name, shape, stride, offset, storage.device, storage.start, storage.size)


def _shape(value: Any) -> _Shape:
    shape = _numbers(value)
    if math.prod(max(n, 1) for n in shape) >= _TOO_MUCH // 16:
        raise UnfitError(f"no memory holds shape {shape}")
    return shape


def _numbers(value: Any) -> _Shape:
    plain = type(value) is tuple and len(value) <= 64 and all(type(n) is int for n in value)
    want(plain and all(0 <= n < _TOO_MUCH for n in value), "its shape, stride or offset is none")
    return tuple(value)


def describe(pickled: bytes, data: dict[str, tuple[int, int]]) -> TensorFile:
    """Return what a pickle says of its tensor.

    Args:
        pickled: the pickle.
        data: where each storage begins in the file, and how many bytes it has, by its record.

    Raises:
        UnfitError: when it isn't what torch writes for one tensor with just these storages.
    """
    return _Tensors(data).only(_tree(pickled))


def foreign_imports(data: bytes) -> list[str]:
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
