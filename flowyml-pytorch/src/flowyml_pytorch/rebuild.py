"""Rebuilds a module from its structure: names are resolved first, then objects are filled.

No constructor of a user's class runs: an object is allocated and given its attributes, the way
unpickling does it, but only for names that `flowyml_pytorch.policy` lets through.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowyml.errors import MaterializationError
from flowyml.trust import Trust
from flowyml_pytorch.policy import Name, Resolver, takes_parametrizations
from flowyml_pytorch.structure import SCHEMA


def rebuild(
    data: Any,
    files: Mapping[str, Mapping[str, Tensor]],
    trust: Trust,
    ref: str,
    main: str | None = None,
) -> nn.Module:
    """Build the module that a structure describes.

    Args:
        data: what `flowyml_pytorch.structure.encode` made.
        files: the tensors by file and key.
        trust: what the caller trusts.
        ref: whose structure it is, for messages.
        main: the name under which the script that saved it could be imported.

    Raises:
        UntrustedDataError: when it names what isn't trusted.
        MaterializationError: when the structure is unfit, or names what no longer exists.
    """
    try:
        if data["schema"] != SCHEMA:
            raise MaterializationError(
                f"{ref} has a structure of schema {data['schema']!r}; this flowyml-pytorch reads "
                f"{SCHEMA}. Upgrade flowyml-pytorch."
            )
        resolver = Resolver(ref, trust, main)
        resolver.resolve_all(_names([data["root"], data["objects"]]))
        module = _Decoder(data, files, resolver.found).value(data["root"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MaterializationError(f"{ref}: structure.json is unfit: {error!r}") from error
    if not isinstance(module, nn.Module):
        raise MaterializationError(f"{ref}: structure.json holds no module at its root")
    return module


def _names(form: Any) -> Iterator[Name]:
    """Yield every name that a structure uses."""
    if isinstance(form, dict):
        for key, item in form.items():
            if key in ("$name", "$class"):
                yield Name.parse(item)
            else:
                yield from _names(item)
    elif isinstance(form, list):
        for item in form:
            yield from _names(item)


class _Decoder:
    """Turns forms into values; objects and shared containers are built once."""

    def __init__(
        self,
        data: Any,
        files: Mapping[str, Mapping[str, Tensor]],
        names: Mapping[Name, Any],
    ) -> None:
        self._records = data["objects"]
        self._entries = data["tensors"]
        self._files = files
        self._names = names
        self._objects: dict[int, Any] = {}
        self._tensors: dict[int, Tensor] = {}
        self._shared: dict[int, Any] = {}

    def value(self, form: Any) -> Any:
        """Return the value of a form."""
        if isinstance(form, list):
            return self._fill([], form)
        if not isinstance(form, dict):
            return form
        if len(form) == 1:
            ((tag, payload),) = form.items()
            if tag.startswith("$"):
                return self._tagged(tag, payload)
        return self._fill({}, form)

    def _tagged(self, tag: str, payload: Any) -> Any:
        match tag:
            case "$tensor":
                return self._tensor(payload)
            case "$object":
                return self._object(payload)
            case "$name":
                return self._names[Name.parse(payload)]
            case "$slice":
                return slice(*(self.value(part) for part in payload))
            case "$partial":
                function, arguments, keywords = (self.value(part) for part in payload)
                return functools.partial(function, *arguments, **keywords)
            case "$numpy":
                return _numpy(*payload)
            case "$enum":
                cls, member = self.value(payload[0]), payload[1]
                return cls.__members__[member]
            case "$shared":
                number, inner = payload
                return self._share(number, inner)
            case "$same":
                return self._shared[payload]
            case "$tuple":
                return tuple(self.value(item) for item in payload)
            case "$frozenset":
                return frozenset(self.value(item) for item in payload)
            case _ if tag in _EMPTY:
                return self._fill(_EMPTY[tag](), payload)
        return _PLAIN[tag](payload)

    def _share(self, number: int, form: Any) -> Any:
        """Build a container whose number may already be used inside it."""
        tag = next(iter(form), "") if isinstance(form, dict) and len(form) == 1 else ""
        container: Any
        if isinstance(form, list):
            container = []
        elif tag in _EMPTY:
            container, form = _EMPTY[tag](), form[tag]
        else:
            container = {}
        self._shared[number] = container
        return self._fill(container, form)

    def _fill(self, container: Any, form: Any) -> Any:
        if isinstance(container, list):
            container.extend(self.value(item) for item in form)
        elif isinstance(container, set):
            container.update(self.value(item) for item in form)
        elif isinstance(form, dict):
            container.update((key, self.value(item)) for key, item in form.items())
        else:
            container.update((self.value(key), self.value(item)) for key, item in form)
        return container

    def _tensor(self, number: int) -> Tensor:
        tensor = self._tensors.get(number)
        if tensor is None:
            entry = self._entries[number]
            tensor = self._files[entry["file"]][entry["key"]]
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{entry['key']!r} is no tensor")
            if "view" in entry:
                tensor = tensor.detach().as_strided(*entry["view"])
            if entry["parameter"]:
                tensor = nn.Parameter(tensor, requires_grad=entry["requires_grad"])
            elif entry["requires_grad"]:
                tensor.requires_grad_()
            self._tensors[number] = tensor
        return tensor

    def _object(self, number: int) -> Any:
        if number in self._objects:
            return self._objects[number]
        record = self._records[number]
        cls = self._names[Name.parse(record["$class"])]
        if not isinstance(cls, type):
            raise TypeError(f"{record['$class']!r} is no class")
        built: Any = object.__new__(cls)
        self._objects[number] = built
        attributes = object.__getattribute__(built, "__dict__")
        if issubclass(cls, nn.Module):
            attributes.update(vars(nn.Module()))
        state = {key: self.value(item) for key, item in record["state"].items()}
        if getattr(cls, "__setstate__", None) is nn.RNNBase.__setstate__:
            attributes.update(state)  # its own way loops as often as a number in the state says
            built._init_flat_weights()
        elif hasattr(cls, "__setstate__"):
            cls.__setstate__(built, state)
        else:
            attributes.update(state)
        if "parametrized" in record:
            _parametrize(built, record["parametrized"])
        return built


def _parametrize(module: Any, names: list[str]) -> None:
    """Give a module the class that computes the named tensors, as torch does."""
    if not takes_parametrizations(type(module)):
        raise TypeError(f"{type(module).__qualname__} can't be parametrized")
    parametrize._inject_new_class(module)
    for name in names:
        if name not in module._modules["parametrizations"]._modules:
            raise KeyError(name)
        parametrize._inject_property(module, name)


def _numpy(dtype: str, shape: list[int] | None, content: str) -> Any:
    import numpy

    if numpy.dtype(dtype).kind not in "biufc":
        raise TypeError(f"{dtype!r} is no type of numbers")
    array = numpy.frombuffer(bytes.fromhex(content), dtype=dtype).copy()
    return array[0] if shape is None else array.reshape(shape)


def _torch_value(kind: type) -> Callable[[Any], Any]:
    def value(name: Any) -> Any:
        found = vars(torch).get(name)
        if not isinstance(found, kind):
            raise TypeError(f"{name!r} is no {kind.__name__}")
        return found

    return value


_EMPTY: dict[str, Callable[[], Any]] = {
    "$dict": dict,
    "$ordered": OrderedDict,
    "$set": set,
}

_PLAIN: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$complex": complex,
    "$bytes": bytes.fromhex,
    "$ellipsis": lambda _: Ellipsis,
    "$range": lambda parts: range(*parts),
    "$path": Path,
    "$size": torch.Size,
    "$dtype": _torch_value(torch.dtype),
    "$device": torch.device,
    "$layout": _torch_value(torch.layout),
    "$memory_format": _torch_value(torch.memory_format),
}
