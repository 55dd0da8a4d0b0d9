"""NumPy arrays in ``.npy`` files: their digest without the file, and how two files differ.

Both go through an array piece by piece, in C order, so that memory stays bounded whatever the
array's size and layout.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy

from flowyml.digests import digest_of_bytes, hasher
from flowyml.interfaces import Change
from flowyml.leaves import shortened

_PIECE = 16 << 20
"""Bytes of a piece to be hashed."""

_ELEMENTS = 1 << 18
"""Elements of a piece to be compared; some arrays of this length are there at a time."""

_LARGEST_HEADER = 1 << 20
"""Characters. Unless it is told, NumPy reads no more than 10,000: too few for some tables."""


def digest(obj: Any) -> str | None:
    """Return the digest of the file that ``numpy.save`` would write; None if that isn't known.

    What lies in memory as it would in the file is hashed in place.
    """
    array = numpy.asanyarray(obj)
    header = _header(array)
    if header is None:
        return None
    if array.nbytes == 0:
        return digest_of_bytes(header)
    if array.flags.c_contiguous or array.flags.f_contiguous:
        order = "C" if array.flags.c_contiguous else "F"
        return digest_of_bytes(header, array.reshape(-1, order=order).view(numpy.uint8))
    hashing = hasher()
    hashing.update(header)
    for (piece,) in _pieces(_PIECE // array.itemsize, array):
        hashing.update(piece.tobytes())
    return hashing.hexdigest()


def _header(array: Any) -> bytes | None:
    """Return what stands before the elements; None for format 3.0, which NumPy has no name for."""
    form = numpy.lib.format
    described = form.header_data_from_array_1_0(array)
    for write in (form.write_array_header_1_0, form.write_array_header_2_0):
        file = io.BytesIO()
        try:
            write(file, described)
        except ValueError:  # too long for 1.0, or not in its alphabet
            continue
        return file.getvalue()
    return None


def compare(before: Path, after: Path) -> list[Change]:
    """Return how the arrays in two ``.npy`` files differ; a structured array field by field.

    Where all elements are equal and the files are not, as with 0.0 and -0.0, there is one change
    in which none is different.

    Raises:
        ValueError: when a file holds no array, or one of Python objects.
    """
    first, second = mapped(before, "r"), mapped(after, "r")
    return list(_changes("array", first, second)) or [
        Change("array", _described(first), _described(second), first.size, 0)
    ]


_NUMBERS = "biufc"


def mapped(path: Path, mode: Literal["r", "c"]) -> Any:
    """Return the array in a file, mapped: read-only, or with changes that stay in memory.

    Raises:
        ValueError: when the file holds no array, or one of Python objects.
    """
    try:
        found: Any = numpy.load(path, mmap_mode=mode, max_header_size=_LARGEST_HEADER)
        intact = isinstance(found, numpy.memmap)
    except ValueError:  # what has no elements can't be mapped
        try:
            found = numpy.load(path, max_header_size=_LARGEST_HEADER)
        except MemoryError as error:  # the header of a damaged file may ask for anything
            raise ValueError("its header tells of more elements than can be") from error
        intact = isinstance(found, numpy.ndarray) and found.size == 0
    if not intact:
        raise ValueError("it isn't a single whole array")
    return found


def _changes(name: str, first: Any, second: Any) -> Iterator[Change]:
    texts = _described(first), _described(second)
    fields = first.dtype.names, second.dtype.names
    if first.shape == second.shape and all(fields):
        for field in dict.fromkeys((*fields[0], *fields[1])):
            path = f"{name}.{field}"
            if field not in fields[1]:
                yield Change(path, before=_described(first[field]))
            elif field not in fields[0]:
                yield Change(path, after=_described(second[field]))
            else:
                yield from _changes(path, first[field], second[field])
    elif first.shape != second.shape or _family(first.dtype) != _family(second.dtype):
        yield Change(name, *texts)
    else:
        tally = _Tally()
        for pieces in _pieces(_ELEMENTS, first, second):
            tally.add(*pieces)
        if tally.different or first.dtype != second.dtype:
            yield tally.change(name, first, second)


def _family(dtype: Any) -> str:
    """Return what dtypes have in common whose elements can be compared."""
    if dtype.kind in _NUMBERS:
        return "number"
    return str(dtype.kind) if dtype.kind in "SU" else str(dtype.newbyteorder("="))


def _described(array: Any) -> str:
    order = ", order of Fortran" if array.ndim > 1 and array.flags.fnc else ""
    return f"{array.dtype} {array.shape}{order}"


def _pieces(length: int, *arrays: Any) -> Iterator[Any]:
    """Yield stretches of arrays of one shape, in C order."""
    iterator: Any = numpy.nditer(
        arrays,
        flags=["external_loop", "buffered", "zerosize_ok"],
        order="C",
        buffersize=max(length, 1),
    )
    with iterator:
        for pieces in iterator:
            yield pieces if isinstance(pieces, tuple) else (pieces,)


@attrs.define
class _Tally:
    """What is known of the differences after some pieces."""

    elements: int = 0
    different: int = 0
    first: int | None = None
    max_absolute: float = 0.0
    max_relative: float = 0.0
    norm: float = 0.0
    norm_before: float = 0.0

    def add(self, before: Any, after: Any) -> None:
        """Compare two pieces."""
        before, after = _comparable(before), _comparable(after)
        with numpy.errstate(all="ignore"):
            differs = before != after
            if before.dtype.kind in "fcmM" and after.dtype.kind in "fcmM":
                missing = numpy.isnat if before.dtype.kind in "mM" else numpy.isnan
                differs &= ~(missing(before) & missing(after))
            if before.dtype.kind in _NUMBERS:
                self._measure(before, after, differs)
        if self.first is None and differs.any():
            self.first = self.elements + int(differs.argmax())
        self.different += int(numpy.count_nonzero(differs))
        self.elements += before.size

    def _measure(self, before: Any, after: Any, differs: Any) -> None:
        size = numpy.nan_to_num(_magnitude(before), nan=0.0, posinf=numpy.inf)
        self.norm_before = math.hypot(self.norm_before, _norm(size))
        if not differs.any():
            return
        before, after, size = before[differs], after[differs], size[differs]
        distance = _distance(before, after)
        distance[numpy.isnan(distance)] = numpy.inf  # a number and NaN, or two infinities
        self.norm = math.hypot(self.norm, _norm(distance))
        self.max_absolute = max(self.max_absolute, float(distance.max()))
        relative = distance / size
        relative[numpy.isnan(relative)] = numpy.inf
        self.max_relative = max(self.max_relative, float(relative.max()))

    def change(self, name: str, first: Any, second: Any) -> Change:
        """Return it in the form that adapters return."""
        change = Change(name, _described(first), _described(second), self.elements, self.different)
        if self.first is not None:
            index = tuple(int(i) for i in numpy.unravel_index(self.first, first.shape))
            change = attrs.evolve(
                change,
                first=index,
                first_before=shortened(str(first[index])),
                first_after=shortened(str(second[index])),
            )
        if first.dtype.kind not in _NUMBERS:
            return change
        return attrs.evolve(
            change,
            max_absolute=self.max_absolute,
            max_relative=self.max_relative,
            norm=self.norm,
            norm_before=self.norm_before,
        )


def _comparable(piece: Any) -> Any:
    """Return what compares element by element; bytes of no type are compared as bytes."""
    if piece.dtype.kind != "V":
        return piece
    return piece.view(f"S{piece.itemsize}") if piece.itemsize else numpy.zeros(piece.shape, "S1")


def _magnitude(piece: Any) -> Any:
    """Return absolute values, at least in double precision."""
    if piece.dtype.kind in "fc":
        return abs(piece.astype(numpy.result_type(piece.dtype, numpy.float64)))
    return abs(piece.astype(numpy.float64))


def _distance(before: Any, after: Any) -> Any:
    """Return how far numbers are apart; whole ones are subtracted before they are rounded."""
    kinds = before.dtype.kind + after.dtype.kind
    if kinds in ("ii", "uu", "bb"):
        high, low = numpy.maximum(before, after), numpy.minimum(before, after)
        return (high.astype(numpy.uint64) - low.astype(numpy.uint64)).astype(numpy.float64)
    wide = numpy.result_type(before.dtype, after.dtype, numpy.float64)
    return abs(before.astype(wide) - after.astype(wide))


def _norm(sizes: Any) -> float:
    """Return the L2 norm of what isn't negative, without overflow."""
    largest = sizes.max(initial=0)
    if largest == 0 or not numpy.isfinite(largest):
        return float(largest)
    return float(largest) * math.sqrt(float(numpy.square(sizes / largest).sum()))
