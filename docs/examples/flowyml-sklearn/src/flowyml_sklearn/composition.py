"""What an estimator is composed of: the steps of a pipeline, the estimator in a search, and so on.

Nothing here knows a class by name. Two conventions of scikit-learn are enough, and third parties
follow them too: parts are hyperparameters, alone or in lists of ``(name, estimator, ...)``; and
what `fit` made of the hyperparameter ``part`` is the attribute ``part_``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs


@attrs.frozen
class Part:
    """A part of an estimator.

    Attributes:
        name: its name within the estimator.
        estimator: an estimator, or a word that takes its place, such as ``"passthrough"``.
        columns: the columns that it is given, where it is given some.
    """

    name: str
    estimator: Any
    columns: Any = None


def is_estimator(value: object) -> bool:
    """Tell whether it can be fitted and has hyperparameters."""
    kind = type(value)
    return hasattr(kind, "fit") and hasattr(kind, "get_params")


def attributes(estimator: Any) -> dict[str, Any]:
    """Return what an estimator holds by name, asking nothing that is computed."""
    return getattr(estimator, "__dict__", {})


def parts(estimator: Any) -> list[Part]:
    """Return what an estimator is directly composed of, fitted where it has been fitted."""
    found: dict[str, Part] = {}
    parameters = estimator.get_params(deep=False)
    for name, value in parameters.items():
        if _is_named_list(value):
            for part in _of_list(estimator, name, value):
                found.setdefault(part.name, part)
    for name, value in parameters.items():
        if is_estimator(value):
            found.setdefault(name, Part(name, _fitted(estimator, name, value)))
    return list(found.values())


def walk(estimator: Any) -> Iterator[tuple[str, Any]]:
    """Yield an estimator and all its parts with their paths, such as ``columns__text``.

    The paths are those of ``set_params``; that of the estimator itself is empty. Words that take
    an estimator's place come too.
    """
    yield from _walk("", estimator, ())


def _walk(path: str, estimator: Any, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    yield path, estimator
    if not is_estimator(estimator) or id(estimator) in above:
        return
    for part in parts(estimator):
        below = f"{path}__{part.name}" if path else part.name
        yield from _walk(below, part.estimator, (*above, id(estimator)))


def _of_list(estimator: Any, name: str, given: Any) -> Iterator[Part]:
    fitted = attributes(estimator).get(f"{name}_")
    by_name = attributes(estimator).get(f"named_{name}_")
    if fitted is None or not _is_named_list(fitted):
        fitted = given
    for item in fitted:
        part = item[1]
        if isinstance(by_name, Mapping):
            part = by_name.get(item[0], part)
        columns = item[2] if len(item) > 2 else None
        yield Part(item[0], "passthrough" if part is None else part, columns)


def _fitted(estimator: Any, name: str, given: Any) -> Any:
    for key in (f"best_{name}_", f"{name}_"):
        fitted = attributes(estimator).get(key)
        if is_estimator(fitted):
            return fitted
    return given


def _is_named_list(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(item, tuple) and len(item) >= 2 for item in value)
        and all(isinstance(item[0], str) and _takes_part(item[1]) for item in value)
        and any(is_estimator(item[1]) for item in value)
    )


def _takes_part(value: object) -> bool:
    return value is None or isinstance(value, str) or is_estimator(value)
