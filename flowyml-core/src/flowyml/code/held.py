"""The project's code in objects: the classes that they are of, and the functions that they hold.

The content digest of a model is over its weights and structure; what it computes with them stands
in its class. This finds that class, also inside of a library's container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

from flowyml.code import modules, tokens, variables
from flowyml.code.modules import Origin

_MOST_OBJECTS = 100_000
_MOST_ITEMS = 1_000
"""The items of a longer container, such as the samples of a dataset, are of a few classes."""


def code_in(values: Iterable[Any]) -> tuple[Callable[..., Any], ...]:
    """Return the classes and functions of the project that objects consist of. Never raises.

    Describe each of them to know what the objects do: `describe` follows what they use.

    Args:
        values: any objects, such as the arguments of a call. Of a container the first 1,000 items
            are looked at.
    """
    found: dict[int, Callable[..., Any]] = {}
    seen: dict[int, Any] = {}  # which keeps what it holds, or an id could be another's
    left = [*values]
    while left and len(seen) < _MOST_OBJECTS:
        value = left.pop()
        if id(value) in seen or tokens.plain(value) is not None:
            continue
        seen[id(value)] = value
        with suppress(Exception):  # a stranger's metaclass may raise anything
            left += _look_at(value, found)
    return tuple(sorted(found.values(), key=_order))


def _look_at(value: Any, found: dict[int, Callable[..., Any]]) -> Iterable[Any]:
    """Note an object's code; return what else it holds."""
    kind = type(value)
    if kind is FunctionType:
        module = str(value.__globals__.get("__name__", value.__module__))
        if modules.origin_of(module, value.__globals__) is Origin.PROJECT:
            found[id(value)] = value
        return ()
    if issubclass(kind, type):
        _note(value, found)
        return ()
    if issubclass(kind, ModuleType):
        return ()
    _note(kind, found)
    held = [*variables.of(value).values()]
    for container, items in _ITEMS.items():
        if issubclass(kind, container):
            first = list(islice(items(value), _MOST_ITEMS))
            return held if tokens.plain_items(first) else [*held, *first]
    return held


def _note(kind: type, found: dict[int, Callable[..., Any]]) -> None:
    if modules.origin_of_class(kind) is Origin.PROJECT:
        found[id(kind)] = kind


_ITEMS: dict[type, Callable[[Any], Iterable[Any]]] = {
    dict: dict.values,
    list: list.__iter__,
    tuple: tuple.__iter__,
    set: set.__iter__,
    frozenset: frozenset.__iter__,
    MappingProxyType: lambda value: value.values(),
}


def _order(item: Any) -> tuple[str, str]:
    if type(item) is FunctionType:
        return str(item.__module__), item.__qualname__
    get = type.__getattribute__  # past what a metaclass does
    return str(get(item, "__module__")), str(get(item, "__qualname__"))
