"""Callables that hold other callables: what is in them.

They are known by their exact types or by library classes, and are read without running anything
of theirs.
"""

from __future__ import annotations

import functools
import types
from typing import Any

_BUILTIN: tuple[type, ...] = (types.BuiltinFunctionType, types.MethodWrapperType)
_DESCRIPTOR: tuple[type, ...] = (
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_HEAP_TYPE = 1 << 9
_HELD: dict[type, tuple[str, tuple[str, ...]]] = {
    staticmethod: ("staticmethod", ("__func__",)),
    classmethod: ("classmethod", ("__func__",)),
    property: ("property", ("fget", "fset", "fdel")),
    functools.cached_property: ("cached_property", ("func",)),
    functools.singledispatchmethod: ("singledispatchmethod", ("dispatcher", "func")),
    functools.partial: ("partial", ("func", "args", "keywords")),
    functools.partialmethod: ("partial", ("func", "args", "keywords")),
    functools._lru_cache_wrapper: ("lru_cache", ("__wrapped__",)),
    types.MethodType: ("method", ("__func__", "__self__")),
}

WITH_VALUES = frozenset({"partial", "method"})
"""Those that hold values besides code."""


def held(value: Any, kind: type) -> tuple[str, tuple[Any, ...]] | None:
    """Return a word for what an object is, and what it holds; None if it isn't such a one."""
    for known, (word, names) in _HELD.items():
        if kind is known or issubclass(kind, known):
            return word, tuple(getattr(value, name, None) for name in names)
    if kind.__module__ == "flowyml.steps" and kind.__name__ == "Step":
        return "step", (value.function, value.settings.seed)
    return None


def builtin_of(value: Any, kind: type) -> tuple[str | None, str, Any] | None:
    """Return the module and the name of what is written in C, and the object that it is bound to.

    None is returned if it isn't such a one.
    """
    for known in _BUILTIN:
        if kind is known:
            bound = getattr(value, "__self__", None)
            unbound = bound is None or issubclass(type(bound), types.ModuleType)
            module = getattr(value, "__module__", None)
            return module, str(value.__qualname__), None if unbound else bound
    for known in _DESCRIPTOR:
        if kind is known:
            owner = value.__objclass__
            of_python = type.__getattribute__(owner, "__flags__") & _HEAP_TYPE  # a slot, say
            module = None if of_python else owner.__module__
            return module, f"{owner.__qualname__}.{value.__name__}", None
    return None
