"""The forms of values without parts, as they stand in a structure: numbers, text, torch's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PATH = type(Path())

ARRAY_KINDS = "biufcSUmM"
"""NumPy's letters for the types of numbers, text and times."""


def plain_form(value: Any) -> Any:
    """Return the form of a value without parts, or NotImplemented for any other."""
    kind = type(value)
    if value is None or kind is bool or (kind is int and _is_written(value)):
        return value
    if kind is str:
        return value if value.isascii() or _is_text(value) else NotImplemented
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is _PATH:
        return {"$path": str(value)}
    form = _VALUES.get(kind)
    return _number_of_numpy(value) if form is None else form(value)


def _is_text(text: str) -> bool:
    """Tell whether a text can be written: halves of surrogate pairs can't be told from pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_written(number: int) -> bool:
    """Tell whether an int can be written as digits; Python refuses to beyond some thousands."""
    return number.bit_length() < 10_000


def _number_of_numpy(value: Any) -> Any:
    """Return the form of a NumPy number."""
    numpy = _numpy_of(value)
    if numpy is None or not isinstance(value, numpy.generic) or value.dtype.kind in "SU":
        return NotImplemented
    return {"$numpy": [value.dtype.str, None, value.tobytes().hex()]}


def is_array(value: Any) -> bool:
    """Tell whether a value is a plain NumPy array without Python objects in it."""
    numpy = _numpy_of(value)
    return numpy is not None and isinstance(value, numpy.ndarray)


def array_parts(value: Any) -> tuple[str, list[int], str, torch.Tensor]:
    """Return an array's type, shape, flags and bytes.

    Flags are ``F`` for the order of Fortran, and ``R`` where it is read-only.
    """
    fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    flags = "F" * fortran + "R" * (not value.flags.writeable)
    content = bytearray(value.tobytes("F" if fortran else "C")) or bytearray(1)
    elements = torch.frombuffer(content, dtype=torch.uint8)
    return value.dtype.str, list(value.shape), flags, elements[: value.nbytes]


def _numpy_of(value: Any) -> Any:
    """Return NumPy if a value is a number or an array of it, without Python objects in it."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
        return None
    plain = isinstance(value, numpy.generic) or type(value) is numpy.ndarray
    return numpy if plain and value.dtype.kind in ARRAY_KINDS else None


def _torch_name(value: Any) -> str:
    return str(value).removeprefix("torch.")


_VALUES: dict[type, Callable[[Any], dict[str, Any]]] = {
    complex: lambda value: {"$complex": repr(value)},
    bytes: lambda value: {"$bytes": value.hex()},
    type(Ellipsis): lambda _: {"$ellipsis": None},
    range: lambda value: {"$range": [value.start, value.stop, value.step]},
    torch.Size: lambda value: {"$size": list(value)},
    torch.dtype: lambda value: {"$dtype": _torch_name(value)},
    torch.device: lambda value: {"$device": str(value)},
    torch.qscheme: lambda value: {"$qscheme": _torch_name(value)},
    torch.layout: lambda value: {"$layout": _torch_name(value)},
    torch.memory_format: lambda value: {"$memory_format": _torch_name(value)},
}
