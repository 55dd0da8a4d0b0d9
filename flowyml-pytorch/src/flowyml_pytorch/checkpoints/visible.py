"""What can be seen of the state of a dataset or sampler: its random generators and plain values.

They are found where they are held, by attribute, so that the same object, made anew by the same
script, can be put into the same state.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import attrs
import torch
from torch import Tensor, nn

_MOST = 5_000
_DEEPEST = 8
_LONG = 100
"""Objects, attributes within attributes, and items of a list, that are looked at."""

_MOST_ITEMS = 20_000
"""Numbers or texts in a list, at most, that are compared and kept: looking has to be quick."""

_SCALARS = (bool, int, float, str, type(None))
_CLOSED = (type, ModuleType, FunctionType, MethodType, Tensor, nn.Module, str, bytes, bytearray)
"""What has no attributes that are of interest here."""


@attrs.frozen(eq=False)
class Visible:
    """What was found in an object.

    Attributes:
        generators: random generators by path, such as ``"sampler.generator"``; each once.
        scalars: plain values of attributes, and lists and dicts of such, by path.
        iterators: paths of iterators that are under way, whose place can't be seen.
    """

    generators: dict[str, Any]
    scalars: dict[str, Any]
    iterators: list[str]

    def states(self) -> dict[str, Any]:
        """Return the generators' states, by path."""
        return {path: state_of(generator) for path, generator in self.generators.items()}

    def put(self, states: Mapping[str, Any]) -> list[str]:
        """Put generators into states; return the paths of those that can't be."""
        failed = []
        for path, state in states.items():
            try:
                _put(self.generators[path], state)
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):
                failed.append(path)
        return failed


def look(roots: Mapping[str, Any]) -> Visible:
    """Look through objects, by the names that they go by."""
    found = Visible({}, {}, [])
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [(name, obj, 0) for name, obj in roots.items()]
    while waiting and len(seen) < _MOST:
        path, obj, depth = waiting.pop(0)
        if id(obj) in seen or isinstance(obj, _CLOSED) or _is_array(obj):
            continue
        seen.add(id(obj))
        if _is_generator(obj):
            if not _is_global(obj):
                found.generators[path] = obj
        elif isinstance(obj, Iterator) and not hasattr(obj, "read"):
            found.iterators.append(path)
        elif depth < _DEEPEST:
            waiting += [(where, item, depth + 1) for where, item in _held(obj, path, found)]
    return found


def _held(obj: Any, path: str, found: Visible) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, and note its plain values."""
    if isinstance(obj, (list, tuple)):
        items = [(f"{path}[{n}]", item) for n, item in enumerate(obj[:_LONG])]
    elif isinstance(obj, dict):
        items = [(f"{path}[{key!r}]", item) for key, item in list(obj.items())[:_LONG]]
    else:
        items = []
        for name, item in _attributes(obj).items():
            if _is_plain(item):
                plain = item.copy() if isinstance(item, (list, dict)) else item
                found.scalars[f"{path}.{name}"] = plain
            else:
                items.append((f"{path}.{name}", item))
    for where, item in items:
        if type(item) not in _SCALARS:
            yield where, item


def _attributes(obj: Any) -> dict[str, Any]:
    declared = [vars(cls).get("__slots__", ()) for cls in type(obj).__mro__]
    slots = [name for names in declared if not isinstance(names, str) for name in names]
    held = {name: getattr(obj, name) for name in slots if hasattr(obj, name)}
    held.pop("__dict__", None)
    held.pop("__weakref__", None)
    return {**held, **getattr(obj, "__dict__", {})}


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a number, a text, or a list or dict of such that isn't too long."""
    if type(value) in _SCALARS:
        return True
    if type(value) not in (list, dict) or not 0 < len(value) <= _MOST_ITEMS:
        return False
    if isinstance(value, dict) and not all(type(key) in _SCALARS for key in value):
        return False
    items = value.values() if isinstance(value, dict) else value
    return all(type(item) in _SCALARS for item in items)


def set_scalar(roots: Mapping[str, Any], path: str, value: Any) -> bool:
    """Set a plain value that `look` found; False when there is none any more."""
    *steps, last = path.split(".")
    obj: Any = None
    try:
        for number, step in enumerate(steps):
            name, *keys = step.replace("]", "").split("[")
            obj = getattr(obj, name) if number else roots[name]
            for key in keys:
                obj = obj[int(key)] if isinstance(obj, (list, tuple)) else obj[key.strip("'\"")]
        held = getattr(obj, last)
        if isinstance(held, list) and isinstance(value, list):
            held[:] = value  # others may hold the same list
        elif isinstance(held, dict) and isinstance(value, dict):
            held.clear()
            held.update(value)
        else:
            setattr(obj, last, value)
    except (LookupError, AttributeError, TypeError, ValueError):
        return False
    return True


def _is_array(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.ndarray)


def _numpy_generators() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy")
    return () if numpy is None else (numpy.random.Generator, numpy.random.RandomState)


def _is_generator(obj: Any) -> bool:
    return isinstance(obj, (torch.Generator, random.Random, *_numpy_generators()))


def _is_global(obj: Any) -> bool:
    """Tell whether a generator is one of those that the random sources know."""
    numpy = sys.modules.get("numpy")
    return (
        obj is torch.default_generator
        or obj is getattr(random, "_inst", None)
        or (numpy is not None and obj is numpy.random.mtrand._rand)
    )


def state_of(generator: Any) -> Any:
    """Return a generator's state as plain data; None for one that has none to be had."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    try:
        if isinstance(generator, random.Random):
            return generator.getstate()
        held = getattr(generator, "bit_generator", None)
        return _listed(held.state if held else generator.get_state(legacy=False))
    except (NotImplementedError, TypeError):  # the system's own randomness
        return None


def _listed(value: Any) -> Any:
    """Return NumPy's state without arrays."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if _is_array(value):
        return {"dtype": str(value.dtype), "elements": value.tolist()}
    return value.item() if hasattr(value, "item") else value


def _arrays(value: Any) -> Any:
    import numpy

    if isinstance(value, dict) and value.keys() == {"dtype", "elements"}:
        return numpy.array(value["elements"], value["dtype"])
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return value


def _put(generator: Any, state: Any) -> None:
    if state is None:
        raise ValueError("there was no state to be had")
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = _arrays(state)
    else:
        generator.set_state(_arrays(state))


def global_marks() -> Callable[[], bool]:
    """Look at the global generators; what is returned tells whether somebody has drawn since."""
    before, twister = torch.default_generator.get_state(), random.getstate()
    numpy = sys.modules.get("numpy")
    words = None if numpy is None else numpy.random.get_state(legacy=True)

    def have_changed() -> bool:
        if not torch.equal(before, torch.default_generator.get_state()):
            return True
        if random.getstate() != twister:
            return True
        if numpy is None or words is None:
            return False
        now = numpy.random.get_state(legacy=True)
        return now[2] != words[2] or bool((now[1] != words[1]).any())

    return have_changed
