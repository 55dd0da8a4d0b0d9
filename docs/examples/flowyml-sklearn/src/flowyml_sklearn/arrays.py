"""Arrays as files: one form for one content, and checks of what a stranger may have written.

NumPy believes the header of a ``.npy`` file and reserves what it asks for, and SciPy believes the
indices of a sparse matrix and reads wherever they point. Both are checked before either library
gets to see them.
"""

from __future__ import annotations

import io
import math

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from flowyml_sklearn.archive import UnfitError, any_unpack, pack, unpack

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def canonical_npy(data: bytes) -> bytes:
    """Return a ``.npy`` file with zeros where the fields of a record leave gaps.

    What is in the gaps is whatever was in the memory: it differs from process to process.
    """
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.names is None:
        return data
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def canonical_npz(data: bytes) -> bytes:
    """Return a sparse matrix's ``.npz`` file, uncompressed and without dates."""
    entries = any_unpack(data)
    return pack({name: canonical_npy(entries[name]) for name in sorted(entries)})


def check_npy(data: bytes) -> None:
    """Check that a ``.npy`` file holds what its header says.

    Raises:
        UnfitError: when it doesn't, or holds Python objects.
    """
    file = io.BytesIO(data)
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # the header is evaluated, and may be anything
        raise UnfitError(f"an array with an unfit header: {error}") from error
    if dtype.hasobject:
        raise UnfitError("an array of Python objects")
    held = len(data) - file.tell()
    count = math.prod(shape)  # items of no size would get one when NumPy makes the array
    if min(shape, default=0) < 0 or count * dtype.itemsize != held or count > held:
        raise UnfitError(f"an array of {shape} {dtype} in {held} bytes")


def check_npz(data: bytes) -> None:
    """Check a sparse matrix: that it is one, and that its indices lie within its shape.

    Raises:
        UnfitError: when it isn't, or they don't.
    """
    for content in unpack(data).values():
        check_npy(content)
    try:
        matrix = sparse.load_npz(io.BytesIO(data))
        if hasattr(matrix, "check_format"):  # the other kinds check their indices anyway
            matrix.check_format(full_check=True)
    except Exception as error:  # SciPy raises whatever the contradiction leads to
        raise UnfitError(f"an unfit sparse matrix: {error}") from error
