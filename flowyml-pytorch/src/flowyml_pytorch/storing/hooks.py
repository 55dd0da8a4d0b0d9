"""Hooks of modules, and the handles that remove them, taken apart: torch keeps both in wrappers.

A handle refers weakly to the dict of hooks that it belongs to, and finds its hook by a number that
the process counts up; both have to hold again in the process that loads. The number itself says
nothing, so hooks are counted anew in what is stored: equal objects of two processes are equal.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn
from torch.nn.modules.module import _WrappedHook
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    SpectralNormStateDictHook,
)
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from flowyml_pytorch.storing.kinds import Kind

_REPARAMETRIZATIONS = (
    WeightNorm,
    SpectralNorm,
    SpectralNormStateDictHook,
    SpectralNormLoadStateDictPreHook,
)


def count_from(hooks: Mapping[Any, Any]) -> None:
    """Make sure that hooks which are registered from now on get numbers that none here has."""
    if not isinstance(hooks, Mapping):
        raise TypeError("hooks are no dict")
    numbers = [number for number in hooks if type(number) is int]
    if any(not 0 <= number < 2**62 for number in numbers):
        raise ValueError("a hook has an unfit number")
    RemovableHandle.next_id = max([RemovableHandle.next_id, *(n + 1 for n in numbers)])


@attrs.frozen
class HookNumber:
    """The number that a process gave to a hook."""

    number: int


def dicts_of_hooks(value: Any, state: Mapping[str, Any]) -> list[Any]:
    """Return the dicts, among the attributes or parts of an object, whose keys number hooks."""
    if type(value) is RemovableHandle:
        return [state["hooks"], *state["extra"]]
    if isinstance(value, nn.Module):
        return [state[name] for name in _OF_MODULES if name in state]
    if isinstance(value, Optimizer):
        return [item for name, item in state.items() if is_of_optimizers(name)]
    return []


_OF_MODULES = tuple(name for name in vars(nn.Module()) if "_hooks" in name)


def is_of_optimizers(name: str) -> bool:
    """Tell whether an optimizer's attribute of a name is a dict of hooks."""
    return name.startswith("_optimizer_") and name.endswith("_hooks")


def _wrapped_parts(hook: _WrappedHook) -> dict[str, Any]:
    return {"hook": hook.hook, "module": hook.module() if hook.with_module else None}


def _wrapped(cls: type, parts: dict[str, Any]) -> _WrappedHook:
    hook, module = parts["hook"], parts["module"]
    if cls is not _WrappedHook or not callable(hook) or not isinstance(module, nn.Module | None):
        raise TypeError("a wrapped hook has unfit parts")
    built = _WrappedHook.__new__(_WrappedHook)
    built.hook = hook
    built.with_module = module is not None
    if module is not None:
        built.module = weakref.ref(module)
    return built


def _handle_parts(handle: RemovableHandle) -> dict[str, Any]:
    return {
        "hooks": handle.hooks_dict_ref(),
        "id": HookNumber(handle.id),
        "extra": [reference() for reference in handle.extra_dict_ref],
    }


def _handle(cls: type, parts: dict[str, Any]) -> RemovableHandle:
    hooks, number, extra = parts["hooks"], parts["id"], parts["extra"]
    dicts = [hooks, *extra]
    if cls is not RemovableHandle or type(number) is not int:
        raise TypeError("a handle of a hook has unfit parts")
    if not all(isinstance(each, OrderedDict | None) for each in dicts):
        raise TypeError("a handle of a hook belongs to no dict of hooks")
    references = [weakref.ref(OrderedDict() if each is None else each) for each in dicts]
    handle = RemovableHandle.__new__(RemovableHandle)
    handle.hooks_dict_ref, handle.id = references[0], number
    handle.extra_dict_ref = tuple(references[1:])
    count_from({number: None})
    return handle


def _reparametrized(cls: type, parts: dict[str, Any]) -> Any:
    if cls not in _REPARAMETRIZATIONS:
        raise TypeError(f"{cls.__qualname__} is no hook of torch's")
    built = object.__new__(cls)
    vars(built).update(parts)
    return built


KINDS = (
    Kind(
        "hook",
        lambda value: type(value) is _WrappedHook,
        _wrapped_parts,
        _wrapped,
        ("torch.nn.modules.module._WrappedHook",),
    ),
    Kind(
        "handle",
        lambda value: type(value) is RemovableHandle,
        _handle_parts,
        _handle,
        ("torch.utils.hooks.RemovableHandle",),
    ),
    Kind(
        "reparametrization",
        lambda value: type(value) in _REPARAMETRIZATIONS,
        lambda value: dict(vars(value)),
        _reparametrized,
        ("torch.nn.utils.weight_norm.", "torch.nn.utils.spectral_norm."),
    ),
)
