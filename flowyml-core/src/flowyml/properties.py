"""Values that describe an asset: metadata properties, and how any value becomes one.

Properties are for reading by people and programs, so anything can be described: what JSON can't
hold is converted when that loses nothing that matters (a NumPy number, an enum, a path), and
named by its type otherwise.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import attrs

_MAX_DEPTH = 32
_MAX_ITEMS = 10_000
"""What is longer is data."""


@attrs.define
class Metadata:
    """What is known about an asset.

    Attributes:
        properties: flat and JSON-able: what the adapter extracted and what the user added.
    """

    properties: dict[str, Any] = attrs.field(factory=dict)


class NotJsonableError(TypeError):
    """A value has no JSON form of its own."""


def type_name(value: object) -> str:
    """Return the dotted name of a value's type, such as ``collections.OrderedDict``."""
    kind = type(value)
    module, name = (type.__getattribute__(kind, key) for key in ("__module__", "__qualname__"))
    return str(name) if module == "builtins" else f"{module}.{name}"


def describe(value: object) -> Any:
    """Return a JSON-able form of any value; what has none is named by its type. Never raises."""
    return _jsonable(value, lambda unknown: f"<{type_name(unknown)}>")


def describe_briefly(value: object) -> Any:
    """Describe, naming long sequences by their type: a description isn't the place for data."""
    if isinstance(value, (Sequence, Set)) and len(value) > _MAX_ITEMS:
        return f"<{type_name(value)} of {len(value)}>"
    return describe(value)


def to_jsonable(value: object) -> Any:
    """Return the JSON-able form of a value.

    Numbers of any library become Python numbers, enums their names, paths and dates strings,
    attrs and dataclass instances dictionaries, other sequences and sets lists.

    Raises:
        NotJsonableError: when the value, or something in it, has no such form, or is so long that
            it is data rather than a setting.
    """
    if isinstance(value, (Sequence, Set, Mapping)) and len(value) > _MAX_ITEMS:
        raise NotJsonableError(f"a {type_name(value)} of {len(value)} items is data")
    return _jsonable(value, _refuse)


def _refuse(value: object) -> Any:
    raise NotJsonableError(f"{type_name(value)} has no JSON form")


def _jsonable(
    value: object, otherwise: Callable[[object], Any], above: tuple[int, ...] = ()
) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if id(value) in above or len(above) > _MAX_DEPTH:
        return otherwise(value)
    here = (*above, id(value))
    try:
        converted = _convert(value, lambda item: _jsonable(item, otherwise, here))
    except NotJsonableError:
        raise
    except Exception:  # a user's own __iter__, __fspath__ or item() may raise anything
        return otherwise(value)
    return otherwise(value) if converted is NotImplemented else converted


def _convert(value: object, convert: Callable[[object], Any]) -> Any:
    """Convert one level, or return NotImplemented."""
    from datetime import date, time

    if isinstance(value, enum.Enum):
        return value.name
    for builtin in (bool, int, float, str):
        if isinstance(value, builtin):
            return builtin(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, type):
        return NotImplemented
    if isinstance(value, Mapping):
        return {str(convert(key)): convert(item) for key, item in value.items()}
    if isinstance(value, (Sequence, Set)) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [convert(item) for item in value]
    names = _field_names(value)
    if names is not None:
        return {name: convert(getattr(value, name)) for name in names}
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return convert(value.item())  # a NumPy scalar, a zero-dimensional array or tensor
    return NotImplemented


def _field_names(value: object) -> list[str] | None:
    """Return the names of an attrs or dataclass instance's fields; None for anything else."""
    from dataclasses import fields, is_dataclass

    kind = type(value)
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind)]
    return [field.name for field in fields(kind)] if is_dataclass(kind) else None


def check_tags(tags: Any) -> dict[str, str]:
    """Return tags as a dict of strings.

    Raises:
        TypeError: when they are something else.
    """
    if isinstance(tags, Mapping) and all(isinstance(i, str) for pair in tags.items() for i in pair):
        return {str(key): str(text) for key, text in tags.items()}
    raise TypeError(f"tags have to be a dict of strings, such as {{'stage': 'test'}}; got {tags!r}")
