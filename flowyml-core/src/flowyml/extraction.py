"""Asks extractors about models. Whatever they do costs the description, never the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from flowyml import adapters, properties
from flowyml.errors import AdapterWarning, UnsupportedObjectError, told, warn
from flowyml.properties import type_name

if TYPE_CHECKING:
    from flowyml.interfaces import Extractor, Layer

_Answer = TypeVar("_Answer")


def extracted(
    extractor: Extractor, model: Any, options: Mapping[str, Any], *, refusing: bool = False
) -> dict[str, Any]:
    """Return the properties of a model in their JSON form; none when the extractor fails.

    Args:
        extractor: whose.
        model: what it recognised.
        options: those of its options that the user gave.
        refusing: whether the user gives them now, and is told which is unfit.

    Raises:
        UnsupportedObjectError: when `refusing` and the extractor refuses an option.
    """
    from flowyml import encoding

    def ask() -> dict[str, Any]:
        found = _of_type(extractor.extract(model, options), Mapping)
        described = {_of_type(k, str): properties.describe(value) for k, value in found.items()}
        encoding.dumps(described)  # what can't be stored is said so now
        return described

    through = (UnsupportedObjectError,) if refusing and options else ()
    return _answered(extractor, f"A {type_name(model)} is not described", ask, {}, through)


def default_name(extractor: Extractor, model: Any) -> str:
    """Return the name that the extractor gives a model, or else that of its type."""

    def ask() -> str:
        name: str = _of_type(extractor.default_name(model), str)
        return name

    return _answered(extractor, f"A {type_name(model)} is not named", ask, type(model).__name__)


def outline(extractor: Extractor, model: Any) -> Layer | None:
    """Return the tree of a model's layers; None when there is none or the extractor fails."""
    from flowyml.interfaces import Layer

    def ask() -> Layer | None:
        found = extractor.outline(model)
        return None if found is None else _of_type(found, Layer)

    return _answered(extractor, f"The layers of a {type_name(model)} are not shown", ask, None)


def _of_type(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"it returned a {type_name(value)}; needed is a {kind.__name__}")
    return value


def _answered(
    extractor: Extractor,
    what: str,
    ask: Callable[[], _Answer],
    otherwise: _Answer,
    through: tuple[type[Exception], ...] = (),
) -> _Answer:
    try:
        return ask()
    except through:
        raise
    except (Warning, KeyboardInterrupt):  # a warning is an error where the user wants it to be
        raise
    except BaseException as error:
        warn(
            f"{what}: the extractor of {adapters.provider(extractor)} failed with {told(error)}",
            AdapterWarning,
        )
        return otherwise
