"""One line of text for every plain value, so that two values are equal when their lines are."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

from flowyml.digests import digest_of_bytes

_WRITTEN = (str, float, bool, type(None), bytes, complex, type(...), type(NotImplemented))
"""Their ``repr`` is exact, is one line, and tells their types apart."""

_WIDE = 1 << 1024
"""Python refuses to write a number of thousands of digits in decimal."""


def plain(value: object) -> str | None:
    """Return the line of a constant of an exact builtin type; None for anything else."""
    kind = type(value)
    if kind is int:
        assert isinstance(value, int)
        return repr(value) if -_WIDE < value < _WIDE else hex(value)
    for known in _WRITTEN:  # asking a set would run the __hash__ of a stranger's metaclass
        if kind is known:
            return repr(value)
    return None


def plain_items(items: Iterable[Any]) -> bool:
    """Tell whether the ``repr`` of a container of these is as exact as their lines."""
    for item in items:
        kind = type(item)
        if kind is int:
            if not -_WIDE < item < _WIDE:
                return False
        elif not (kind is str or kind is float or kind is bool or item is None):
            return False
    return True


def digest(text: str) -> str:
    """Return the digest of a text, which may hold halves of surrogate pairs."""
    return digest_of_bytes(text.encode("utf-8", "surrogatepass"))


def many(kind: str, lines: Iterable[str]) -> str:
    """Return one line for several, in their order."""
    return f"{kind} {digest(chr(10).join(lines))}"


CHANGED = "changed by the code itself"
"""Stands for the value of a variable: what code writes to is no part of what it starts from."""


def is_code(value: object) -> bool:
    """Tell whether a value is code rather than data."""
    return issubclass(type(value), (FunctionType, ModuleType, type))
