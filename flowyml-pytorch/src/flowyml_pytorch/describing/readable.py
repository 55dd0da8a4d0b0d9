"""Settings as plain values that people read: numbers, texts, and what stands for anything else.

What is described here is whatever somebody's object holds, so nothing is iterated that isn't a
plain container, and nothing is copied that is data: tensors become shape, type and digest.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import os
import types
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn

from flowyml.digests import digest_of_bytes
from flowyml.properties import type_name

_MAX_ITEMS = 50
_MAX_TEXT = 500
_MAX_BITS = 256
_MAX_DEPTH = 6
"""What is longer or nested deeper is data rather than a setting."""

_MAX_DIGESTED = 1 << 20
"""Bytes of the largest tensor that is digested, so that a description stays cheap."""

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
_OWN_NAMES = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def readable(value: Any, depth: int = 0) -> Any:
    """Return a JSON-able form of a setting; what has none is named by its type."""
    if value is None or isinstance(value, (bool, float)):
        return value if value is None or type(value) is bool else float(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _MAX_BITS else f"<{type_name(value)}>"
    if isinstance(value, (str, os.PathLike)):
        return _text(value)
    if isinstance(value, _OWN_NAMES):
        return str(value)
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, _FUNCTIONS):
        return name_of(value)
    if isinstance(value, functools.partial):
        return with_class(value, depth)
    if depth < _MAX_DEPTH and isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return _container(value, depth + 1)
    if isinstance(value, Number) or getattr(value, "shape", None) == ():
        return _number(value)
    return f"<{type_name(value)}>"


def with_class(obj: Any, depth: int = 0) -> dict[str, Any]:
    """Return what an object or function is, under ``"class"``, and its public attributes."""
    if isinstance(obj, functools.partial):
        inner = with_class(obj.func, depth)
        given = {"args": list(obj.args)} if obj.args else {}
        return {**inner, **readable({**given, **obj.keywords}, depth)}
    if isinstance(obj, _FUNCTIONS):
        return {"class": name_of(obj)}
    return {"class": type_name(obj), **public(obj, depth=depth)}


def public(obj: Any, skip: Iterable[str] = (), depth: int = 0) -> dict[str, Any]:
    """Return an object's attributes whose names don't begin with an underscore."""
    own = getattr(obj, "__dict__", {})
    names = [name for name in own if not name.startswith("_") and name not in skip]
    return {name: readable(own[name], depth + 1) for name in names[:_MAX_ITEMS]}


def name_of(function: Any) -> str:
    """Return the dotted name of a function or class."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(name, str):
        return f"<{type_name(function)}>"
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) and module != "builtins" else name


def tensor(value: Tensor, *, digested: bool = True) -> Any:
    """Return a tensor's shape, type and, of a small one, digest; a single number as itself."""
    if value.dim() == 0 and not value.is_meta:
        try:
            return readable(value.item())
        except RuntimeError:  # it has no value here, or none that may be asked for
            pass
    found: dict[str, Any] = {
        "shape": [int(size) for size in value.shape],
        "dtype": str(value.dtype),
    }
    digest = _digest(value) if digested else None
    return found if digest is None else {**found, "digest": digest}


def _digest(value: Tensor) -> str | None:
    if type(value) not in (Tensor, nn.Parameter, nn.Buffer) or value.layout is not torch.strided:
        return None
    if value.is_meta or value.is_quantized or value.nbytes > _MAX_DIGESTED:
        return None
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return digest_of_bytes(
        ctypes.string_at(plain.data_ptr(), plain.nbytes) if plain.nbytes else b""
    )


def _text(value: str | os.PathLike[Any]) -> str:
    path: Any = os.fspath(value)
    if not isinstance(path, str):  # it may be of bytes
        return f"<{type_name(value)}>"
    text = str(path) if len(path) <= _MAX_TEXT else f"{path[:_MAX_TEXT]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def _container(value: Any, depth: int) -> Any:
    if len(value) > _MAX_ITEMS:
        return f"<{type_name(value)} of {len(value)}>"
    if isinstance(value, Mapping):
        return {str(readable(key, depth)): readable(item, depth) for key, item in value.items()}
    items = [readable(item, depth) for item in value]
    return sorted(items, key=repr) if isinstance(value, (set, frozenset)) else items


def _number(value: Any) -> Any:
    """Return a number of another library: as Python's own if it says which, or else as text."""
    item = value.item() if hasattr(value, "item") else None
    return readable(item) if isinstance(item, (bool, int, float, str)) else _text(str(value))
