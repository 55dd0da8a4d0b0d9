"""Objects as JSON: every attribute of every module in them, tensors by reference.

It takes the place of a pickle. Only a fixed set of value types has a form here; what has none is
recorded as the reason why a module can't be restored exactly. The forms are described in
``docs/on-disk.md``; `storing.rebuild` reads them.
"""

from __future__ import annotations

import enum
import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Container, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowyml_pytorch.describing.classes import author_class
from flowyml_pytorch.describing.functional import is_torchs_own
from flowyml_pytorch.storing.every_kind import kind_of
from flowyml_pytorch.storing.forms import array_parts, is_array, plain_form
from flowyml_pytorch.storing.hooks import HookNumber, dicts_of_hooks
from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.storing.layout import KINDS, UNINITIALIZED
from flowyml_pytorch.storing.policy import (
    Use,
    importable_name,
    is_quantized_layer,
    needs_no_trust,
    replaces_method,
    takes_parametrizations,
    takes_place_in_tensor,
)
from flowyml_pytorch.storing.sharded import (
    is_sharded,
    model_in,
    unsharded,
    unsharded_state,
)

SCHEMA = 1
"""Version of the structure's layout."""

BUILTINS = {cls.__name__: cls for cls in (bool, int, float, str, list, tuple, dict, set)}
"""Types that may stand as values, such as what a defaultdict makes."""

DEFAULTS: Mapping[str, Any] = types.MappingProxyType(vars(nn.Module()))
"""What every module starts with; attributes that equal it are not written."""


@attrs.define
class Structure:
    """What `encode` found.

    Attributes:
        data: the JSON data, which says of ``tensors`` nothing but their numbers.
        tensors: the tensors, by number.
        attributes: forms of the attributes that tensors have been given, by number.
        required_trust: dotted names that loading needs beyond imported module classes.
    """

    data: dict[str, Any]
    tensors: list[Tensor]
    attributes: dict[int, Any]
    required_trust: tuple[str, ...]


def encode(whole: Callable[[Tensor], Tensor] = unsharded, /, **values: Any) -> Structure:
    """Encode values that may have parts in common, such as a module and its state dict.

    Args:
        whole: returns a tensor that may be sharded whole, or refuses it.
        **values: the values, by the names that they get in the structure.

    Raises:
        NotRestorableError: when a part can't be restored exactly.
        MaterializationError: when a tensor is sharded that can't be gathered.
    """
    encoder = _Encoder(whole)
    forms = {key: encoder.whole(value, key) for key, value in values.items()}
    plain = _Plain(encoder.hooks)
    data = {
        "schema": SCHEMA,
        **{key: plain(form) for key, form in forms.items()},
        "objects": [plain(item) for item in encoder.objects],
    }
    attributes = {number: plain(form) for number, form in encoder.attributes.items()}
    return Structure(data, encoder.tensors, attributes, tuple(sorted(encoder.required_trust)))


@attrs.define
class _Shareable:
    """A mutable container's form; it gets a number when it is met a second time."""

    form: Any
    original: Any
    number: int | None = None


@attrs.frozen
class _Key:
    """A number that is a key of a dict; whether the dict is one of hooks may show only later."""

    number: int
    owner: int


class _Encoder:
    def __init__(self, whole: Callable[[Tensor], Tensor] = unsharded) -> None:
        self._whole = whole
        self.objects: list[Any] = []
        self.tensors: list[Tensor] = []
        self.attributes: dict[int, Any] = {}
        self._exact = False
        self.required_trust: set[str] = set()
        self.hooks: set[int] = set()  # dicts whose keys number hooks
        self._object_numbers: dict[int, int] = {}
        self._tensor_numbers: dict[int, int] = {}
        self._containers: dict[int, _Shareable] = {}
        self._shared = 0
        self._called = False
        self._within = 0  # objects: a part of one is torch's own generator, otherwise a state is
        self._open: set[int] = set()  # objects that are built at once, of parts that are there
        self._alive: list[Any] = []  # keeps ids unique: state may be made on the fly

    def whole(self, value: Any, key: str) -> Any:
        """Return the form of a value by itself; in a state dict, tensors are elements alone.

        It can be decoded without the others: it has its own containers, if equal ones.
        """
        self._exact = key == "root"
        self._alive.append(self._containers)
        self._containers = {}
        return self.value(value, "")

    def value(self, value: Any, path: str) -> Any:
        """Return the form of one value."""
        kind = type(value)
        if kind is HookNumber:
            return value
        form = plain_form(value)
        if form is not NotImplemented:
            return form
        if value is torch.default_generator and self._within:
            return {"$default_generator": None}
        if isinstance(value, Tensor):
            return {"$tensor": self._tensor(value, path)}
        if kind in _CONTAINERS:
            return self._container(value, kind, path)
        if kind is type and value in BUILTINS.values():
            return {"$builtin": value.__name__}
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return {"$name": self._name(value, path)}
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return {"$slice": [self.value(part, path) for part in parts]}
        if kind is functools.partial:
            return self._partial(value, path)
        if isinstance(value, enum.Enum) and value.name in kind.__members__:
            return {"$enum": [{"$name": self._name(kind, path)}, value.name]}
        if is_array(value):
            return self._array(value, path)
        if kind is types.MethodType:
            return {"$method": self._method(value, path)}
        return {"$object": self._object(value, path)}

    def _again(self, value: Any) -> Any:
        """Return the form of what was met before, or None."""
        known = self._containers.get(id(value))
        if known is None:
            return None
        if known.number is None:
            self._shared += 1
            known.number = self._shared
        return {"$same": known.number}

    def _array(self, value: Any, path: str) -> Any:
        known = self._again(value)
        if known is not None:
            return known
        dtype, shape, flags, elements = array_parts(value)
        parts = [
            dtype,
            shape,
            {"$tensor": self._tensor(elements, path)},
            *([flags] if flags else []),
        ]
        made = _Shareable({"$numpy": parts}, value)
        return self._containers.setdefault(id(value), made)

    def _partial(self, value: functools.partial[Any], path: str) -> Any:
        known = self._again(value)
        if known is not None:
            return known
        if vars(value):
            raise NotRestorableError(path, "a partial that was given attributes")
        parts = (value.func, list(value.args), dict(value.keywords))
        form = {"$partial": [self.value(part, path) for part in parts]}
        return self._containers.setdefault(id(value), _Shareable(form, value))

    def _container(self, value: Any, kind: type, path: str) -> Any:
        known = self._again(value)
        if known is not None:
            return known
        if kind in (tuple, frozenset):  # what they hold is there before them
            items = self._items(value, kind, path)
            if id(value) in self._containers:
                raise NotRestorableError(path, "a tuple that holds itself")
            form = {_CONTAINERS[kind]: items}
            return (
                self._containers.setdefault(id(value), _Shareable(form, value)) if items else form
            )
        shareable = self._containers[id(value)] = _Shareable(None, value)
        items = self._items(value, kind, path)
        shareable.form = items if kind is list else {_CONTAINERS[kind]: items}
        given = dict(vars(value)) if kind is OrderedDict else {}
        metadata = given.pop("_metadata", None)
        if given:
            raise NotRestorableError(path, f"an OrderedDict with an attribute {next(iter(given))}")
        if metadata is not None:  # a state dict's versions of the modules
            shareable.form = {"$state_dict": [self.value(metadata, path), items]}
        if kind is dict and all(type(k) is str and not k.startswith("$") for k in value):
            shareable.form = dict(items)
        if kind is defaultdict and not isinstance(value.default_factory, type | None):
            raise NotRestorableError(path, "a defaultdict whose values are made by no class")
        if kind is deque and any(type(item) is deque for item in value):
            raise NotRestorableError(path, "a deque that holds a deque")
        if kind in (defaultdict, deque):
            maker = value.default_factory if kind is defaultdict else value.maxlen
            shareable.form = {_CONTAINERS[kind]: [self.value(maker, path), items]}
        return shareable

    def _items(self, value: Any, kind: type, path: str) -> list[Any]:
        if issubclass(kind, dict):
            return [
                [self._key(key, value, path), self.value(item, _below(path, key))]
                for key, item in value.items()
            ]
        if kind in (set, frozenset):  # sets have no order; one set, one text
            value = sorted(
                value, key=lambda item: repr(_Plain()(_Encoder(self._whole).value(item, path)))
            )
        return [self.value(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _key(self, key: Any, owner: Any, path: str) -> Any:
        form = self.value(key, path)
        return _Key(form, id(owner)) if type(form) is int else form

    def _tensor(self, tensor: Tensor, path: str) -> int:
        number = self._tensor_numbers.get(id(tensor))
        if number is None:
            unknown = type(tensor) not in (*KINDS, *UNINITIALIZED) or tensor.is_nested
            if unknown and not is_sharded(tensor):
                raise NotRestorableError(path, f"a tensor of type {type(tensor).__qualname__}")
            self._alive.append(tensor)
            number = self._tensor_numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(self._whole(tensor))
            attributes = vars(tensor) if self._exact and type(tensor) in KINDS else {}
            given = attributes.items()
            own = next((name for name, item in given if takes_place_in_tensor(name, item)), None)
            if own is not None:
                raise NotRestorableError(path, f"an attribute in place of a tensor's own {own}")
            if attributes:
                self.attributes[number] = {
                    name: self.value(item, f"{path}.{name}") for name, item in attributes.items()
                }
        return number

    def _method(self, method: types.MethodType, path: str) -> list[Any]:
        function, owner = method.__func__, method.__self__
        if getattr(type(owner), getattr(function, "__name__", ""), None) is not function:
            raise NotRestorableError(path, f"{method!r} can't be found again by its name")
        return [self.value(owner, path), {"$name": self._name(function, path)}]

    def _object(self, value: Any, path: str) -> int:
        if isinstance(value, nn.Module):
            value = model_in(value)
        number = self._object_numbers.get(id(value))
        if number is not None:
            if number in self._open:
                what = type(value).__qualname__
                raise NotRestorableError(path, f"it refers back to the {what} that it is part of")
            return number
        kind = kind_of(value)
        is_module = isinstance(value, nn.Module)
        parametrized = _parametrized(value, path) if is_module else []
        cls = _class_of(value, parametrized)
        name = self._name(cls, path, Use.CLASS)
        number = self._object_numbers[id(value)] = len(self.objects)
        self._alive.append(value)
        self.objects.append(None)
        if isinstance(value, torch.jit.ScriptModule):
            raise NotRestorableError(path, "a scripted module, whose code isn't Python's")
        record: dict[str, Any] = {"$class": name}
        if kind is not None:
            record["kind"] = kind.name
            self._open.add(number)
            state = _parts(kind, value, path)
        elif is_module:
            state = _parametrized_state(value) if parametrized else _state(value, path)
            state = unsharded_state(state)
            ordered = {key: state[key] for key in DEFAULTS if key in state} | state
            state = {key: item for key, item in ordered.items() if not _is_default(key, item)}
            replaced = next(
                (key for key, item in state.items() if replaces_method(key, item)), None
            )
            if replaced is not None:
                raise NotRestorableError(path, f"an attribute in place of the method {replaced}")
        else:
            state = _state(value, path)
        dot = f"{path}." if path else ""
        self._alive.append(state)
        self.hooks.update(map(id, dicts_of_hooks(value, state)))
        self._within += 1
        record["state"] = {
            key: self._part(item, f"{dot}{key}", kind is not None and key in kind.calls)
            for key, item in state.items()
        }
        self._within -= 1
        if parametrized:
            record["parametrized"] = parametrized
        self._open.discard(number)
        self.objects[number] = record
        return number

    def _part(self, item: Any, path: str, called: bool) -> Any:
        """Return the form of a part; what is called on loading has to be trusted, all of it."""
        before, self._called = self._called, self._called or called
        try:
            return self.value(item, path)
        finally:
            self._called = before

    def _name(self, item: Any, path: str, use: Use = Use.VALUE) -> str:
        name = importable_name(item)
        if name is None:
            kind = "class " if isinstance(item, type) else "function "
            what = kind + item.__qualname__ if hasattr(item, "__qualname__") else repr(item)
            raise NotRestorableError(path, f"{what} can't be found again by its name")
        if not needs_no_trust(item, Use.CALL if self._called else use):
            self.required_trust.add(name.dotted)
        return str(name)


def _class_of(value: Any, parametrized: list[str]) -> type:
    """Return the class to restore, for one that torch derived from it."""
    cls = type(value).__bases__[0] if parametrized else type(value)
    return author_class(cls) if issubclass(cls, nn.Module) else cls


def _parts(kind: Kind, value: Any, path: str) -> dict[str, Any]:
    try:
        parts = kind.parts(value)
    except NotRestorableError as error:
        below = f"{path}.{error.path}" if path and error.path else path or error.path
        raise NotRestorableError(below, error.reason) from error
    # An optimizer that came back has its attributes in another order: torch sets some of them.
    return dict(sorted(parts.items()) if isinstance(value, torch.optim.Optimizer) else parts)


def _parametrized(module: nn.Module, path: str) -> list[str]:
    """Return the tensors of a module that parametrizations compute: its class is made for them."""
    if "parametrizations" not in vars(module).get("_modules", {}):
        return []
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
    if is_quantized_layer(cls):  # its own way to be pickled leads through code of torch's
        return dict(vars(value))
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


class _Plain:
    """Replaces the records of containers by their forms, numbered where they are shared.

    Hooks are counted anew in the order in which they are met: in a process of their own they had
    any numbers.
    """

    def __init__(self, hooks: Container[int] = ()) -> None:
        self._hooks = hooks
        self._numbers: dict[int, int] = {}

    def __call__(self, form: Any) -> Any:
        kind = type(form)
        if kind is dict:
            return {key: self(item) for key, item in form.items()}
        if kind is list:
            return [self(item) for item in form]
        if kind is _Shareable:
            inner = self(form.form)
            return inner if form.number is None else {"$shared": [form.number, inner]}
        if kind is HookNumber or (kind is _Key and form.owner in self._hooks):
            return self._numbers.setdefault(form.number, len(self._numbers))
        return form.number if kind is _Key else form


def _below(path: str, key: Any) -> str:
    """Return the path of a dict's item; parts of a module go by their plain names."""
    owner, _, attribute = path.rpartition(".")
    if attribute in ("_modules", "_parameters", "_buffers") and type(key) is str:
        return f"{owner}.{key}" if owner else key
    told = f"tensor of shape {[*key.shape]}" if isinstance(key, Tensor) else repr(key)
    return f"{path}[{told}]"


_CONTAINERS: dict[type, str] = {
    list: "$list",
    tuple: "$tuple",
    dict: "$dict",
    OrderedDict: "$ordered",
    defaultdict: "$defaultdict",
    deque: "$deque",
    set: "$set",
    frozenset: "$frozenset",
}
