"""States of optimizers, schedulers, scalers and generators, put into others that the caller built.

torch's own ``load_state_dict`` checks little: momentum of another shape, or the state of another
class of optimizer, is accepted and fails, or trains wrongly, later. Here everything that doesn't
fit is found before anything is changed.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import LBFGS, Adafactor, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flowyml.errors import MaterializationError, UnsupportedObjectError
from flowyml.properties import type_name
from flowyml_pytorch.storing.kinds import NotRestorableError
from flowyml_pytorch.storing.layout import KINDS as TENSORS

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_DICTS = (dict, OrderedDict, defaultdict, Counter)
_SEQUENCES = (list, tuple, set)


_DEEPEST = 12
"""Levels of a state: torch's have few, and what is shared at each level would double the work."""


def _below(path: str, key: Any) -> str:
    return f"{path}[{key!r}]" if type(key) in (str, int) else f"{path}[...]"


def state_of(obj: Any) -> dict[str, Any]:
    """Return what `load_into` takes: ``obj.state_dict()``, as data without any class of its own.

    The tensors in it are those that the object holds.

    Raises:
        NotRestorableError: when it holds more than tensors, numbers, text and plain containers.
    """
    if isinstance(obj, torch.Generator):
        return {"device": str(obj.device), "state": obj.get_state()}
    try:
        state = obj.state_dict()
    except Exception as error:  # hooks, and functions of the user's that it asks for their state
        raise NotRestorableError("", f"its state_dict() failed: {error!r}") from error
    plain: dict[str, Any] = _plain(state, "")
    return plain


def _plain(value: Any, path: str, above: tuple[int, ...] = ()) -> Any:
    kind = type(value)
    if len(above) > _DEEPEST:
        raise NotRestorableError(path, "it is nested too deeply")
    above = (*above, id(value))
    if kind in _PLAIN or kind in TENSORS:
        return value
    if kind in _DICTS:
        return {_plain(k, path, above): _plain(v, _below(path, k), above) for k, v in value.items()}
    if kind in _SEQUENCES:
        return kind(_plain(item, f"{path}[{index}]", above) for index, item in enumerate(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic) and type(value.item()) in _PLAIN:
        return value.item()
    raise NotRestorableError(path, f"its state holds a {type_name(value)}, which is no plain data")


def load_into(obj: Any, state: Any, ref: str) -> None:
    """Put a state into an optimizer, a scheduler, a gradient scaler or a generator.

    Args:
        obj: what to fill. Tensors of the state become its own.
        state: what `state_of` returned.
        ref: whose state it is, for messages.

    Raises:
        UnsupportedObjectError: when `obj` is none of them.
        MaterializationError: listing everything that doesn't fit, before anything is changed; or
            when code of the user's that takes part in loading fails.
    """
    try:
        state = _plain(state, "")
    except NotRestorableError as error:
        raise MaterializationError(f"{ref} holds a state that isn't plain: {error}") from error
    found = next((pair for kind, pair in _HOW.items() if isinstance(obj, kind)), None)
    if found is None:
        raise UnsupportedObjectError(
            f"into= takes an optimizer, a learning rate scheduler, a gradient scaler or a "
            f"generator for {ref}; got a {type_name(obj)}."
        )
    if not isinstance(state, dict):
        raise MaterializationError(f"{ref} holds a {type_name(state)}, and no state to load.")
    _, load = found
    told = problems_of(obj, state)
    if told:
        raise MaterializationError(
            f"{ref} doesn't fit into the {type_name(obj)} that into= holds, and nothing was "
            f"changed. {'; '.join(told)}."
        )
    try:
        load(obj, state)
    except Exception as error:  # hooks and overridden methods of the user's may raise anything
        raise MaterializationError(
            f"{ref} can't be loaded into the {type_name(obj)} that into= holds: {first_line(error)}"
        ) from error


def is_known(obj: Any) -> bool:
    """Tell whether an object is an optimizer, a scheduler, a gradient scaler or a generator."""
    return isinstance(obj, tuple(_HOW))


def problems_of(obj: Any, state: Any) -> list[str]:
    """Return what of a state doesn't fit into an object that `is_known`; nothing is changed."""
    problems = next(pair[0] for kind, pair in _HOW.items() if isinstance(obj, kind))
    try:
        return list(problems(obj, state))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        return [f"it isn't the state of a {type_name(obj)} ({error!r})"]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; torch adds a trace of its own in C++."""
    return (str(error).splitlines() or [""])[0]


def _key_problems(
    saved: Mapping[Any, Any], own: Mapping[Any, Any], where: str = "", optional: Any = ()
) -> Iterator[str]:
    lacking = [repr(key) for key in own if key not in saved and key not in optional]
    unknown = [repr(key) for key in saved if key not in own and key not in optional]
    if lacking:
        yield f"{where}the saved state lacks {', '.join(lacking)}"
    if unknown:
        yield f"{where}into= has no {', '.join(unknown)}"


def _optimizer_problems(optimizer: Optimizer, state: Mapping[str, Any]) -> Iterator[str]:
    yield from _key_problems(state, optimizer.state_dict())
    converts = optimizer._optimizer_load_state_dict_pre_hooks
    if converts or type(optimizer).load_state_dict is not Optimizer.load_state_dict:
        return  # what the user's own code makes of the state can't be known
    if not {"state", "param_groups"} <= state.keys():
        return
    groups, own_groups = state["param_groups"], optimizer.param_groups
    if len(groups) != len(own_groups):
        yield f"parameter groups: saved {len(groups)}, into= has {len(own_groups)}"
        return
    params: dict[Any, Tensor] = {}
    for number, (group, own) in enumerate(zip(groups, own_groups, strict=True)):
        yield from _group_problems(optimizer, group, own, f"parameter group {number}: ")
        params.update(zip(group["params"], own["params"], strict=False))
    known = {number for group in groups for number in group["params"]}
    for key, values in state["state"].items():
        if key in params:
            yield from _param_problems(optimizer, key, values, params[key])
        elif isinstance(key, int) and key not in known:
            yield f"state[{key}] belongs to none of the parameters"


_OF_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum")
"""Options that schedulers add to a parameter group."""


def _group_problems(
    optimizer: Optimizer, group: Mapping[str, Any], own: Mapping[str, Any], where: str
) -> Iterator[str]:
    if len(group["params"]) != len(own["params"]):
        yield f"{where}saved {len(group['params'])} parameters, into= has {len(own['params'])}"
    waiting = [repr(key) for key in _OF_SCHEDULERS if key in own and key not in group]
    if waiting:
        yield (
            f"{where}{', '.join(waiting)} belongs to a scheduler, and the saved state is without "
            f"one: make the scheduler after loading"
        )
    optional = (*_OF_SCHEDULERS, "param_names")
    yield from _key_problems(_completed(optimizer, group), own, where, optional)
    names, own_names = group.get("param_names", []), own.get("param_names", [])
    if names != own_names and sorted(names) == sorted(own_names):
        yield f"{where}the parameters were saved in another order: {', '.join(names)}"


def _completed(optimizer: Optimizer, group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a parameter group with the options that torch adds to those of older versions."""
    completed = {**group, "params": []}
    scratch = object.__new__(type(optimizer))
    set_state(scratch, {"defaults": {}, "state": {}, "param_groups": [completed]})
    return completed


def set_state(optimizer: Any, attributes: dict[str, Any]) -> None:
    """Set an optimizer's attributes with the ``__setstate__`` that torch gave its class."""
    owner: Any = next(
        base
        for base in type(optimizer).__mro__
        if "__setstate__" in vars(base) and f"{base.__module__}.".startswith("torch.optim.")
    )
    owner.__setstate__(optimizer, attributes)


def _param_problems(
    optimizer: Optimizer, key: Any, values: Mapping[Any, Any], param: Tensor
) -> Iterator[str]:
    for name, value in values.items():
        held = value if isinstance(value, list) else [value]
        unfit = [each for each in held if not _fits(optimizer, param, name, each)]
        if unfit:
            yield (
                f"state[{key}][{name!r}] has shape {list(unfit[0].shape)}, the parameter in "
                f"into= {list(param.shape)}"
            )


_SCALARS = ("step", "eta", "mu", "mu_product")
_FACTORED = {"row_var": -1, "col_var": -2}


def _fits(optimizer: Optimizer, param: Tensor, name: str, value: Any) -> bool:
    """Tell whether a value can be an optimizer's state for a parameter, as far as shapes tell."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return True
    shape = list(param.shape)
    if isinstance(optimizer, LBFGS):  # it has one state, for all parameters in one row
        shape = [sum(p.numel() * (1 + p.is_complex()) for p in optimizer.param_groups[0]["params"])]
    elif isinstance(optimizer, Adafactor) and name in _FACTORED and len(shape) > 1:
        shape[_FACTORED[name]] = 1
    if list(value.shape) == shape or (value.numel() == 1 and name in _SCALARS):
        return True
    if f"{type(optimizer).__module__}.".startswith("torch.optim."):
        return False
    own = optimizer.state.get(param, {}).get(name)  # the state of other classes may be anything
    return not (isinstance(own, Tensor) and own.shape == param.shape)


_PER_GROUP = ("base_lrs", "_last_lr", "max_lrs", "min_lrs", "base_momentums", "max_momentums")
_FUNCTIONS = ("lr_lambdas", "_scale_fn_custom")
_PASSING = ("_is_initial", "_get_lr_called_within_step")


def _scheduler_problems(
    scheduler: LRScheduler, state: Mapping[str, Any], where: str = ""
) -> Iterator[str]:
    own = scheduler.state_dict()
    yield from _key_problems(state, own, where, _PASSING)
    for key in [key for key in own if key in state]:
        saved, held = state[key], own[key]
        if key in (*_PER_GROUP, "lr_lambdas", "_schedulers") and len(saved) != len(held):
            yield f"{where}{key} has {len(saved)} values, in into= {len(held)}"
        elif key in _FUNCTIONS and _has_state(saved) != _has_state(held):
            yield f"{where}{key} holds other functions: those with a state are objects of a class"
        elif key == "_schedulers":
            inner = cast(Any, scheduler)._schedulers
            for number, (each, part) in enumerate(zip(inner, saved, strict=True)):
                yield from _scheduler_problems(each, part, f"{where}scheduler {number}: ")


def _has_state(functions: Any) -> list[bool]:
    """Tell which functions torch keeps a state of: objects with attributes, not functions."""
    listed = functions if isinstance(functions, list) else [functions]
    return [state is not None for state in listed]


def _load_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    scheduler.load_state_dict(_with_counters(scheduler, copy.deepcopy(dict(state))))


def _with_counters(scheduler: Any, state: dict[str, Any]) -> dict[str, Any]:
    for key, value in state.items():
        if key == "_schedulers":
            inner = zip(scheduler._schedulers, value, strict=True)
            state[key] = [_with_counters(each, part) for each, part in inner]
        elif isinstance(vars(scheduler).get(key), Counter):
            state[key] = Counter(value)
    return state


def _scaler_problems(scaler: GradScaler, state: Mapping[str, Any]) -> Iterator[str]:
    if bool(state) != scaler.is_enabled():
        words = ("enabled", "disabled") if state else ("disabled", "enabled")
        yield "the scaler that was saved is {}, that of into= is {}".format(*words)
        return
    yield from _key_problems(state, scaler.state_dict())
    for key, value in state.items():
        if not isinstance(value, Real):
            yield f"{key!r} is {value!r}, and no number"


def _generator_problems(generator: torch.Generator, state: Mapping[str, Any]) -> Iterator[str]:
    own = state_of(generator)
    yield from _key_problems(state, own)
    if not own.keys() <= state.keys():
        return
    saved, held = torch.device(state["device"]).type, generator.device.type
    if saved != held:
        yield f"it is the state of a generator on {saved}, that of into= is on {held}"
    elif state["state"].dtype != torch.uint8 or state["state"].shape != own["state"].shape:
        yield f"'state' isn't the {own['state'].numel()} bytes of a generator on {held}"


def _load_generator(generator: torch.Generator, state: Mapping[str, Any]) -> None:
    generator.set_state(state["state"].cpu())


_HOW: Mapping[type, tuple[Callable[..., Iterator[str]], Callable[..., Any]]] = {
    Optimizer: (_optimizer_problems, lambda obj, state: obj.load_state_dict(state)),
    LRScheduler: (_scheduler_problems, _load_scheduler),
    GradScaler: (_scaler_problems, lambda obj, state: obj.load_state_dict(state)),
    torch.Generator: (_generator_problems, _load_generator),
}
"""What finds everything that doesn't fit, and what loads."""
