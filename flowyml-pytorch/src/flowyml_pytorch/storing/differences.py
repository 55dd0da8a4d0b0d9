"""How two tensors differ, number by number, with a few chunks of them in memory at a time.

Differences are computed in float64, those of integers and bools exactly. NaN equals NaN here, and
0.0 equals -0.0; between NaN and a number, and between infinities and anything else, the difference
is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from flowyml.interfaces import Change
from flowyml_pytorch.storing.layout import name_of

_CHUNK = 1 << 19
"""Elements at a time: half a dozen copies of them in float64 take 20 MiB, of complex ones 40."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@attrs.define
class _Found:
    """What is known so far of how two tensors differ."""

    same_bits: bool = True
    different: int = 0
    first: int | None = None
    max_absolute: float = 0.0
    max_relative: float = 0.0
    norm: float = 0.0
    norm_before: float = 0.0

    def add(self, before: Tensor, after: Tensor, start: int) -> None:
        """Look at a chunk that begins at an element, in row-major order."""
        magnitude = _magnitude(_real(before, before))
        self.norm_before = math.hypot(self.norm_before, _norm(magnitude))
        if before.dtype == after.dtype and torch.equal(_bits(before), _bits(after)):
            return
        self.same_bits = False
        differs, distance = _apart(before, after)
        count = int(differs.sum())
        if not count:
            return
        if self.first is None:
            self.first = start + int(differs.to(torch.uint8).argmax())
        self.different += count
        self.max_absolute = max(self.max_absolute, float(distance.max()))
        known = magnitude.isfinite() & (magnitude > 0)
        relative = torch.where(known, distance / magnitude, math.inf)[differs]
        self.max_relative = max(self.max_relative, float(relative.max()))
        self.norm = math.hypot(self.norm, _norm(distance))


def differences(name: str, before: Tensor, after: Tensor) -> list[Change]:
    """Return how two tensors differ; nothing when all their bits are equal.

    If only the data types differ, the values are compared; tensors that aren't dense are compared
    part by part.
    """
    there, here = parts_of(before), parts_of(after)
    told = described(before), described(after)
    if there.keys() != here.keys():
        return [Change(name, *told)]
    changes = []
    for part in there:
        called = f"{name}.{part}" if name and part else name or part
        change = _difference(called, there[part], here[part])
        if change is not None:
            changes.append(change)
    return changes


def _difference(name: str, before: Tensor, after: Tensor) -> Change | None:
    if before.shape != after.shape or not all(map(_has_numbers, (before.dtype, after.dtype))):
        return Change(name, described(before), described(after))
    found = _Found()
    for part, start in _chunks(before.shape):
        found.add(before[part], after[part], start)
    if found.same_bits and before.dtype == after.dtype:
        return None
    first = None if found.first is None else _index(found.first, before.shape)
    return Change(
        name,
        described(before),
        described(after),
        before.numel(),
        found.different,
        first,
        None if first is None else _told(before[first]),
        None if first is None else _told(after[first]),
        found.max_absolute,
        found.max_relative,
        found.norm,
        found.norm_before,
    )


def parts_of(tensor: Tensor) -> dict[str, Tensor]:
    """Return the dense tensors that make up one of any kind, by name; a dense one has none."""
    if tensor.is_quantized:
        return {"int_repr": tensor.int_repr(), **_scheme_of(tensor)}
    if tensor.layout is torch.sparse_coo:
        return {"indices": tensor._indices(), "values": tensor._values()}
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        starts, indices = tensor.crow_indices(), tensor.col_indices()
        return {"crow_indices": starts, "col_indices": indices, "values": tensor.values()}
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        starts, indices = tensor.ccol_indices(), tensor.row_indices()
        return {"ccol_indices": starts, "row_indices": indices, "values": tensor.values()}
    return {"": tensor.resolve_conj().resolve_neg()}


def _scheme_of(tensor: Tensor) -> dict[str, Tensor]:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero = tensor.q_scale(), tensor.q_zero_point()
        return {
            "scale": torch.tensor(scale, dtype=torch.float64),
            "zero_point": torch.tensor(zero),
        }
    return {
        "scales": tensor.q_per_channel_scales(),
        "zero_points": tensor.q_per_channel_zero_points(),
    }


def described(tensor: Tensor) -> str:
    """Return data type and shape, as in ``"float32 (32, 1, 3, 3)"``."""
    return f"{name_of(tensor.dtype)} {tuple(tensor.shape)}"


def _has_numbers(dtype: torch.dtype) -> bool:
    """Tell whether there are numbers of a data type to compare."""
    try:
        torch.empty(1, dtype=dtype).to(torch.complex128)
    except (RuntimeError, TypeError):
        return False
    return True


def _chunks(
    shape: torch.Size, at: tuple[int, ...] = (), start: int = 0
) -> Iterator[tuple[tuple[int | slice, ...], int]]:
    """Yield what indexes the chunks of a tensor, and the number of each one's first element."""
    if shape.numel() <= _CHUNK:
        yield at, start
        return
    row = shape[1:].numel()
    if row > _CHUNK:
        for index in range(shape[0]):
            yield from _chunks(shape[1:], (*at, index), start + index * row)
        return
    step = _CHUNK // row
    for index in range(0, shape[0], step):
        yield (*at, slice(index, index + step)), start + index * row


def _apart(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return which numbers differ, and how far they are apart."""
    if _are_whole(before, after):
        one, two = _ordered(before), _ordered(after)
        gap = torch.maximum(one, two) - torch.minimum(one, two)  # what is negative wrapped around
        return one != two, gap.to(torch.float64) + (gap < 0) * 2.0**64
    one, two = _real(before, after), _real(after, before)
    equal = (one == two) | (one.isnan() & two.isnan())
    gap = (one - two).abs()
    gap = torch.where(gap.isnan(), math.inf, gap)
    return ~equal.all(1), _magnitude(torch.where(equal, 0.0, gap))


def _are_whole(*tensors: Tensor) -> bool:
    """Tell whether the numbers are integers that one type holds."""
    wide = {tensor.dtype == torch.uint64 for tensor in tensors}
    return len(wide) == 1 and not any(t.is_floating_point() or t.is_complex() for t in tensors)


def _ordered(tensor: Tensor) -> Tensor:
    """Return integers as int64, with the same order and distances; largest ones are moved."""
    if tensor.dtype == torch.uint64:
        return tensor.reshape(-1).view(torch.int64) ^ torch.iinfo(torch.int64).min
    return tensor.to(torch.int64).reshape(-1)


def _real(tensor: Tensor, other: Tensor) -> Tensor:
    """Return numbers as rows of float64: real and imaginary part if one of the two is complex."""
    if not (tensor.is_complex() or other.is_complex()):
        return tensor.to(torch.float64).reshape(-1, 1)
    return torch.view_as_real(tensor.to(torch.complex128)).reshape(-1, 2)


def _magnitude(rows: Tensor) -> Tensor:
    return torch.hypot(rows[:, 0], rows[:, 1]) if rows.shape[1] == 2 else rows[:, 0].abs()


def _norm(magnitude: Tensor) -> float:
    """Return the L2 norm, also where squares would be too large or too small."""
    largest = float(magnitude.max()) if magnitude.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return largest
    if 1e-140 < largest < 1e140:
        return float(torch.linalg.vector_norm(magnitude))
    return largest * float(torch.linalg.vector_norm(magnitude / largest))


def _bits(tensor: Tensor) -> Tensor:
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return plain.view(_BITS[plain.element_size()])


def _index(number: int, shape: torch.Size) -> tuple[int, ...]:
    """Return the index of an element, by its number in row-major order."""
    index: list[int] = []
    for size in reversed(shape):
        number, at = divmod(number, size)
        index.insert(0, at)
    return tuple(index)


def _told(element: Tensor) -> str:
    """Return a number in as many digits as tell it from every other one of its type."""
    if element.is_complex():
        value: complex = element.to(torch.complex128).item()
    elif element.is_floating_point():
        value = element.to(torch.float64).item()
    else:
        return str(element.item())
    exact = element.dtype in (torch.float64, torch.complex128)
    return repr(value) if exact else f"{value:.9g}"
