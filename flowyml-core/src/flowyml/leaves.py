"""JSON-able values leaf by leaf: what differs between two of them, by path.

A path is what one would type in Python: ``config.layers[3]``, or ``config["a key"]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from flowyml.interfaces import Change

_LONG = 100
"""Numbers from which on a list of them is compared as one value, like a tensor."""

_WIDE = 200
"""Characters of a value that are shown."""


def compare(before: Any, after: Any) -> list[Change]:
    """Return how two values differ that `encoding.encode` takes."""
    return list(_changes("", before, after))


def _changes(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _in_dicts(path, before, after)
    elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        if type(before) is not type(after):
            yield Change(_name(path), shown(before), shown(after))
        if _is_vector(before) or _is_vector(after):
            yield from _in_vectors(path, before, after)
        else:
            yield from _in_sequences(path, before, after)
    elif _is_number(before) and _is_number(after):
        if repr(before) != repr(after):
            yield numbers(_name(path), [before], [after], (shown(before), shown(after)))
    elif type(before) is not type(after) or before != after:
        yield Change(_name(path), shown(before), shown(after))


def _in_dicts(path: str, before: dict[Any, Any], after: dict[Any, Any]) -> Iterator[Change]:
    for key in dict.fromkeys((*before, *after)):
        place = _within(path, key)
        if key not in after:
            yield Change(place, before=shown(before[key]))
        elif key not in before:
            yield Change(place, after=shown(after[key]))
        else:
            yield from _changes(place, before[key], after[key])
    orders = [key for key in before if key in after], [key for key in after if key in before]
    if list(map(repr, orders[0])) != list(map(repr, orders[1])):  # 1, 1.0 and True are one key
        left, right = (f"keys in the order {shortened(repr(order)[1:-1])}" for order in orders)
        yield Change(_name(path), left, right)


def _in_sequences(path: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Change]:
    for index, (left, right) in enumerate(zip(before, after, strict=False)):
        yield from _changes(f"{path}[{index}]", left, right)
    for index in range(len(after), len(before)):
        yield Change(f"{path}[{index}]", before=shown(before[index]))
    for index in range(len(before), len(after)):
        yield Change(f"{path}[{index}]", after=shown(after[index]))


def _in_vectors(path: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Change]:
    texts = shown(before), shown(after)
    if len(before) != len(after) or not (_is_vector(before) and _is_vector(after)):
        yield Change(_name(path), *texts)
    elif any(repr(a) != repr(b) for a, b in zip(before, after, strict=True)):
        yield numbers(_name(path), before, after, texts)


def numbers(
    name: str, before: Sequence[float], after: Sequence[float], texts: tuple[str, str]
) -> Change:
    """Return how equally many numbers differ; a single one has the place ``()``."""
    pairs = list(zip(before, after, strict=True))
    places = [i for i, (a, b) in enumerate(pairs) if not (a == b or (_is_nan(a) and _is_nan(b)))]
    distances = [_distance(*pairs[i]) for i in places]
    first = places[0] if places else None
    return Change(
        name,
        *texts,
        elements=len(pairs),
        different=len(places),
        first=None if first is None else (first,) if len(pairs) > 1 else (),
        first_before=None if first is None else shown(before[first]),
        first_after=None if first is None else shown(after[first]),
        max_absolute=max(distances, default=0.0),
        max_relative=max((_relative(*pairs[i]) for i in places), default=0.0),
        norm=math.hypot(*distances),
        norm_before=math.hypot(*(_float(number) for number in before if not _is_nan(number))),
    )


def shown(value: Any) -> str:
    """Return a leaf as text, of a container what it is."""
    if isinstance(value, (list, tuple, dict)):
        items = "numbers" if not isinstance(value, dict) and _is_vector(value) else "items"
        return f"{type(value).__name__} of {len(value):,} {items}"
    return shortened(repr(value))


def shortened(text: str) -> str:
    """Return a text, or how it begins and how long it is."""
    return text if len(text) <= _WIDE else f"{text[:_WIDE]}… ({len(text):,} characters)"


def _distance(before: float, after: float) -> float:
    if _is_nan(before) or _is_nan(after):
        return math.inf
    try:
        return float(abs(before - after))
    except OverflowError:
        return math.inf


def _relative(before: float, after: float) -> float:
    if _is_nan(before) or _is_nan(after) or before == 0 or abs(before) == math.inf:
        return math.inf
    try:
        return float(abs(before - after) / abs(before))
    except OverflowError:
        return math.inf


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _is_nan(number: float) -> bool:
    return number != number  # math.isnan can't take the largest whole numbers


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_vector(value: Sequence[Any]) -> bool:
    return len(value) > _LONG and all(map(_is_number, value))


def _name(path: str) -> str:
    return path or "value"


def _within(path: str, key: Any) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{shown(key)}]"
