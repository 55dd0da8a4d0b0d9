"""Learning rate schedulers, taken apart and put together again.

A scheduler is its attributes, except for methods of its own that it keeps among them: these are
made anew. That its optimizer tracks steps for it belongs to the optimizer and comes back there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    SequentialLR,
)
from torch.optim.swa_utils import SWALR

from flowyml_pytorch.storing.kinds import Kind, NotRestorableError


def attributes_of(obj: Any) -> dict[str, Any]:
    """Return the attributes of an object, which have to be all there is to it.

    Raises:
        NotRestorableError: when they aren't.
    """
    cls = type(obj)
    if any(vars(base).get("__slots__") for base in cls.__mro__):
        raise NotRestorableError("", f"{cls.__qualname__} keeps its state outside __dict__")
    return dict(vars(obj))


def _parts(scheduler: LRScheduler) -> Mapping[str, Any]:
    parts = attributes_of(scheduler)
    for cls, name in _MADE_ANEW.items():
        if isinstance(scheduler, cls):
            parts.pop(name, None)
    if isinstance(scheduler, MultiStepLR):
        parts["milestones"] = dict(scheduler.milestones)
    return parts


_MADE_ANEW: Mapping[type[LRScheduler], str] = {CyclicLR: "_scale_fn_ref", SWALR: "anneal_func"}
"""Attributes that hold methods."""


def _build(cls: type, parts: dict[str, Any]) -> Any:
    if not issubclass(cls, LRScheduler):
        raise TypeError(f"{cls.__qualname__} is no learning rate scheduler")
    if not isinstance(parts["optimizer"], Optimizer):
        raise TypeError(f"the optimizer of {cls.__qualname__} is none")
    for owners, name, is_fit in _FIT:
        if issubclass(cls, owners) and not is_fit(parts[name]):
            raise TypeError(
                f"{name} of {cls.__qualname__} can't be that {type(parts[name]).__qualname__}"
            )
    if any(callable(getattr(LRScheduler, name, None)) for name in parts):
        raise TypeError(f"a {cls.__qualname__} has an attribute in place of a method")
    built: Any = object.__new__(cls)
    vars(built).update(parts)
    if issubclass(cls, MultiStepLR):
        built.milestones = Counter(parts["milestones"])
    if issubclass(cls, CyclicLR):
        CyclicLR._init_scale_fn(built)
    if issubclass(cls, SWALR):
        SWALR._set_anneal_func(built, parts["_anneal_strategy"])
    return built


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(n, Real) for pair in value.items() for n in pair
    )


def _are_functions(value: Any) -> bool:
    return isinstance(value, list) and all(map(callable, value))


def _is_function_or_none(value: Any) -> bool:
    return value is None or callable(value)


def _are_schedulers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, LRScheduler) for item in value)


_FIT: tuple[tuple[tuple[type, ...], str, Callable[[Any], bool]], ...] = (
    ((LambdaLR, MultiplicativeLR), "lr_lambdas", _are_functions),
    ((MultiStepLR,), "milestones", _are_counts),
    ((CyclicLR,), "_scale_fn_custom", _is_function_or_none),
    ((ChainedScheduler, SequentialLR), "_schedulers", _are_schedulers),
)
"""Attributes of torch's schedulers that hold more than numbers, and what tells if they are fit."""


SCHEDULER = Kind(
    "lr_scheduler",
    lambda obj: isinstance(obj, LRScheduler),
    _parts,
    _build,
    ("torch.optim.lr_scheduler.", "torch.optim.swa_utils.SWALR"),
)

KINDS: tuple[Kind, ...] = (SCHEDULER,)
