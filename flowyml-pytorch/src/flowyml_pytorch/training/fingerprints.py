"""Fingerprints of datasets: whether the data behind a reference is still what it was.

Reading all of a large dataset would cost what a reference is there to save, so a fingerprint
looks at the length and a fixed choice of items.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flowyml.digests import digest_of_bytes

MOST_ITEMS = 128
"""How many items a fingerprint looks at."""


def fingerprint_of(dataset: Any) -> str:
    """Return the BLAKE3 over a dataset's length and items, as 64 hexadecimal digits.

    All items count if there are at most 128, else 128 of them: the first, the last, and those
    evenly spaced between. Of tensors and arrays count type, shape and bytes; besides these, items
    may hold None, numbers, strings and bytes, in lists, tuples and dicts. The items are read with
    the global random numbers seeded, so that random transforms are the same every time, and these
    are left as they were.

    Raises:
        TypeError: when an item holds anything else, or the items have no numbers.
    """
    size = len(dataset)
    digests = [str(size).encode()]
    with same_random_numbers(seed=0):
        for index in _positions(size):
            try:
                item = dataset[index]
            except (KeyError, IndexError) as error:
                raise TypeError(
                    f"there is no item {index} of {size}; pass fingerprint=, a string or a function"
                ) from error
            digests.append(digest_of_bytes(*_bytes_of(item, f"item {index}")).encode())
    return digest_of_bytes(b"flowyml dataset 1\n", *digests)


def _positions(size: int) -> Sequence[int]:
    if size <= MOST_ITEMS:
        return range(size)
    return [step * (size - 1) // (MOST_ITEMS - 1) for step in range(MOST_ITEMS)]


def _bytes_of(value: Any, where: str) -> Iterator[bytes]:
    """Yield the bytes that make a value what it is; no two values have the same."""
    numpy = sys.modules.get("numpy")
    if isinstance(value, Tensor):
        yield _told(f"tensor {value.dtype} {list(value.shape)}", _bytes_of_tensor(value, where))
    elif numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        if value.dtype.hasobject:
            raise _no_fingerprint(value, where)
        yield _told(f"array {value.dtype.descr} {list(value.shape)}", value.tobytes())
    elif value is None or isinstance(value, (bool, int, float, complex, str)):
        yield _told(type(value).__name__, repr(value).encode())
    elif isinstance(value, (bytes, bytearray)):
        yield _told("bytes", bytes(value))
    elif isinstance(value, (list, tuple)):
        yield _told("list" if isinstance(value, list) else "tuple", str(len(value)).encode())
        for index, item in enumerate(value):
            yield from _bytes_of(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        yield _told("dict", str(len(value)).encode())
        for key, item in value.items():
            yield from _bytes_of(key, where)
            yield from _bytes_of(item, f"{where}[{key!r}]")
    else:
        raise _no_fingerprint(value, where)


def _told(kind: str, content: bytes) -> bytes:
    return b"%s %d\n%s" % (kind.encode(), len(content), content)


def _bytes_of_tensor(tensor: Tensor, where: str) -> bytes:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise _no_fingerprint(tensor, where)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.nbytes) if plain.nbytes else b""


def _no_fingerprint(value: Any, where: str) -> TypeError:
    kind = type(value)
    return TypeError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, whose content isn't known how to be "
        f"told; pass fingerprint=, a string or a function that is given the dataset"
    )


@contextmanager
def same_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Leave the global random numbers as they are, whatever is drawn; seed them for the time."""
    numpy = sys.modules.get("numpy")
    python, arrays = random.getstate(), numpy and numpy.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        try:
            if seed is not None:
                random.seed(seed)
                torch.default_generator.manual_seed(seed)  # torch's own would seed a GPU later
                if numpy:
                    numpy.random.seed(seed)
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(arrays)
