"""JSON that gives back exactly what went in.

Plain JSON has no NaN, no tuples and no keys but strings. Those are written as one-key objects
whose key starts with ``$``; a user's own key that starts with ``$`` gets one ``$`` more. The
result is strict RFC 8259 JSON, which any other program reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_MAX_DEPTH = 200
"""Far above what people nest, far below what Python's own recursion limit allows."""


_MAX_BITS = 10_000
"""Python writes and reads no number of more than 4,300 digits."""


class EncodingError(ValueError):
    """A value has no exact JSON form, or JSON text isn't of the form written here."""


def is_encodable(value: object) -> bool:
    """Tell whether `encode` takes the value: exact builtin types all the way down."""
    try:
        encode(value)
    except EncodingError:
        return False
    return True


def encode(value: object, _above: tuple[int, ...] = ()) -> Json:
    """Turn a value into strict JSON data, without loss.

    Handles None, bool, int, float (NaN and infinities too), str, list, tuple and dict of these,
    by their exact types: a subclass would come back as its base.

    Raises:
        EncodingError: for any other type, for a cycle, and for extreme nesting.
    """
    kind = type(value)
    if kind is str or kind is int:
        _check_written(value)
    if value is None or kind in (bool, int, str):
        return value  # type: ignore[return-value]  # narrowed by exact type, which mypy can't see
    if kind is float:
        assert isinstance(value, float)
        return value if math.isfinite(value) else {"$float": repr(value)}
    if id(value) in _above:
        raise EncodingError("a container that contains itself has no JSON form")
    if len(_above) > _MAX_DEPTH:
        raise EncodingError(f"nested deeper than {_MAX_DEPTH} levels")
    above = (*_above, id(value))
    if kind is list or kind is tuple:
        assert isinstance(value, (list, tuple))
        items: list[Json] = [encode(item, above) for item in value]
        return items if kind is list else {"$tuple": items}
    if kind is dict:
        assert isinstance(value, dict)
        if all(type(key) is str for key in value):
            return {
                f"${key}" if key.startswith("$") else key: encode(item, above)
                for key, item in value.items()
            }
        return {"$dict": [[encode(k, above), encode(v, above)] for k, v in value.items()]}
    raise EncodingError(f"a value of type {kind.__module__}.{kind.__qualname__} has no JSON form")


def _check_written(value: Any) -> None:
    """Refuse what JSON text can't give back: huge numbers, and halves of surrogate pairs."""
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise EncodingError("a number of thousands of digits has no JSON form")
    elif not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise EncodingError(f"a text has no JSON form: {error.reason}") from error


def decode(data: Json) -> Any:
    """Give back the value that `encode` was given.

    Raises:
        EncodingError: when the data holds an unknown ``$`` form.
    """
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((key, payload),) = data.items()
        form = _FORMS.get(key)
        if form is not None:
            return form(payload)
    return {_plain_key(key): decode(item) for key, item in data.items()}


def _plain_key(key: str) -> str:
    if not key.startswith("$"):
        return key
    if key.startswith("$$"):
        return key[1:]
    raise EncodingError(f"unknown form {key!r}")


def _decode_float(payload: Json) -> float:
    if payload not in ("nan", "inf", "-inf"):
        raise EncodingError(f"$float holds {payload!r}")
    return float(str(payload))


def _decode_tuple(payload: Json) -> tuple[Any, ...]:
    if not isinstance(payload, list):
        raise EncodingError("$tuple doesn't hold a list")
    return tuple(decode(item) for item in payload)


def _decode_dict(payload: Json) -> dict[Any, Any]:
    try:
        return {decode(key): decode(item) for key, item in payload}  # type: ignore[union-attr, str-unpack, misc]  # the except clause is the check
    except (TypeError, ValueError) as error:
        raise EncodingError(f"$dict doesn't hold pairs with hashable keys: {error}") from error


_FORMS: dict[str, Callable[[Json], Any]] = {
    "$float": _decode_float,
    "$tuple": _decode_tuple,
    "$dict": _decode_dict,
}


def dumps(value: object) -> bytes:
    """Encode a value as readable UTF-8 JSON text, the same bytes for the same value."""
    return render(encode(value))


def loads(text: bytes) -> Any:
    """Decode what `dumps` wrote.

    Raises:
        EncodingError: when the text isn't JSON or holds an unknown form.
    """
    try:
        return decode(parse(text))
    except RecursionError as error:
        raise EncodingError("nested too deeply") from error


def render(data: Json) -> bytes:
    """Lay plain JSON data out as text: one form for one value, so that it can be compared."""
    try:
        text = json.dumps(data, indent=1, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise EncodingError(f"can't be written as JSON: {error}") from error
    return text.encode("ascii") + b"\n"


def parse(text: bytes) -> Json:
    """Read plain JSON data; every way in which text can be bad is an `EncodingError`."""
    try:
        data: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EncodingError(f"isn't JSON: {error}") from error
    return data
