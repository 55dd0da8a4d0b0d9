"""Plain values as JSON and back: what a process says of its random numbers and its loader.

It travels between processes and lies in a checkpoint, so it must need no pickle to be read.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import torch
from torch import Tensor

from flowyml.properties import type_name

_PLAIN = (str, bool, int, type(None))


class NotPlainError(TypeError):
    """A value has no plain form; the text says which."""


def packed(value: Any) -> Any:
    """Return a value as JSON data.

    Raises:
        NotPlainError: when it holds more than numbers, text, bytes, tensors and plain containers.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list:
        return [packed(item) for item in value]
    if kind is tuple:
        return {"$tuple": [packed(item) for item in value]}
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: packed(item) for key, item in value.items()}
        return {"$dict": [[packed(key), packed(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is Tensor and value.layout is torch.strided and not value.is_quantized:
        return {"$tensor": [str(value.dtype).removeprefix("torch."), *_elements(value)]}
    raise NotPlainError(f"a {type_name(value)}")


def _elements(tensor: Tensor) -> tuple[list[int], str]:
    plain = tensor.detach().cpu().contiguous()
    content = bytes(plain.reshape(-1).view(torch.uint8).tolist()) if plain.numel() else b""
    return list(plain.shape), base64.b64encode(content).decode()


def unpacked(data: Any) -> Any:
    """Return the value that `packed` was given.

    Raises:
        ValueError: when it is something else.
    """
    if isinstance(data, list):
        return [unpacked(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1 or not next(iter(data)).startswith("$"):
        return {key: unpacked(item) for key, item in data.items()}
    ((kind, content),) = data.items()
    if kind == "$float":
        return float(content)
    if kind == "$tuple":
        return tuple(unpacked(item) for item in content)
    if kind == "$dict":
        return {unpacked(key): unpacked(item) for key, item in content}
    if kind == "$bytes":
        return base64.b64decode(content)
    if kind == "$tensor":
        return _tensor(*content)
    raise ValueError(f"{kind!r} is no form of a value")


def _tensor(dtype: str, shape: list[int], content: str) -> Tensor:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"{dtype!r} is no data type")
    data = bytearray(base64.b64decode(content))
    if not data:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data, dtype=kind).reshape(shape)
