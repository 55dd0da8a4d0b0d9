"""States as plain data: dicts, lists and numbers of exact builtin types, and the tensors in them.

What a checkpoint holds needs no class and no trust to be read, so a state dict that has more in
it is refused before anything is trained.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowyml.properties import type_name

_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_DICTS = (dict, OrderedDict, defaultdict, Counter)
_SEQUENCES = (list, tuple, set)
_DEEPEST = 32


class UnfitStateError(TypeError):
    """A state holds what is no plain data; the text says what, and where."""


def mapped(value: Any, convert: Callable[[Tensor], Any], path: str = "", depth: int = 0) -> Any:
    """Return a state with other tensors, in new containers.

    Args:
        value: the state.
        convert: returns what takes a tensor's place.
        path: where the value is, for messages.
        depth: how many containers it is in.

    Raises:
        UnfitStateError: when it holds more than plain data and tensors.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        return convert(value)
    if kind in _VALUES:
        return value
    if depth > _DEEPEST:
        raise UnfitStateError(f"{path} is nested too deeply")
    if kind in _DICTS:
        return {
            _key(key, path): mapped(item, convert, f"{path}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    if kind in _SEQUENCES:
        return kind(
            mapped(item, convert, f"{path}[{number}]", depth + 1)
            for number, item in enumerate(value)
        )
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and type(value.item()) in _VALUES:
        return value.item()
    raise UnfitStateError(f"{path} is a {type_name(value)}")


def _key(key: Any, path: str) -> Any:
    if type(key) in _VALUES or (type(key) is tuple and all(type(k) in _VALUES for k in key)):
        return key
    raise UnfitStateError(f"{path} has a {type_name(key)} for a key")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from tensors_in(item)
