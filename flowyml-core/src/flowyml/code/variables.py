"""What Python keeps of an object: its variables, slots included.

They are read past whatever the object's class does when it is asked for an attribute.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

_SKIPPED = frozenset({*functools.WRAPPER_ASSIGNMENTS, "__type_params__", "__orig_class__"})
"""Variables of an object that say what it is called."""

_HEAP_TYPE = 1 << 9
_POINTER = 8

_BASES: dict[type, Callable[[Any], Any]] = {
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    object: lambda _: None,
}


def of(value: Any) -> dict[str, Any]:
    """Return the variables of an object, without those that follow from the others."""
    try:
        variables = dict(object.__getattribute__(value, "__dict__"))
    except (AttributeError, TypeError):
        variables = {}
    for base in type(value).__mro__:
        members = type.__dict__["__dict__"].__get__(base)
        for name, member in members.items():
            if type(member) is types.MemberDescriptorType and "__slots__" in members:
                try:
                    variables[name] = member.__get__(value)
                except AttributeError:  # an empty slot
                    continue
            elif type(member) is functools.cached_property:
                variables.pop(name, None)
    return {name: held for name, held in variables.items() if name not in _SKIPPED}


def base_of(kind: type) -> type | None:
    """Return the builtin class on which a class written in Python builds.

    None when its objects have room for more than that class, their variables and their slots: a
    state that can't be seen.
    """
    base = next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)
    if not any(base is known for known in _BASES):
        return None
    slots = sum(
        type(member) is types.MemberDescriptorType
        for above in kind.__mro__
        if "__slots__" in (members := type.__dict__["__dict__"].__get__(above))
        for member in members.values()
    )
    at_the_end = -_POINTER  # where objects of varying size keep their variables
    if kind.__dictoffset__ > 0 or kind.__dictoffset__ == at_the_end:
        slots += 1
    if kind.__weakrefoffset__ > 0:
        slots += 1
    return base if kind.__basicsize__ - base.__basicsize__ <= slots * _POINTER else None


def content_of(value: Any, base: type) -> Any:
    """Return what an object of a builtin class or a subclass holds, as an object of that class."""
    return _BASES[base](value)
