"""The tree of what an estimator is composed of, for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowyml.interfaces import Layer
from flowyml_sklearn.composition import Part, attributes, is_estimator, parts
from flowyml_sklearn.learned import learned

_FEW = 5


def outline(estimator: Any) -> Layer:
    """Return the tree of an estimator and its parts."""
    return _layer(Part("", estimator), ())


def _layer(part: Part, above: tuple[int, ...]) -> Layer:
    estimator = part.estimator
    if not is_estimator(estimator):
        return Layer(part.name, str(estimator), notes=tuple(_columns(part)))
    inside = () if id(estimator) in above else parts(estimator)
    count = learned(estimator).parameters
    return Layer(
        name=part.name,
        type=type(estimator).__name__,
        parameters=count,
        trainable=count,
        notes=(*_columns(part), *_ensemble(estimator)),
        children=tuple(_layer(child, (*above, id(estimator))) for child in inside),
    )


def _columns(part: Part) -> Iterator[str]:
    columns = part.columns
    if isinstance(columns, str):
        yield f"column {columns}"
    elif isinstance(columns, (list, tuple)) and len(columns) <= _FEW:
        yield f"columns {', '.join(map(str, columns))}"
    elif isinstance(columns, (list, tuple)):
        yield f"{len(columns)} columns"


def _ensemble(estimator: Any) -> Iterator[str]:
    """Tell of what a fit made many of, such as the trees of a forest."""
    members = attributes(estimator).get("estimators_")
    flat = list(getattr(members, "flat", members if isinstance(members, list) else ()))
    kinds = list(dict.fromkeys(type(item).__name__ for item in flat if is_estimator(item)))
    if len(kinds) == 1:
        yield f"{len(flat)} × {kinds[0]}"
