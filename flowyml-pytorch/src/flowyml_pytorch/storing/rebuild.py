"""Rebuilds a module from its structure: names are resolved first, then objects are filled.

No constructor of a user's class runs: an object is allocated and given its attributes, the way
unpickling does it, but only for names that `storing.policy` lets through.
"""

from __future__ import annotations

import enum
import functools
import json
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from flowyml.errors import MaterializationError
from flowyml.interfaces import LoadOptions, Saved
from flowyml_pytorch.storing.every_kind import BY_NAME
from flowyml_pytorch.storing.forms import ARRAY_KINDS
from flowyml_pytorch.storing.hooks import count_from
from flowyml_pytorch.storing.kinds import told
from flowyml_pytorch.storing.layout import bytes_of
from flowyml_pytorch.storing.mapped import Tensors
from flowyml_pytorch.storing.policy import (
    Name,
    Resolver,
    Use,
    is_built_from_parts,
    is_quantized_layer,
    is_safe,
    replaces_method,
    runs_code_on_load,
    takes_parametrizations,
    takes_place_in_tensor,
)
from flowyml_pytorch.storing.structure import BUILTINS, DEFAULTS, SCHEMA

FILE = "structure.json"


def read_structure(saved: Saved) -> Mapping[str, Any]:
    """Read ``structure.json``.

    Raises:
        MaterializationError: when it isn't one that this version reads.
    """
    try:
        data = json.loads(saved.files[FILE].read_bytes())
        schema = data["schema"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise MaterializationError(f"{saved.ref}: {FILE} is unfit: {error}") from error
    if schema != SCHEMA:
        raise MaterializationError(
            f"{saved.ref} has a structure of schema {schema!r}; this flowyml-pytorch reads "
            f"{SCHEMA}. Upgrade flowyml-pytorch."
        )
    return data  # type: ignore[no-any-return]  # anything unfit in it shows when it is used


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


class Decoder:
    """Turns forms into values; objects and shared containers are built once."""

    def __init__(
        self,
        saved: Saved,
        data: Mapping[str, Any],
        tensors: Tensors,
        options: LoadOptions,
        keys: Iterable[str],
    ) -> None:
        """Resolve every name before anything is built.

        Args:
            saved: whose structure it is.
            data: what `storing.structure.encode` made.
            tensors: the tensors by number.
            options: what the caller trusts.
            keys: which of its values are going to be decoded; tensors have the attributes that
                they were given in ``root`` alone.

        Raises:
            UntrustedDataError: when they name what isn't trusted.
            MaterializationError: when the structure is unfit, or names what no longer exists.
        """
        self._saved = saved
        self._data = data
        self._tensors = tensors
        self._objects: dict[int, Any] = {}
        self._with_attributes: set[int] = set()
        self._arrays: set[int] = set()
        self._exact = "root" in keys
        self._shared: dict[int, Any] = {}
        main = saved.result.details.get("main")
        resolver = Resolver(
            saved.ref, options.trust, main if isinstance(main, str) else None, options.class_map
        )
        with self._unfit():
            self._records: Any = data["objects"]
            self._entries: Any = data["tensors"]
            resolver.resolve_all(self._names_in(*(data[key] for key in keys)))
        self._names: Mapping[tuple[Name, Use], Any] = resolver.found

    def decode(self, key: str) -> Any:
        """Build one of the values.

        Raises:
            MaterializationError: when the structure is unfit.
        """
        with self._unfit():
            return self.value(self._data[key])

    @contextmanager
    def _unfit(self) -> Iterator[None]:
        try:
            yield
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            OverflowError,
        ) as error:
            raise MaterializationError(
                f"{self._saved.ref}: {FILE} is unfit: {told(error)}"
            ) from error

    def _names_in(self, *forms: Any) -> Iterator[tuple[Name, Use]]:
        """Yield every name that some forms use, and how, in objects that they refer to as well."""
        todo = [(form, False) for form in reversed(forms)]
        met: set[tuple[int, bool]] = set()
        while todo:
            form, called = todo.pop()
            if isinstance(form, list):
                todo += [(item, called) for item in reversed(form)]
            elif isinstance(form, dict):
                if "$class" in form:
                    yield Name.parse(form["$class"]), Use.CLASS
                    if called:
                        yield Name.parse(form["$class"]), Use.CALL
                if "$name" in form:
                    yield Name.parse(form["$name"]), Use.VALUE
                    if called:
                        yield Name.parse(form["$name"]), Use.CALL
                number = form.get("$object")
                if type(number) is int and (number, called) not in met:
                    met.add((number, called))
                    todo.append((self._records[number], called))
                number = form.get("$tensor")
                if self._exact and type(number) is int and (~number, called) not in met:
                    met.add((~number, called))
                    todo.append((self._entries[number].get("attributes"), called))
                todo += reversed([*_parts(form, called)])

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
                return self._names[Name.parse(payload), Use.VALUE]
            case "$slice":
                return slice(*(self.value(part) for part in payload))
            case "$partial":
                function, arguments, keywords = (self.value(part) for part in payload)
                if type(arguments) is not list or type(keywords) is not dict:
                    raise TypeError("a partial has no list or no dict of arguments")
                if isinstance(function, functools.partial):
                    raise TypeError("a partial of a partial, which Python makes one")
                return functools.partial(function, *arguments, **keywords)
            case "$numpy":
                dtype, shape, content, *flags = payload
                if isinstance(content, dict):
                    if content["$tensor"] in self._arrays:
                        raise ValueError("two arrays have the same elements")
                    self._arrays.add(content["$tensor"])
                    content = elements_of_array(self._tensors[content["$tensor"]])
                else:
                    content = bytes.fromhex(content)
                return numpy_array(dtype, shape, content, *flags)
            case "$method":
                return _method(*(self.value(part) for part in payload))
            case "$enum":
                cls, member = self.value(payload[0]), payload[1]
                if not isinstance(cls, enum.EnumMeta) or type(member) is not str:
                    raise TypeError(f"an object of {type(cls).__qualname__} is no enum")
                return cls.__members__[member]
            case "$shared":
                number, inner = payload
                return self._share(number, inner)
            case "$same":
                return self._shared[payload]
            case "$tuple":
                return tuple(self.value(item) for item in payload)
            case "$frozenset":
                met: Counter[int] = Counter()
                return frozenset(self._key(item, met) for item in payload)
            case _ if tag in _EMPTY:
                return self._fill(*self._emptied(tag, payload))
        return _PLAIN[tag](payload)

    def _share(self, number: int, form: Any) -> Any:
        """Build a container whose number may already be used inside it."""
        tag = next(iter(form), "") if isinstance(form, dict) and len(form) == 1 else ""
        container: Any
        if tag in ("$tuple", "$frozenset", "$numpy", "$partial"):
            container = self._shared[number] = self._tagged(tag, form[tag])
            return container
        if isinstance(form, list):
            container = []
        elif tag in _EMPTY:
            container, form = self._emptied(tag, form[tag])
        else:
            container = {}
        self._shared[number] = container
        return self._fill(container, form)

    def _emptied(self, tag: str, form: Any) -> tuple[Any, Any]:
        """Return an empty container, and the form of what belongs into it."""
        if tag == "$defaultdict":
            factory = self.value(form[0])
            if factory is not None and not isinstance(factory, type):
                raise TypeError("the values of a defaultdict are made by no class")
            return defaultdict(factory), form[1]
        if tag == "$state_dict":
            state: OrderedDict[Any, Any] = OrderedDict()
            vars(state)["_metadata"] = self.value(form[0])
            return state, form[1]
        if tag == "$deque":
            return deque(maxlen=form[0]), form[1]
        return _EMPTY[tag](), form

    def _fill(self, container: Any, form: Any) -> Any:
        met: Counter[int] = Counter()
        if isinstance(container, deque):
            return self._fill_deque(container, form)
        if isinstance(container, list):
            container.extend(self.value(item) for item in form)
        elif isinstance(container, set):
            container.update(self._key(item, met) for item in form)
        elif isinstance(form, dict):
            container.update((key, self.value(item)) for key, item in form.items())
        else:
            container.update((self._key(key, met), self.value(item)) for key, item in form)
        return container

    def _fill_deque(self, container: deque[Any], form: Any) -> Any:
        """Fill a deque that holds no other one: Python gives up a chain of them recursively."""
        for item in form:
            value = self.value(item)
            if isinstance(value, deque):
                raise TypeError("a deque holds a deque")
            container.append(value)
        return container

    def _key(self, form: Any, met: Counter[int]) -> Any:
        """Return a value that is going to be hashed, which takes as long as it is large.

        Args:
            form: its form.
            met: how often each hash has occurred: equal ones are compared with each other.
        """
        value = self.value(form)
        todo, count = [value], 0
        while todo:
            item = todo.pop()
            count += 1
            if count > _LARGEST_KEY:
                raise ValueError("a key is too large to be hashed")
            if isinstance(item, (tuple, frozenset)):
                todo += item
            elif isinstance(item, slice):
                todo += [item.start, item.stop, item.step]
        met[hash(value)] += 1
        if met[hash(value)] > _MOST_EQUAL_HASHES:
            raise ValueError("too many keys have one hash")
        return value

    def _tensor(self, number: int) -> Any:
        _check_number(number)
        tensor = self._tensors[number]
        attributes = self._entries[number].get("attributes") if self._exact else None
        if attributes is not None and number not in self._with_attributes:
            self._with_attributes.add(number)
            if any(takes_place_in_tensor(key, item) for key, item in attributes.items()):
                raise TypeError("an attribute takes the place of a tensor's own")
            vars(tensor).update({key: self.value(item) for key, item in attributes.items()})
        return tensor

    def _object(self, number: int) -> Any:
        _check_number(number)
        if number in self._objects:
            return self._objects[number]
        record, built = self._records[number], None
        cls = self._names[Name.parse(record["$class"]), Use.CLASS]
        if not isinstance(cls, type):
            raise TypeError(f"{record['$class']!r} is no class")
        if "kind" in record:
            parts = {key: self.value(item) for key, item in record["state"].items()}
            built = self._objects[number] = BY_NAME[record["kind"]].build(cls, parts)
            return built
        if is_built_from_parts(cls) or issubclass(cls, _ONLY_FROM_PARTS):
            raise TypeError(f"{cls.__qualname__} isn't built of its attributes")
        built = object.__new__(cls)
        self._objects[number] = built
        attributes = object.__getattribute__(built, "__dict__")
        if issubclass(cls, nn.Module):
            attributes.update(vars(nn.Module()))
        state = {key: self.value(item) for key, item in record["state"].items()}
        if isinstance(built, nn.Module):
            _check_state(cls, state)
        if getattr(cls, "__setstate__", None) is nn.RNNBase.__setstate__:
            attributes.update(state)  # its own way loops as often as a number in the state says
            attributes.update(_flat_weights(state))
        elif _sets_state(cls):
            cast("Any", cls).__setstate__(built, state)
        else:
            attributes.update(state)
        for name in _HOOKS if isinstance(built, nn.Module) else ():
            count_from(attributes.get(name, {}))
        if "parametrized" in record:
            _parametrize(built, record["parametrized"])
        return built


_LARGEST_KEY = 10_000
"""Parts of a key or of an item of a set, at most: Python hashes them again and again."""

_MOST_EQUAL_HASHES = 1_000
"""Keys of one hash in a container, at most: their number is squared in the time that they take."""

_ONLY_FROM_PARTS = (
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torch.utils.data.DataLoader,
    torch.amp.GradScaler,
)
"""Classes whose objects have a kind, those of users too."""


def _check_number(number: Any) -> None:
    if type(number) is not int or number < 0:
        raise TypeError(f"{number!r} is no number of an object or tensor")


def _check_state(cls: type, state: Mapping[str, Any]) -> None:
    """Refuse attributes of a module by which torch's own code would call something else."""
    for name, item in state.items():
        if replaces_method(name, item):
            raise TypeError(f"a {cls.__qualname__} has an attribute in place of {name}()")
    for name in (*_HOOKS, "_parameters", "_buffers", "_modules"):
        if type(state.get(name, {})) not in (dict, OrderedDict):
            raise TypeError(f"{name} of a {cls.__qualname__} is no dict")
    if type(state.get("_non_persistent_buffers_set", set())) is not set:
        raise TypeError(f"the buffers of a {cls.__qualname__} are unfit")
    if issubclass(cls, nn.RNNBase):
        names = state.get("_flat_weights_names", [])
        if type(names) is not list or not all(type(name) is str for name in names):
            raise TypeError(f"a {cls.__qualname__} has unfit weights")


def _flat_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what torch keeps of a recurrent layer besides its weights: lists of them, in order."""
    parameters = state.get("_parameters", {})
    names = state.get("_flat_weights_names", [])
    weights = [parameters.get(name, state.get(name)) for name in names]
    if not all(weight is None or isinstance(weight, torch.Tensor) for weight in weights):
        raise TypeError("a weight is no tensor")
    references = [None if weight is None else weakref.ref(weight) for weight in weights]
    return {"_flat_weights": weights, "_flat_weight_refs": references}


def _sets_state(cls: Any) -> bool:
    """Tell whether a class is handed its state: its own code is trusted if it has any."""
    if not hasattr(cls, "__setstate__") or is_quantized_layer(cls):
        return False
    if not issubclass(cls, nn.Module):
        return True
    return runs_code_on_load(cls) or is_safe(cls)


def elements_of_array(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of an array. Raises TypeError for what was written as something else."""
    if type(tensor) is not torch.Tensor or tensor.dtype is not torch.uint8 or tensor.dim() != 1:
        raise TypeError("the bytes of an array are something else")
    tensor = tensor.cpu()
    if not tensor.is_contiguous() or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise TypeError("the bytes of an array aren't all there")
    return bytes_of(tensor)


def _parts(form: dict[str, Any], called: bool) -> Iterator[tuple[Any, bool]]:
    """Yield what is in a form, and whether it is called on loading."""
    kind = BY_NAME.get(str(form.get("kind"))) if "$class" in form else None
    for key, item in form.items():
        if key == "state" and kind is not None and isinstance(item, dict):
            yield from ((part, called or name in kind.calls) for name, part in item.items())
        else:
            yield item, called


_HOOKS = tuple(name for name in DEFAULTS if name.endswith("_hooks"))


def _method(owner: Any, function: Any) -> types.MethodType:
    """Bind a method to its object. Raises TypeError when it isn't a method of its class."""
    if not isinstance(function, (types.FunctionType, types.BuiltinFunctionType)):
        raise TypeError("a method is made of a function")
    found: Any = getattr(type(owner), function.__name__, None)
    if found is None or found is not function:
        raise TypeError(f"a {type(owner).__qualname__} has no method {function.__name__}")
    return types.MethodType(function, owner)


def _parametrize(module: Any, names: list[str]) -> None:
    """Give a module the class that computes the named tensors, as torch does."""
    if not takes_parametrizations(type(module)):
        raise TypeError(f"{type(module).__qualname__} can't be parametrized")
    modules = vars(module)["_modules"]
    computed = modules["parametrizations"] if type(modules) is dict else None
    if not isinstance(computed, nn.ModuleDict) or type(names) is not list:
        raise TypeError("a parametrized module has no parametrizations")
    parametrize._inject_new_class(module)
    for name in names:
        if type(name) is not str or name.startswith("__"):
            raise TypeError("a parametrized tensor has an unfit name")
        if type(computed._modules.get(name)) is not parametrize.ParametrizationList:
            raise KeyError(name)
        if hasattr(type(module), name):
            raise TypeError(f"{name} is no tensor of a {type(module).__qualname__}")
        parametrize._inject_property(module, name)


def numpy_array(dtype: str, shape: list[int] | None, content: Any, flags: str = "") -> Any:
    """Return a NumPy array, or a number without a shape. Raises ValueError for unfit parts."""
    import numpy

    if numpy.dtype(dtype).kind not in ARRAY_KINDS:
        raise TypeError(f"{dtype!r} is no type of numbers")
    array = numpy.frombuffer(bytearray(content), dtype=dtype)
    if shape is None:
        return array[0]
    array = array.reshape(shape, order="F" if "F" in flags else "C")
    array.flags.writeable = "R" not in flags
    return array


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
    "$defaultdict": defaultdict,
    "$deque": deque,
    "$state_dict": OrderedDict,
}

_PLAIN: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$complex": complex,
    "$bytes": bytes.fromhex,
    "$ellipsis": lambda _: Ellipsis,
    "$default_generator": lambda _: torch.default_generator,
    "$range": lambda parts: range(*parts),
    "$path": Path,
    "$size": torch.Size,
    "$dtype": _torch_value(torch.dtype),
    "$qscheme": _torch_value(torch.qscheme),
    "$builtin": BUILTINS.__getitem__,
    "$device": torch.device,
    "$layout": _torch_value(torch.layout),
    "$memory_format": _torch_value(torch.memory_format),
}
