"""Which tensors are stored, and how the others are seen in them.

Tensors that share memory have to share it again, and a slice of a large storage must not drag all
of that along. So what is stored are stretches of memory: a tensor by itself where its elements lie
close together, or else the stretch that it and those which overlap it span.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

KINDS = (Tensor, nn.Parameter, nn.Buffer)
"""Types of tensors that come back as they were; others would need code of their own."""

UNINITIALIZED = (nn.UninitializedParameter, nn.UninitializedBuffer)
"""Types of tensors that have no shape yet, in lazy modules."""


@attrs.define
class Layout:
    """What to store for some tensors.

    Attributes:
        entries: for each of the tensors, how it is made of what is stored; JSON data.
        stored: what to store: plain tensors without memory in common.
        kinds: for each of them, what tells if it is going to change with others: whether it is a
            parameter, and whether it is trained.
    """

    entries: list[dict[str, Any]]
    stored: list[Tensor]
    kinds: list[tuple[bool, bool]]


@attrs.frozen
class _Stretch:
    """The bytes of a storage that a tensor reaches: from `start` up to `end`."""

    index: int
    start: int
    end: int


def lay_out(tensors: Sequence[Tensor]) -> Layout:
    """Decide what to store for some tensors, each of which is there once."""
    layout = Layout([_entry(tensor) for tensor in tensors], [], [])
    for group in _overlapping(tensors):
        members = [tensors[stretch.index] for stretch in group]
        start = _start(members, group)
        base = _base(members, group, start)
        for stretch, member in zip(group, members, strict=True):
            entry = layout.entries[stretch.index]
            entry["stored"] = len(layout.stored)
            if len(members) == 1 and _has_gaps(member):
                entry["strides"] = list(member.stride())
            elif is_strided(member):
                view = _view(member, stretch.start - start)
                entry.update({} if view == _view(base, 0) else {"view": view})
        layout.stored.append(base)
        layout.kinds.append(
            (
                any(isinstance(member, nn.Parameter) for member in members),
                any(member.requires_grad for member in members),
            )
        )
    return layout


def _entry(tensor: Tensor) -> dict[str, Any]:
    """Return what has to be known of a tensor besides its elements; what is usual is left out."""
    entry: dict[str, Any] = {}
    if isinstance(tensor, UNINITIALIZED):
        entry["uninitialized"] = name_of(tensor.dtype)
    elif tensor.is_meta:
        entry["meta"] = _view(tensor, 0)[:3]
    if isinstance(tensor, (nn.Parameter, nn.UninitializedParameter)):
        entry["parameter"] = True
    if tensor.requires_grad:
        entry["requires_grad"] = True
    if tensor.device.type not in ("cpu", "meta"):
        entry["device"] = str(tensor.device)
    return entry


def _overlapping(tensors: Sequence[Tensor]) -> list[list[_Stretch]]:
    """Group the tensors whose elements lie in one stretch of memory, in the order they are met."""
    groups: list[list[_Stretch]] = []
    storages: dict[int, list[_Stretch]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.is_meta or isinstance(tensor, UNINITIALIZED):
            continue
        if not is_strided(tensor) or tensor.numel() == 0:
            groups.append([_Stretch(index, 0, 0)])
            continue
        start = int(tensor.storage_offset()) * tensor.element_size()
        size = span(tensor.shape, tensor.stride()) * tensor.element_size()
        storages.setdefault(storage_of(tensor), []).append(_Stretch(index, start, start + size))
    for stretches in storages.values():
        groups += _merged(stretches)
    return sorted(groups, key=lambda group: min(stretch.index for stretch in group))


def _merged(stretches: list[_Stretch]) -> list[list[_Stretch]]:
    groups: list[list[_Stretch]] = []
    reached = -1
    for stretch in sorted(stretches, key=lambda s: (s.start, -s.end, s.index)):
        if stretch.start < reached:
            groups[-1].append(stretch)
        else:
            groups.append([stretch])
        reached = max(reached, stretch.end)
    return groups


def _start(members: list[Tensor], group: list[_Stretch]) -> int:
    """Return the byte at which what is stored begins, where elements of every size may."""
    largest = max(member.element_size() for member in members)
    one_type = len({member.dtype for member in members}) == 1
    return group[0].start - (0 if one_type else group[0].start % largest)


def _base(members: list[Tensor], group: list[_Stretch], start: int) -> Tensor:
    """Return what to store for tensors that overlap: the first one if it spans them all."""
    first = members[0].detach()
    if not is_strided(first) or first.numel() == 0:
        return _resolved(first)
    end = max(stretch.end for stretch in group)
    one_type = len({member.dtype for member in members}) == 1
    spans = group[0].end == end and is_dense(first)
    if one_type and spans and (first.is_contiguous() or len(members) == 1):
        return first
    if len(members) == 1 and _has_gaps(first):
        return first.contiguous()
    dtype = first.dtype if one_type else torch.uint8
    return within(first.untyped_storage(), start, [(end - start) // dtype.itemsize], [1], dtype)


def within(
    storage: torch.UntypedStorage,
    start: int,
    shape: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return a tensor whose own storage is a stretch of another one; nothing is copied.

    Args:
        storage: the whole.
        start: the byte at which it begins.
        shape: its shape.
        stride: its strides, in elements.
        dtype: its data type.
    """
    end = start + span(shape, stride) * dtype.itemsize
    part = storage[start:end] if end > start else torch.UntypedStorage(0, device=storage.device)
    return torch.empty(0, dtype=dtype, device=storage.device).set_(part, 0, shape, stride)


def viewed(base: Tensor, view: Sequence[Any]) -> Tensor:
    """Return the view of a stored tensor that an entry describes.

    Raises:
        ValueError: when it reaches beyond the stored tensor.
    """
    name, shape, stride, offset = view
    dtype = dtype_of(name)
    if not is_own(base) or dtype not in _PLAIN_TYPES:
        raise ValueError("only tensors of plain elements have views")
    sizes = [*shape, *stride, offset]
    if not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise ValueError(f"{view!r} is no view")
    if len(shape) != len(stride) or (
        (offset + span(shape, stride)) * dtype.itemsize > base.nbytes and 0 not in shape
    ):
        raise ValueError(f"{view!r} reaches beyond the tensor that it is a view of")
    flat = base.as_strided((base.numel(),), (1,)).view(torch.uint8)
    whole = flat[: flat.numel() // dtype.itemsize * dtype.itemsize]
    return whole.view(dtype).as_strided(shape, stride, offset)


def spread(base: Tensor, strides: Sequence[Any]) -> Tensor:
    """Return a tensor with its elements as far apart as they were: what is between isn't stored.

    Raises:
        ValueError: for unfit strides.
    """
    if not all(type(step) is int and step >= 0 for step in strides):
        raise ValueError(f"{strides!r} are no strides")
    size = span(base.shape, strides)
    if size * base.element_size() > _LARGEST_GAPS and size > 64 * base.numel():
        raise ValueError("its elements are too far apart")
    memory = torch.zeros(size, dtype=base.dtype, device=base.device)
    return memory.as_strided(base.shape, strides).copy_(base)


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a dense tensor on the CPU, in the order of its memory, uncopied."""
    if not tensor.nbytes:
        return memoryview(b"")
    assert tensor.nbytes <= tensor.untyped_storage().nbytes()
    address = Tensor.data_ptr(tensor)
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(address)).cast("B")


def is_strided(tensor: Tensor) -> bool:
    """Tell whether shape, strides and offset say all about where a tensor's elements are."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    return not (tensor.is_conj() or tensor.is_neg() or tensor.is_nested)


def is_own(tensor: Tensor) -> bool:
    """Tell whether a stored tensor is plain: dense elements, whose bytes are all there is to it."""
    return is_strided(tensor) and tensor.dtype in _PLAIN_TYPES


def is_plain_type(dtype: torch.dtype) -> bool:
    """Tell whether elements of a data type are whole bytes, which hold nothing but the value."""
    return dtype in _PLAIN_TYPES


def storage_of(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage; the tensor's own where it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return id(tensor)


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a data type, without the module."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: Any) -> torch.dtype:
    """Return the data type of a name. Raises ValueError when there is none."""
    found = vars(torch).get(name) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no data type of this torch")
    return found


def _resolved(tensor: Tensor) -> Tensor:
    """Carry out a conjugation that is only noted so far; leave memory that isn't its own."""
    if tensor.layout is torch.strided and not tensor.is_nested:
        return tensor.resolve_conj().resolve_neg()
    return tensor if tensor.is_quantized else tensor.clone()


def _view(tensor: Tensor, start: int) -> list[Any]:
    """Return data type, shape, strides and offset, seen from the byte `start` of what is stored."""
    offset = start // tensor.element_size()
    return [name_of(tensor.dtype), list(tensor.shape), list(tensor.stride()), offset]


def span(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Return how many elements of memory a tensor reaches over."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


_LARGEST_GAPS = 1 << 26
"""Bytes that a tensor may reach over if most of them are none of its own."""


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of elements that lie row by row."""
    steps = itertools.accumulate(reversed(shape[1:]), lambda a, b: a * max(b, 1), initial=1)
    return tuple(steps)[::-1] if shape else ()


def _has_gaps(tensor: Tensor) -> bool:
    """Tell whether between a tensor's elements there is memory that is none of them."""
    if not is_strided(tensor) or tensor.numel() == 0 or is_dense(tensor):
        return False
    return span(tensor.shape, tensor.stride()) > tensor.numel()


def is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor's elements fill a stretch of memory, each byte once."""
    expected = 1
    for size, step in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda d: d[1]):
        if size != 1:
            if step != expected:
                return False
            expected *= size
    return True


_PLAIN_TYPES = frozenset(
    getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
)
"""Data types whose elements take whole bytes, which hold nothing but the value."""
