"""JSON-able descriptions of hyperparameters and of fitted attributes.

A hyperparameter is a setting and is shown as it is; a fitted attribute may be training data and is
shown by its type and shape unless it is a single number or a short text. No description depends on
the process: none has an address in it, and sets are sorted.
"""

from __future__ import annotations

import enum
import functools
import re
import sys
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from flowyml_sklearn.composition import is_estimator

MAX_ITEMS = 100
"""A longer list among the hyperparameters is data, such as a vocabulary."""

MAX_LABELS = 1000
_MAX_TEXT = 200
_MAX_DEPTH = 8


def class_name(kind: type) -> str:
    """Return a class's dotted name by which users import it: ``sklearn.svm.SVC``."""
    return _public_name(kind.__module__, kind.__qualname__, kind)


def hyperparameter(value: Any, depth: int = 0) -> Any:
    """Describe a hyperparameter.

    Numbers, texts and short lists are themselves, classes, functions and estimators are named,
    arrays are described by type, shape and dtype.
    """
    plain, found = _plain(value)
    if found:
        return plain
    if is_estimator(value):
        return class_name(type(value))
    if isinstance(value, type):
        return class_name(value)
    if isinstance(value, functools.partial):
        return f"functools.partial({hyperparameter(value.func)})"
    if isinstance(value, re.Pattern):
        return _short(str(value.pattern))
    if isinstance(value, slice):
        return str(value)
    if _is_array(value):
        return _array(value)
    if isinstance(value, (Mapping, Sequence, set, frozenset, range)) and depth < _MAX_DEPTH:
        return _container(value, depth)
    if callable(value) and hasattr(value, "__name__"):
        return _function_name(value)
    return class_name(type(value))


def fitted_attribute(value: Any) -> Any:
    """Describe what `fit` has learned, by type and size unless it is a single value."""
    plain, found = _plain(value)
    if found:
        return plain
    if _is_array(value):
        return _array(value)
    described: dict[str, Any] = {"type": class_name(type(value))}
    if hasattr(value, "node_count") and hasattr(value, "max_depth"):
        return {**described, "nodes": int(value.node_count), "depth": int(value.max_depth)}
    if isinstance(value, Sized) and not is_estimator(value):
        described["length"] = len(value)
    if isinstance(value, (list, tuple)) and value and len({type(item) for item in value}) == 1:
        described["of"] = class_name(type(value[0]))
    return described


def labels(value: Any) -> Any:
    """Return names of classes or features as a list; very many are described by their shape."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and any(_is_array(item) for item in value):
        return [labels(item) for item in value]  # one list for each output
    if len(value) > MAX_LABELS:
        return fitted_attribute(value)
    return [hyperparameter(item) for item in value]


def _plain(value: Any) -> tuple[Any, bool]:
    """Return a single value as Python has it, and whether it is one."""
    if isinstance(value, enum.Enum):
        return value.name, True
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.generic) and value.dtype.kind in "biufUSmM":
        value = value.item() if value.dtype.kind in "biufUS" else str(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return _short(value), True
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value), True
    return None, value is None


def _short(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _is_array(value: object) -> bool:
    """Tell whether it has the shape of an array, a sparse matrix or a data frame."""
    return isinstance(getattr(value, "shape", None), tuple) and not isinstance(value, type)


def _array(value: Any) -> dict[str, Any]:
    described = {"type": class_name(type(value)), "shape": [int(size) for size in value.shape]}
    if hasattr(value, "dtype"):
        described["dtype"] = str(value.dtype)
    return described


def _container(value: Any, depth: int) -> Any:
    if len(value) > MAX_ITEMS:
        return {"type": class_name(type(value)), "length": len(value)}
    if isinstance(value, Mapping):
        return {
            str(hyperparameter(key, depth + 1)): hyperparameter(item, depth + 1)
            for key, item in value.items()
        }
    described = [hyperparameter(item, depth + 1) for item in value]
    return sorted(described, key=repr) if isinstance(value, (set, frozenset)) else described


def _function_name(function: Any) -> str:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", function.__name__)
    if module is not None:
        return _public_name(module, name, function)
    for library in ("numpy", "scipy.special"):  # a universal function knows its own name only
        if library in sys.modules and vars(sys.modules[library]).get(name) is function:
            return f"{library}.{name}"
    return str(name)


def _public_name(module: str, name: str, value: object) -> str:
    """Return the shortest dotted name that leads to a class or function.

    Only packages above its module are looked at: they are imported wherever the module is.
    """
    if module == "builtins":
        return name
    packages = module.split(".")
    for end in range(1, len(packages) + 1):
        package = sys.modules.get(".".join(packages[:end]))
        if package is not None and vars(package).get(name) is value:
            return f"{package.__name__}.{name}"
    return f"{module}.{name}"
