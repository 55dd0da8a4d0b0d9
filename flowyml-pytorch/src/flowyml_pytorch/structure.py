"""The structure of a module as JSON: every attribute of every submodule, tensors by reference.

It takes the place of a pickle. Only a fixed set of value types has a form here; what has none is
recorded as the reason why the module can't be restored exactly. The forms are described in
``docs/store.md``; `flowyml_pytorch.rebuild` reads them.
"""

from __future__ import annotations

import enum
import functools
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowyml_pytorch.forms import plain_form
from flowyml_pytorch.functional import is_torchs_own
from flowyml_pytorch.policy import (
    importable_name,
    is_safe,
    runs_code_on_load,
    takes_parametrizations,
)
from flowyml_pytorch.tensors import storage_of

SCHEMA = 1
"""Version of the structure's layout."""

DEFAULTS: Mapping[str, Any] = types.MappingProxyType(vars(nn.Module()))
"""What every module starts with; attributes that equal it are not written."""


class NotRestorableError(Exception):
    """An attribute has no form here; the text says where it is and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'the module itself'}: {reason}")


@attrs.define
class Structure:
    """What `encode` found.

    Attributes:
        data: the JSON data.
        extra: tensors that are in no state dict, by key: non-persistent buffers and attributes.
        required_trust: dotted names that loading needs beyond imported module classes.
    """

    data: dict[str, Any]
    extra: dict[str, Tensor]
    required_trust: tuple[str, ...]


def encode(module: nn.Module, state: Mapping[str, Any]) -> Structure:
    """Encode a module.

    Args:
        module: the root.
        state: the live tensors of the state dict that is stored beside the structure, by key.

    Raises:
        NotRestorableError: when a part can't be restored exactly.
    """
    encoder = _Encoder(state)
    root = encoder.value(module, "")
    data = {
        "schema": SCHEMA,
        "root": _plain(root),
        "objects": [_plain(item) for item in encoder.objects],
        "tensors": encoder.tensors,
    }
    return Structure(data, encoder.extra, tuple(sorted(encoder.required_trust)))


@attrs.define
class _Shareable:
    """A mutable container's form; it gets a number when it is met a second time."""

    form: Any
    original: Any
    number: int | None = None


class _Encoder:
    def __init__(self, state: Mapping[str, Any]) -> None:
        self.objects: list[Any] = []
        self.tensors: list[dict[str, Any]] = []
        self.extra: dict[str, Tensor] = {}
        self.required_trust: set[str] = set()
        kept = {key: item for key, item in reversed([*state.items()]) if isinstance(item, Tensor)}
        self._state_keys = {id(item): key for key, item in kept.items()}
        self._whole = {(storage_of(t), t.dtype): key for key, t in kept.items() if _is_whole(t)}
        self._object_numbers: dict[int, int] = {}
        self._tensor_numbers: dict[int, int] = {}
        self._containers: dict[int, _Shareable] = {}
        self._shared = 0
        self._alive: list[Any] = []  # keeps ids unique: state may be made on the fly

    def value(self, value: Any, path: str) -> Any:
        """Return the form of one value."""
        kind = type(value)
        form = plain_form(value)
        if form is not NotImplemented:
            return form
        if isinstance(value, Tensor):
            return {"$tensor": self._tensor(value, path)}
        if kind is functools.partial:
            return {"$partial": [self.value(part, path) for part in _parts(value)]}
        if isinstance(value, enum.Enum) and value.name in kind.__members__:
            return {"$enum": [{"$name": self._name(kind, path)}, value.name]}
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return {"$slice": [self.value(part, path) for part in parts]}
        if kind in _CONTAINERS:
            return self._container(value, kind, path)
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return {"$name": self._name(value, path)}
        return {"$object": self._object(value, path)}

    def _container(self, value: Any, kind: type, path: str) -> Any:
        if kind in (tuple, frozenset):
            return {_CONTAINERS[kind]: self._items(value, kind, path)}
        known = self._containers.get(id(value))
        if known is not None:
            if known.number is None:
                self._shared += 1
                known.number = self._shared
            return {"$same": known.number}
        shareable = self._containers[id(value)] = _Shareable(None, value)
        items = self._items(value, kind, path)
        shareable.form = items if kind is list else {_CONTAINERS[kind]: items}
        if kind is dict and all(type(k) is str and not k.startswith("$") for k in value):
            shareable.form = dict(items)
        return shareable

    def _items(self, value: Any, kind: type, path: str) -> list[Any]:
        if kind in (dict, OrderedDict):
            return [
                [self.value(key, path), self.value(item, _below(path, key))]
                for key, item in value.items()
            ]
        forms = [self.value(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if kind in (set, frozenset):  # sets have no order; one set, one text
            forms.sort(key=lambda form: repr(_plain(form)))
        return forms

    def _tensor(self, tensor: Tensor, path: str) -> int:
        number = self._tensor_numbers.get(id(tensor))
        if number is not None:
            return number
        _check_tensor(tensor, path)
        key = self._state_keys.get(id(tensor))
        entry: dict[str, Any] = {"file": "weights.pt", "key": key}
        base = self._whole.get((storage_of(tensor), tensor.dtype))
        if key is None and base is not None and _is_view(tensor):
            view = [list(tensor.shape), list(tensor.stride()), tensor.storage_offset()]
            entry = {"file": "weights.pt", "key": base, "view": view}
        elif key is None:
            key = path if path not in self.extra else f"{path}#{len(self.tensors)}"
            entry = {"file": "extra.pt", "key": key}
            self.extra[key] = tensor.detach()
        entry["parameter"] = isinstance(tensor, nn.Parameter)
        entry["requires_grad"] = tensor.requires_grad
        self.tensors.append(entry)
        self._alive.append(tensor)
        number = self._tensor_numbers[id(tensor)] = len(self.tensors) - 1
        return number

    def _object(self, value: Any, path: str) -> int:
        number = self._object_numbers.get(id(value))
        if number is not None:
            return number
        is_module = isinstance(value, nn.Module)
        parametrized = _parametrized(value, path) if is_module else []
        cls = type(value).__bases__[0] if parametrized else type(value)
        name = self._name(cls, path)
        if (not is_module or runs_code_on_load(cls)) and not is_safe(cls):
            self.required_trust.add(name.replace(":", "."))
        number = self._object_numbers[id(value)] = len(self.objects)
        self._alive.append(value)
        self.objects.append(None)
        if isinstance(value, torch.jit.ScriptModule):
            raise NotRestorableError(path, "a scripted module, whose code isn't Python's")
        state = _parametrized_state(value) if parametrized else _state(value, path)
        if is_module:
            state = {key: item for key, item in state.items() if not _is_default(key, item)}
        dot = f"{path}." if path else ""
        encoded = {key: self.value(item, f"{dot}{key}") for key, item in state.items()}
        self.objects[number] = {"$class": name, "state": encoded}
        if parametrized:
            self.objects[number]["parametrized"] = parametrized
        return number

    def _name(self, item: Any, path: str) -> str:
        name = importable_name(item)
        if name is None:
            what = f"class {item.__qualname__}" if isinstance(item, type) else repr(item)
            raise NotRestorableError(path, f"{what} can't be found again by its name")
        if not is_safe(item) and not (isinstance(item, type) and issubclass(item, nn.Module)):
            self.required_trust.add(name.dotted)
        return str(name)


def _parts(partial: functools.partial[Any]) -> tuple[Any, ...]:
    return partial.func, list(partial.args), dict(partial.keywords)


def _parametrized(module: nn.Module, path: str) -> list[str]:
    """Return the tensors of a module that parametrizations compute: its class is made for them."""
    if not parametrize.is_parametrized(module):
        return []
    if not takes_parametrizations(type(module).__bases__[0]):
        raise NotRestorableError(path, "a parametrized class with attribute access of its own")
    return list(module._modules["parametrizations"]._modules)  # type: ignore[union-attr]  # it is a ModuleDict


def _parametrized_state(module: nn.Module) -> dict[str, Any]:
    """Return a parametrized module's attributes, which its made-up class refuses to give.

    Left out are hooks of torch's own that only help an old state dict into the new form.
    """
    hooks = OrderedDict(
        (number, hook)
        for number, hook in module._load_state_dict_pre_hooks.items()
        if not is_torchs_own(getattr(hook, "hook", hook))
    )
    return {**vars(module), "_load_state_dict_pre_hooks": hooks}


def _state(value: Any, path: str) -> dict[str, Any]:
    """Return an object's attributes, as its class wants them to be kept."""
    cls = type(value)
    slots = [slot for base in cls.__mro__ for slot in vars(base).get("__slots__", ())]
    if any(
        getattr(cls, how) is not getattr(object, how) for how in ("__reduce__", "__reduce_ex__")
    ):
        raise NotRestorableError(path, f"{cls.__qualname__} is restored by code of its own")
    if slots or not hasattr(value, "__dict__") or not _is_plain_object(cls):
        raise NotRestorableError(path, f"{cls.__qualname__} keeps its state outside __dict__")
    try:
        state = value.__getstate__()
    except Exception as error:
        raise NotRestorableError(path, f"{cls.__qualname__} gives no state: {error}") from error
    state = {} if state is None else state
    if not isinstance(state, dict) or not all(_is_attribute(key) for key in state):
        raise NotRestorableError(path, f"the state of {cls.__qualname__} is no dict of names")
    return state


def _is_attribute(key: object) -> bool:
    return type(key) is str and not key.startswith("$")


def _is_plain_object(cls: type) -> bool:
    """Tell whether all there is to an object is its __dict__: no list, dict or int beneath it."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True


def _is_default(key: str, item: Any) -> bool:
    if key not in DEFAULTS:
        return False
    default = DEFAULTS[key]
    return type(item) is type(default) and not isinstance(item, Tensor) and bool(item == default)


def _is_whole(tensor: Tensor) -> bool:
    """Tell whether a tensor is all of its storage, so that views of it can be found again."""
    try:
        size = tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return False
    return tensor.is_contiguous() and size == tensor.nbytes > 0


def _is_view(tensor: Tensor) -> bool:
    """Tell whether shape, strides and offset say all about where a tensor's elements are."""
    return tensor.layout is torch.strided and not (tensor.is_conj() or tensor.is_neg())


def _check_tensor(tensor: Tensor, path: str) -> None:
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        raise NotRestorableError(path, f"a tensor of type {type(tensor).__qualname__}")


def _plain(form: Any) -> Any:
    """Replace the containers' records by their forms, numbered where they are shared."""
    if isinstance(form, _Shareable):
        inner = _plain(form.form)
        return inner if form.number is None else {"$shared": [form.number, inner]}
    if isinstance(form, dict):
        return {key: _plain(item) for key, item in form.items()}
    if isinstance(form, list):
        return [_plain(item) for item in form]
    return form


def _below(path: str, key: Any) -> str:
    """Return the path of a dict's item; parts of a module go by their plain names."""
    owner, _, attribute = path.rpartition(".")
    if attribute in ("_modules", "_parameters", "_buffers") and type(key) is str:
        return f"{owner}.{key}" if owner else key
    return f"{path}[{key!r}]"


_CONTAINERS: dict[type, str] = {
    list: "$list",
    tuple: "$tuple",
    dict: "$dict",
    OrderedDict: "$ordered",
    set: "$set",
    frozenset: "$frozenset",
}
