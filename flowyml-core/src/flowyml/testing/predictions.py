"""What a model computes, as plain numbers that are compared exactly."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from flowyml import encoding
from flowyml.properties import type_name
from flowyml.testing.checks import blaming, in_words
from flowyml.testing.subject import ConformanceError, Subject

__tracebackhide__ = True


def prediction(subject: Subject, model: Any) -> Any:
    """Return what `Subject.predict` says of a model, as nested lists of plain numbers.

    Raises:
        ConformanceError: when it fails, or returns no numbers.
    """
    with blaming(f"predict() of a {type_name(model)}", "It has to work for every intact model."):
        found = plain(subject.predict(model), "predict()")
    if not any(True for _ in leaves(found)):
        raise ConformanceError(
            "predict() returned no numbers, so models can't be compared by it. Return what the "
            "model computes from inputs that are always the same."
        )
    return found


def plain(value: Any, what: str) -> Any:
    """Return numbers of any library as numbers in nested lists and dictionaries.

    Raises:
        ConformanceError: for something that can't be turned into numbers, naming `what` gave it.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, Mapping):
        return {str(key): plain(item, what) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, what) for item in value]
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise ConformanceError(
            f"{what} returned a {type_name(value)}, which can't be compared exactly. Return "
            f"numbers, an array with tolist(), or lists and dictionaries of these."
        )
    try:
        return plain(to_list(), what)
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(
            f"{what} returned a {type_name(value)} whose tolist() failed with {in_words(error)}. "
            f"Return plain numbers instead."
        ) from error


def difference(before: Any, after: Any, where: str = "") -> str | None:
    """Say where two plain values first differ; None when they are exactly equal, NaN included."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        pairs = [(before[key], after[key], f"{where}[{key!r}]") for key in before]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(before, after, strict=True))]
    elif encoding.dumps(before) == encoding.dumps(after):
        return None
    else:
        at = f" at {where}" if where else ""
        if isinstance(before, dict) and isinstance(after, dict):
            key = min(before.keys() ^ after.keys(), key=str)
            return f"{key!r} is {'missing' if key in before else 'new'}{at}"
        return f"{_shown(before)} became {_shown(after)}{at}"
    return next(filter(None, (difference(*pair) for pair in pairs)), None)


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two states of random generators are equal, whatever their form is."""
    try:
        return difference(plain(one, "state()"), plain(other, "state()")) is None
    except ConformanceError:
        return pickle.dumps(one) == pickle.dumps(other)


def leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers in a plain value."""
    if isinstance(value, dict):
        value = [*value.values()]
    if not isinstance(value, list):
        if value is not None:
            yield value
        return
    for item in value:
        yield from leaves(item)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
