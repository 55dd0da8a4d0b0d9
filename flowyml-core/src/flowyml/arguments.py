"""The arguments of a call, in the three forms that a run's record keeps them in.

*Hyperparameters* are for people: flat names, plain values. *Inputs* are data, kept by what they
are and not by their value. The *call* is for repeating: it has a form from which the arguments
can be rebuilt. No argument, however odd, makes a call fail.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, datetime, time
from typing import Any

import attrs

from flowyml import adapters, encoding
from flowyml.assets import Asset
from flowyml.properties import type_name

_SECRET = re.compile(
    r"(^|_)(passwords?|passwd|pwd|passphrase|secrets?|token|bearer|auth|authorization"
    r"|cookies?|credentials?|(api|access|private|secret|ssh|signing|encryption|account)_?keys?)$"
)
"""Names that look secret. A token is; ``max_tokens`` and ``token_count`` are not."""

MASK = "***"

_LARGEST = 16_384
"""Bytes of JSON, and characters of text; what is larger is data."""
_MOST = 10_000
"""Items in an argument; what has more is data."""
_DEEPEST = 32
_OWN_TYPE = "it is of a type of its own"
_MOST_LOOKED_AT = 1_000_000
"""Containers in a large argument whose keys are looked at."""

_SCALARS = (type(None), bool, int, float, str)


@functools.lru_cache(10_000)
def looks_secret(name: str) -> bool:
    """Tell whether what goes by a name shouldn't be written down."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name[-100:])
    words = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return _SECRET.search(words.rstrip("0123456789_")) is not None


def masked(value: Any) -> Any:
    """Return JSON-able data, masking what stands under keys that look secret."""
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(key, str) and looks_secret(key) else masked(item)
            for key, item in value.items()
        }
    return [masked(item) for item in value] if isinstance(value, list) else value


@attrs.define
class Call:
    """The arguments of one call.

    Attributes:
        hyperparameters: settings by flat name, such as ``"config.learning_rate"``.
        inputs: the objects that are data, by flat name.
        form: ``{"args": [...], "kwargs": {...}}``; each argument is a scalar or a list that
            starts with a word, see `docs/on-disk.md`.
        secrets: values behind what was masked, by flat name; for digests, never written.
        private: names of inputs that hold something whose name looks secret.
        settings: the arguments that are settings as a whole, by name.
    """

    hyperparameters: dict[str, Any] = attrs.field(factory=dict)
    inputs: dict[str, Any] = attrs.field(factory=dict)
    form: dict[str, Any] = attrs.field(factory=dict)
    secrets: dict[str, Any] = attrs.field(factory=dict)
    private: set[str] = attrs.field(factory=set)
    settings: dict[str, Any] = attrs.field(factory=dict)


def describe(bound: inspect.BoundArguments) -> Call:
    """Describe bound arguments, defaults included. Never raises because of a value."""
    bound.apply_defaults()
    call = Call()
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += _describe_rest(name, value, call)
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs |= {key: _argument(key, item, call) for key, item in value.items()}
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[name] = _argument(name, value, call)
        else:
            args.append(_argument(name, value, call))
    call.form = {"args": args, "kwargs": kwargs}
    return call


def _describe_rest(name: str, values: tuple[Any, ...], call: Call) -> list[Any]:
    if values and all(map(_is_setting, values)):
        form = _argument(name, list(values), call)
        if form[0] == "value":
            return list(form[1])
        call.hyperparameters.pop(name, None)
        call.inputs.pop(name, None)
    return [_argument(f"{name}[{index}]", value, call) for index, value in enumerate(values)]


def _is_setting(value: Any) -> bool:
    try:
        return _scalar(value) is not NotImplemented
    except KeyboardInterrupt:
        raise
    except BaseException:  # it is too much, or its own code may raise anything
        return False


def _argument(name: str, value: Any, call: Call) -> Any:
    """Return the form of one argument, and put what is known of it into the call."""
    while _is_taken(name, call):  # such as by a positional argument, or a key with dots in it
        name += "#"
    part = Call()
    form: Any = None
    try:
        form = _Describer(part).form(name, value)
        large = len(encoding.dumps([part.hyperparameters, form])) > _LARGEST
    except KeyboardInterrupt:
        raise
    except _TooMuchError:
        large = True
    except BaseException as error:  # a value's own code may raise anything
        call.inputs[name] = value
        return ["lost", type_name(value), f"it can't be looked at: {type(error).__name__}"]
    if large:
        call.inputs[name] = value
        call.private |= {name} if part.secrets or holds_secrets(value) else set()
        return ["input", name]
    call.hyperparameters |= part.hyperparameters
    call.inputs |= part.inputs
    call.secrets |= part.secrets
    call.private |= part.private
    if not (part.inputs or part.secrets):
        call.settings[name] = value
    return form


def _is_taken(name: str, call: Call) -> bool:
    starts = name, f"{name}.", f"{name}["
    return any(
        key == name or key.startswith(starts[1:]) or name.startswith((f"{key}.", f"{key}["))
        for known in (call.hyperparameters, call.inputs, call.secrets)
        for key in known
    )


def holds_secrets(value: Any) -> bool:
    """Tell whether a large container of plain ones has a key that looks secret."""
    left: list[Any] = [value]
    met: set[int] = set()
    while left and len(met) < _MOST_LOOKED_AT:
        item = left.pop()
        if type(item) in (dict, list, tuple) and id(item) not in met:
            met.add(id(item))
            if type(item) is dict:
                if any(type(key) is str and looks_secret(key) for key in item):
                    return True
                left += item.values()
            else:
                left += item
    return False


class _TooMuchError(Exception):
    """An argument has too many items to be a setting."""


class _Describer:
    def __init__(self, call: Call) -> None:
        self._call = call
        self._items = 0

    def form(self, name: str, value: Any, above: tuple[int, ...] = ()) -> Any:
        """Return the form of a value, and note what is a setting and what is data in it."""
        self._items += 1
        if self._items > _MOST:
            raise _TooMuchError
        if looks_secret(name):
            self._call.hyperparameters[name] = MASK
            self._call.secrets[name] = value
            return ["masked", name]
        if (scalar := _scalar(value)) is not NotImplemented:
            self._call.hyperparameters[name] = scalar[0]
            return scalar[1]
        if isinstance(value, _FUNCTIONS):
            return self._named(name, value)
        if id(value) in above or len(above) > _DEEPEST:
            return ["lost", type_name(value), "it contains itself or is nested too deeply"]
        if _is_number(value):
            self._call.hyperparameters[name] = _plain_number(value)
            return self._input(name, value)
        if isinstance(value, (Sequence, Set, Mapping)) and len(value) > _MOST:
            raise _TooMuchError
        return self._container(name, value, (*above, id(value)))

    def _named(self, name: str, value: Any) -> Any:
        if not isinstance(value.__module__, str):  # a method of an object, as random.random is
            return self._input(name, value)
        dotted = f"{value.__module__}.{value.__qualname__}"
        self._call.hyperparameters[name] = dotted
        if isinstance(value, (types.FunctionType, type)):
            self._call.inputs[name] = value
        return ["name", value.__module__, value.__qualname__]

    def _input(self, name: str, value: Any) -> Any:
        self._call.inputs[name] = value
        return ["input", name]

    def _container(self, name: str, value: Any, above: tuple[int, ...]) -> Any:
        parts = _parts(name, value)
        fields = _fields_of(value)
        if parts is None or (fields is not None and adapters.materializer_of(value) is not None):
            return self._input(name, value)
        make, items = parts
        if _has_more(value, fields):
            make = _lost_of(value)
        before = set(self._call.inputs)
        forms = [self.form(child, item, above) for child, item in items]
        self._join_settings(name, value, items)
        new = set(self._call.inputs) - before
        if new and adapters.materializer_of(value) is not None:
            for child in new:
                del self._call.inputs[child]
            if self._masked_below(name):
                self._call.private.add(name)
            return self._input(name, value)
        if not new and encoding.is_encodable(value) and not self._masked_below(name):
            return ["value", copy.deepcopy(value)]  # the function may change the value itself
        return make(forms)

    def _join_settings(self, name: str, value: Any, items: list[tuple[str, Any]]) -> None:
        """Note a sequence of plain values as one list, and an empty container as itself."""
        if isinstance(value, Mapping) or _fields_of(value) is not None:
            if not items:
                self._call.hyperparameters[name] = {}
            return
        children = [child for child, _ in items]
        plain = [_scalar(item) for _, item in items]
        if all(scalar is not NotImplemented for scalar in plain):
            for child in children:
                self._call.hyperparameters.pop(child, None)
            self._call.hyperparameters[name] = [scalar[0] for scalar in plain]

    def _masked_below(self, name: str) -> bool:
        return any(key.startswith((f"{name}.", f"{name}[")) for key in self._call.secrets)


_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.BuiltinMethodType,
    type,
)


def _scalar(value: Any) -> Any:
    """Return a scalar's plain value and its form; NotImplemented for anything else."""
    kind = type(value)
    if kind in _SCALARS:
        if kind is str and len(value) > _LARGEST:
            raise _TooMuchError
        return value, value
    if isinstance(value, enum.Enum):
        return value.name, ["enum", kind.__module__, kind.__qualname__, value.name]
    if isinstance(value, os.PathLike):
        path = os.fsdecode(os.fspath(value))
        known = kind.__module__.partition(".")[0] == "pathlib"
        return path, ["path", path] if known else ["lost", type_name(value), _OWN_TYPE]
    if isinstance(value, (datetime, date, time)) and kind in (datetime, date, time):
        return value.isoformat(), [kind.__name__, value.isoformat()]
    for builtin in (bool, int, float, str):
        if isinstance(value, builtin) and not hasattr(value, "dtype"):
            return builtin(value), ["lost", type_name(value), _OWN_TYPE]
    return NotImplemented


def _is_number(value: Any) -> bool:
    """Tell whether it is a number of a library: a NumPy scalar, a tensor without dimensions."""
    return getattr(value, "shape", None) == () and callable(getattr(value, "item", None))


def _plain_number(value: Any) -> Any:
    item = value.item()
    return item if type(item) in _SCALARS else str(item)


def _parts(
    name: str, value: Any
) -> tuple[Callable[[list[Any]], Any], list[tuple[str, Any]]] | None:
    """Return how a container's form is made of those of its items, and these by flat name."""
    kind = type(value)
    fields = _fields_of(value)
    if isinstance(value, Asset):
        return None
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        items = [(_child(name, key), item) for key, item in zip(value._fields, value, strict=True)]
        return lambda forms: ["namedtuple", kind.__module__, kind.__qualname__, forms], items
    if fields is not None:
        items = [(_child(name, key), getattr(value, key)) for key in fields]
        return (
            lambda forms: [
                "object",
                kind.__module__,
                kind.__qualname__,
                [[key, form] for key, form in zip(fields, forms, strict=True)],
            ],
            items,
        )
    if kind in (list, tuple):
        items = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
        return lambda forms: [kind.__name__, forms], items
    if kind in (set, frozenset):
        ordered = sorted(value, key=lambda item: (type(item).__name__, repr(item)))
        items = [(f"{name}[{index}]", item) for index, item in enumerate(ordered)]
        return lambda forms: [kind.__name__, forms], items
    if kind is dict and all(type(key) in _SCALARS for key in value):
        keys = list(value)
        items = [(_child(name, key), value[key]) for key in keys]
        return (
            lambda forms: ["dict", [[key, form] for key, form in zip(keys, forms, strict=True)]],
            items,
        )
    return None


def _has_more(value: Any, fields: list[str] | None) -> bool:
    """Tell whether an instance of a class of the user's has attributes besides its items."""
    return not set(getattr(value, "__dict__", ())) <= {*(fields or ())}


def _lost_of(value: Any) -> Callable[[list[Any]], Any]:
    return lambda _: ["lost", type_name(value), "it has attributes besides its fields"]


def _child(name: str, key: Any) -> str:
    """Return the flat name of what stands under a key."""
    if isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return f"{name}.{key}"
    return f"{name}[{key!r}]"


def _fields_of(value: Any) -> list[str] | None:
    """Return the names of an attrs or dataclass instance's fields; None for anything else."""
    from dataclasses import fields, is_dataclass

    kind = type(value)
    if issubclass(kind, Asset):
        return None
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind)]
    return [field.name for field in fields(kind)] if is_dataclass(kind) else None
