"""Takes objects apart by their kinds and puts them together again, with what they share.

It stands in for a store in the tests of kinds: nothing but tensors, plain values, containers and
names gets through, and tensors go through ``torch.save`` and a weights-only load.
"""

from __future__ import annotations

import functools
import io
import types
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowyml_pytorch import quantized, training
from flowyml_pytorch.kinds import Kind, NotRestorableError
from flowyml_pytorch.policy import importable_name

KINDS = (*training.KINDS, *quantized.KINDS)

_PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice)
_VALUES = (torch.dtype, torch.device, torch.memory_format, torch.qscheme, torch.Size, np.generic)


def round_trip(obj: Any) -> Any:
    """Take an object apart, and return what is made of its parts."""
    return _Trip().value(obj, "")


def through_a_file(value: Any) -> Any:
    """Return what a weights-only load gives back."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class _Trip:
    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._alive: list[Any] = []

    def value(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind in _PLAIN or isinstance(value, _VALUES):
            return value
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            if importable_name(value) is None:
                raise NotRestorableError(path, f"{value!r} can't be found again by its name")
            return value
        if kind is tuple:
            return tuple(self.value(item, f"{path}[{index}]") for index, item in enumerate(value))
        if id(value) not in self._made:
            self._alive.append(value)
            made = self._new(value, path)
            self._made.setdefault(id(value), made)
        return self._made[id(value)]

    def _new(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensor = through_a_file(value.detach())
            if isinstance(value, nn.Parameter):
                return nn.Parameter(tensor, requires_grad=value.requires_grad)
            return tensor.requires_grad_() if value.requires_grad else tensor
        if isinstance(value, functools.partial):
            keywords = self.value(value.keywords, path)
            return functools.partial(
                self.value(value.func, path), *self.value(value.args, path), **keywords
            )
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.value(value.__self__, path))
        if type(value) in (list, set, dict, OrderedDict, defaultdict):
            return self._container(value, path)
        found = next((kind for kind in KINDS if kind.handles(value)), None)
        return self._plain_object(value, path) if found is None else self._by(found, value, path)

    def _container(self, value: Any, path: str) -> Any:
        made: Any = type(value)()
        self._made[id(value)] = made
        if isinstance(value, (list, set)):
            add = made.append if isinstance(value, list) else made.add
            for index, item in enumerate(value):
                add(self.value(item, f"{path}[{index}]"))
            return made
        if isinstance(value, defaultdict):
            made.default_factory = self.value(value.default_factory, path)
        for key, item in value.items():
            made[self.value(key, path)] = self.value(item, f"{path}[{key!r}]" if path else key)
        return made

    def _by(self, kind: Kind, value: Any, path: str) -> Any:
        try:
            parts = dict(kind.parts(value))
        except NotRestorableError as error:
            below = f"{path}.{error.path}" if path and error.path else path or error.path
            raise NotRestorableError(below, error.reason) from error
        self._alive.append(parts)
        dot = f"{path}." if path else ""
        return kind.build(
            type(value), {name: self.value(part, f"{dot}{name}") for name, part in parts.items()}
        )

    def _plain_object(self, value: Any, path: str) -> Any:
        made = object.__new__(self.value(type(value), path))
        self._made[id(value)] = made
        is_recurrent = isinstance(value, nn.RNNBase)  # it refers weakly to weights of its own
        state = value.__getstate__() if is_recurrent else vars(value)
        for name, item in state.items():
            vars(made)[name] = self.value(item, f"{path}.{name}" if path else name)
        if is_recurrent:
            made._init_flat_weights()
        return made
