"""The forms of values without parts, as they stand in a structure: numbers, text, torch's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import torch

_LARGEST_ARRAY = 65_536
"""Bytes of the largest NumPy array that is written into a structure."""


def plain_form(value: Any) -> Any:
    """Return the form of a value without parts, or NotImplemented for any other."""
    kind = type(value)
    if value is None or kind in (bool, str) or (kind is int and _is_written(value)):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, PurePath) and kind.__module__.startswith("pathlib"):
        return {"$path": str(value)}
    form = _VALUES.get(kind)
    return _array(value) if form is None else form(value)


def _is_written(number: int) -> bool:
    """Tell whether an int can be written as digits; Python refuses to beyond some thousands."""
    return number.bit_length() < 10_000


def _array(value: Any) -> Any:
    """Return the form of a NumPy number, or of an array that is small enough to stand in JSON."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
        return NotImplemented
    scalar = isinstance(value, numpy.generic)
    if not scalar and (type(value) is not numpy.ndarray or value.nbytes > _LARGEST_ARRAY):
        return NotImplemented
    if value.dtype.kind not in "biufc":
        return NotImplemented
    shape = None if scalar else list(value.shape)
    return {"$numpy": [value.dtype.str, shape, value.tobytes().hex()]}


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
    torch.layout: lambda value: {"$layout": _torch_name(value)},
    torch.memory_format: lambda value: {"$memory_format": _torch_name(value)},
}
