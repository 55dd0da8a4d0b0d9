"""Other JSON, made of honest JSON: as whoever knows the format would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from flowyml.testing.canaries import KNOWN, UNASKED
from flowyml.testing.damage import seeded
from flowyml.testing.payloads import Payload, names, texts

__tracebackhide__ = True

_Path: TypeAlias = tuple[Any, ...]
_Places: TypeAlias = list[tuple[_Path, Any]]


def other_json(content: bytes, count: int, mark: Path) -> Iterator[Payload]:
    """Yield other JSON where the content is JSON, with changes in as many places of each kind."""
    if content.lstrip()[:1] not in (b"{", b"[", b'"', b"n"):  # numbers are no names
        return
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return
    for start, what in ((b"[", "lists"), (b'{"a":', "objects")):
        yield Payload(f"is JSON of 100,000 {what} in one another", start * 100_000)
    for what, other in other_data(data, count, mark):
        yield Payload(f"is JSON in which {what}", json.dumps(other).encode())


def other_data(data: Any, count: int, mark: Path) -> Iterator[tuple[str, Any]]:
    """Yield what was changed in JSON data, and the data: other values, members more and less."""
    random = seeded(repr(data).encode())
    places = [*_places(data)]
    leaves = [place for place in places if not isinstance(place[1], (dict, list))]
    named = [place for place in leaves if isinstance(place[1], (str, type(None)))]
    others = [place for place in leaves if not isinstance(place[1], (str, type(None)))]
    for path, leaf in [*_sampled(named, count, random), *_sampled(others, count, random)]:
        for shown, other in _instead_of(leaf, mark).items():
            yield f"{_shown(path)} is {shown}", _replaced(data, path, other)
    objects = [place for place in places if isinstance(place[1], dict)]
    for path, found in _sampled(objects, max(1, count // 4), random):
        for key in random.sample([*found], min(count, len(found))):
            less = {name: found[name] for name in found if name != key}
            yield f"{_shown(path)} has no {key!r}", _replaced(data, path, less)
        for key in ("__class__", UNASKED):
            more = {**found, key: f"{KNOWN}.Made"}
            yield f"{_shown(path)} has one more member, {key!r}", _replaced(data, path, more)


def _sampled(places: _Places, count: int, random: Random) -> _Places:
    """Return that many places: of different kinds at first, and then with different values.

    Places that differ only in the positions in lists are of one kind.
    """
    kinds: dict[_Path, tuple[_Path, Any]] = {}
    values: dict[Any, tuple[_Path, Any]] = {}
    for path, value in places:
        kinds.setdefault(tuple("*" if type(part) is int else part for part in path), (path, value))
        values.setdefault(repr(value), (path, value))
    first = random.sample([*kinds.values()], min(count, len(kinds)))
    rest = [place for place in values.values() if place not in first]
    return [*first, *random.sample(rest, min(count - len(first), len(rest)))]


def _instead_of(leaf: Any, mark: Path) -> dict[str, Any]:
    """Return what may stand in the place of a value, by what it is."""
    deep = {"a deeply nested list": _DEEP}
    if isinstance(leaf, (int, float)):
        return {**deep, **{f"{number}": number for number in _NUMBERS}}
    between = ":" if leaf and ":" in leaf else "."
    plain = [*names(between), *(map(str, _NUMBERS) if _is_numeral(leaf) else ())]
    return {**{repr(text): text for text in plain}, **texts(mark), **deep}


_NUMBERS = (-1, 1_000_000, 1 << 40)


def _is_numeral(leaf: str | None) -> bool:
    try:
        float(leaf or "")
    except ValueError:
        return False
    return True


def _nested(depth: int) -> list[Any]:
    return [_nested(depth - 1)] if depth else []


_DEEP = _nested(150)
"""As deep as the readers of manifests let through."""


def _places(data: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Yield where the values in JSON data are, and what they are; the whole is the first."""
    yield path, data
    if isinstance(data, (dict, list)):
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _places(item, (*path, key))


def _shown(path: _Path) -> str:
    return "".join(f"[{part!r}]" for part in path) or "the whole"


def _replaced(data: Any, path: _Path, other: Any) -> Any:
    if not path:
        return other
    copied = data.copy()
    copied[path[0]] = _replaced(data[path[0]], path[1:], other)
    return copied
