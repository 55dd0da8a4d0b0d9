"""Functional operations that a module's ``forward`` calls, read from its code; nothing is run.

A chain such as ``torch.relu`` or ``F.relu`` is followed through the globals and closure of the
function, and the object at its end is compared with torch's own. What can't be known that way,
such as a method of a tensor, isn't guessed. Methods of the user's classes that ``forward`` calls
on ``self`` are read in their place; torch's own layers are not opened.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import nn

# fmt: off
_NOT_OPERATIONS = frozenset(
    {
        "arange", "as_tensor", "asarray", "assert_int_or_pair", "boolean_dispatch",
        "can_cast", "cudnn_is_acceptable", "empty", "empty_like", "empty_permuted",
        "empty_quantized", "empty_strided", "eye", "from_file", "from_numpy", "frombuffer",
        "full", "full_like", "get_device", "handle_torch_function", "linspace", "logspace",
        "numel", "ones", "ones_like", "overload", "promote_types", "rand", "rand_like",
        "randint", "randint_like", "randn", "randn_like", "randperm", "range",
        "result_type", "scalar_tensor", "sym_constrain_range",
        "sym_constrain_range_for_size", "tensor", "zeros", "zeros_like",
    }
)
# fmt: on
"""Functions of torch that compute nothing from tensors; nor do those that ask: is_..., has_..."""

_MODULES = {
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
}
"""Functions whose module has an abbreviated name; the others have the same name, spelled so."""


@attrs.frozen
class Call:
    """A function of torch, or an attribute of ``self`` that may hold one."""

    operation: str | None = None
    attribute: str | None = None


_calls: WeakKeyDictionary[type, tuple[Call, ...]] = WeakKeyDictionary()


def operations(module: nn.Module) -> list[str]:
    """Return the functions of torch that a module's ``forward`` calls, in order, each once.

    Names are those of the functions, such as ``"relu"``; in-place variants go without the ``_``.
    """
    return reached(calls_of(type(module)), module)


def reached(calls: Iterable[Call], module: nn.Module) -> list[str]:
    """Return the functions of torch that calls reach in a module, in order, each once."""
    names = (operation_of(call, module) for call in calls)
    return list(dict.fromkeys(name for name in names if name is not None))


def operations_of_graph(module: Any) -> list[str]:
    """Return the functions of torch that a traced module's graph calls, in order, each once."""
    targets = (node.target for node in module.graph.nodes if node.op == "call_function")
    return list(dict.fromkeys(name for item in targets if (name := name_of(item)) is not None))


def operation_of(call: Call, module: nn.Module) -> str | None:
    """Return the name of the function that a call reaches in a module, if it is one of torch's."""
    if call.attribute is None:
        return call.operation
    return name_of(vars(module).get(call.attribute))


def calls_of(cls: type) -> tuple[Call, ...]:
    """Read a class's ``forward``, once per class and process."""
    calls = _calls.get(cls)
    if calls is None:
        own = is_torchs_own(cls)
        try:
            calls = () if own else tuple(dict.fromkeys(_read(cls, "forward", set())))
        except Exception:  # descriptors, metaclasses and decorators of a user's may raise anything
            calls = ()
        _calls[cls] = calls
    return calls


@functools.cache
def module_name(operation: str) -> str | None:
    """Return the module class that does what a function does: ``relu`` → ``ReLU``, or None."""
    return _MODULES.get(operation) or _module_names().get(operation.replace("_", ""))


def is_torchs_own(item: Any) -> bool:
    """Tell whether a class or function is one of torch's."""
    module = getattr(item, "__module__", None) or ""
    return module == "torch" or module.startswith("torch.")


def _read(cls: type, method: str, seen: set[Any]) -> Iterator[Call]:
    """Yield what a method calls; methods of ``self`` are read where they are called."""
    function = inspect.unwrap(getattr(cls, method, None))  # type: ignore[arg-type]  # takes any object
    if not isinstance(function, types.FunctionType) or function in seen or is_torchs_own(function):
        return
    seen.add(function)
    for chain in _chains(function.__code__, _this(function.__code__)):
        match chain:
            case ["self", str(attribute), *_]:
                held = getattr(cls, attribute, None)
                if name_of(held) is not None:
                    yield Call(operation=name_of(held))
                elif isinstance(held, types.FunctionType):
                    yield from _read(cls, attribute, seen)
                else:
                    yield Call(attribute=attribute)
            case ["super", str(attribute), *_]:
                parent = _next_in_line(cls, function, attribute)
                if parent is not None:
                    yield from _read(parent, attribute, seen)
            case [str(), *_]:
                name = name_of(_resolved(function, chain[1:]))
                if name is not None:
                    yield Call(operation=name)


def _next_in_line(cls: type, function: types.FunctionType, attribute: str) -> type | None:
    """Return the class whose method ``super()`` in a function means, for an object of `cls`."""
    line = cls.__mro__
    for index, owner in enumerate(line):
        if any(inspect.unwrap(item) is function for item in vars(owner).values() if callable(item)):
            return next((base for base in line[index + 1 :] if attribute in vars(base)), None)
    return None


def _this(code: types.CodeType) -> str | None:
    return code.co_varnames[0] if code.co_argcount else None


def _chains(code: types.CodeType, this: str | None) -> Iterator[list[str]]:
    """Yield every chain of attribute loads: its root (``self``, ``super`` or ``name``) first."""
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain.append(value)
            continue
        if name == "LOAD_SUPER_ATTR":
            yield ["super", value]
            chain = []
            continue
        if chain == ["name", "super"] and name in _CALLING:
            chain = ["super"]
            continue
        if chain == ["super"] and name in _CALLING:
            continue
        if len(chain) > 1:
            yield chain
        chain = _root(name, value, this)
        if isinstance(value, types.CodeType):
            yield from _chains(value, this)
    if len(chain) > 1:
        yield chain


_CALLING = ("PRECALL", "CALL", "CACHE", "COPY_FREE_VARS")


def _root(opname: str, value: Any, this: str | None) -> list[str]:
    """Return the beginning of a chain, or nothing when the instruction begins none."""
    if opname.startswith("LOAD_FAST"):  # newer interpreters load two at once; the last is on top
        last = value[-1] if isinstance(value, tuple) else value
        return ["self"] if last == this else []
    if opname in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
        return ["self"] if value == this else ["name", value]
    if opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        return ["name", value]
    return []


def _resolved(function: types.FunctionType, path: list[str]) -> Any:
    """Follow a chain from a function's globals or closure through modules only."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    name, *rest = path
    try:
        item = cells[name].cell_contents if name in cells else function.__globals__.get(name)
    except ValueError:  # an empty cell
        return None
    for attribute in rest:
        if not isinstance(item, types.ModuleType):
            return item  # what follows is an attribute of a result or of a function
        item = vars(item).get(attribute)
    return item


def name_of(item: Any) -> str | None:
    """Return the name of one of torch's functions on tensors, or None for anything else."""
    path = path_of(item.func if isinstance(item, functools.partial) else item)
    return None if path is None else path.rpartition(":")[2].rstrip("_")


def is_operation(name: str) -> bool:
    """Tell whether a name is that of one of torch's functions on tensors."""
    return name in _operation_names()


@functools.cache
def _operation_names() -> frozenset[str]:
    return frozenset(path.rpartition(":")[2].rstrip("_") for path in _paths().values())


def path_of(item: Any) -> str | None:
    """Return where one of torch's functions on tensors is found, ``torch:relu``, or None."""
    return _paths().get(id(item)) if callable(item) else None


@functools.cache
def _paths() -> dict[int, str]:
    """Map the identity of each of torch's functions on tensors to its module and name."""
    native = {name: vars(torch).get(name) for name in dir(torch._C._VariableFunctions)}
    modules = (
        torch.functional,
        torch.special,
        torch.fft,
        torch.linalg,
        torch._C._nn,
        nn.functional,
    )
    found: dict[int, str] = {}
    for module, items in (("torch", native), *((m.__name__, vars(m)) for m in modules)):
        for name, item in items.items():
            if callable(item) and not isinstance(item, type) and _is_operation(name, item):
                found[id(item)] = f"{module}:{name}"
    return found


def _is_operation(name: str, item: Any) -> bool:
    if name.startswith(("_", "is_", "has_")) or name in _NOT_OPERATIONS:
        return False
    return _belongs_to_torch(item)


def _belongs_to_torch(item: Any) -> bool:
    """Tell whether a function belongs to torch; builtins of its extension name no module."""
    return isinstance(item, types.BuiltinFunctionType) or is_torchs_own(item)


@functools.cache
def _module_names() -> dict[str, str]:
    layers = {
        name
        for name, item in vars(nn).items()
        if isinstance(item, type) and issubclass(item, nn.Module)
    }
    losses = {name.removesuffix("Loss").lower(): name for name in layers if name.endswith("Loss")}
    return losses | {name.lower(): name for name in layers}
