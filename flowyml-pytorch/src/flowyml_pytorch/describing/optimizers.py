"""Optimizers, learning-rate schedulers and gradient scalers: their classes and settings.

They are known by what torch's own have, such as ``param_groups``: those of other libraries are
described by as much of that as they have. No values of parameters or of their state are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flowyml.properties import type_name
from flowyml_pytorch.describing.readable import public, readable, with_class

_NO_SETTINGS = ("params", "param_names")
"""Entries of a parameter group that say what it holds."""

_PUBLIC = {
    "_schedulers": "schedulers",
    "_milestones": "milestones",
    "_anneal_func_type": "anneal_strategy",
    "_anneal_strategy": "anneal_strategy",
    "_scale_fn_custom": "scale_fn",
    "_last_lr": "last_lr",
}
"""Arguments of torch's schedulers, and the rates now, by the attributes that keep them."""


def is_optimizer(obj: Any) -> bool:
    """Tell whether it is an optimizer, of torch or with the same protocol."""
    return isinstance(obj, Optimizer) or _found(obj, "param_groups") is not None


def is_scheduler(obj: Any) -> bool:
    """Tell whether it is a scheduler, of torch or with the same protocol."""
    if isinstance(obj, (LRScheduler, GradScaler)):
        return isinstance(obj, LRScheduler)
    return callable(_found(obj, "step")) and not is_optimizer(obj) and not callable(obj)


def _found(obj: Any, name: str) -> Any:
    """Return an attribute, or None; a function that raises where that is there, and broken."""
    if isinstance(obj, (type, Tensor)):
        return None
    try:
        return getattr(obj, name, None)
    except Exception:
        return _found


def optimizer(obj: Any) -> dict[str, Any]:
    """Return class and settings, those that differ between parameter groups for each group."""
    found: dict[str, Any] = {"class": type_name(obj)}
    inner = next((vars(obj)[n] for n in ("optimizer", "base_optimizer") if n in _own(obj)), None)
    if inner is not None and is_optimizer(inner):
        found["wraps"] = type_name(inner)
    groups = [_settings(group) for group in obj.param_groups]
    if not groups:
        return {**found, **readable(getattr(obj, "defaults", {})), "tensors": 0, "parameters": 0}
    first, *others = groups
    same = [k for k in first if all(k in o and _equal(o[k], first[k]) for o in others)]
    found.update((key, first[key]) for key in same)
    held = [_held(group) for group in obj.param_groups]
    for key in ("tensors", "parameters"):
        found[key] = sum(each[key] for each in held)
    if any(len(group) > len(same) for group in groups):
        found["param_groups"] = [
            {**{key: item for key, item in group.items() if key not in same}, **counts}
            for group, counts in zip(groups, held, strict=True)
        ]
    return found


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {str(k): _setting(item) for k, item in group.items() if k not in _NO_SETTINGS}


def _setting(value: Any) -> Any:
    """Return a setting, which a compiled step wants to have in a tensor."""
    is_one = isinstance(value, Tensor) and not value.is_meta and value.numel() == 1
    return readable(value.reshape(()) if is_one else value)


def _held(group: Mapping[str, Any]) -> dict[str, int]:
    params = group.get("params", ())
    tensors = [params] if isinstance(params, Tensor) else list(params)
    sizes = [item.numel() for item in tensors if isinstance(item, Tensor) and not is_lazy(item)]
    return {"tensors": len(tensors), "parameters": sum(sizes)}


def _equal(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # NaN is equal to itself here, and 1 isn't True


def scheduler(obj: Any) -> dict[str, Any]:
    """Return class and settings, those of the schedulers in it too, and where it stands."""
    found: dict[str, Any] = {"class": type_name(obj)}
    for name, value in _own(obj).items():
        key = _PUBLIC.get(name, name)
        if not key.startswith("_") and not is_optimizer(value):
            found[key] = _of_scheduler(value)
    return found


def _of_scheduler(value: Any) -> Any:
    if isinstance(value, LRScheduler):
        return scheduler(value)
    if isinstance(value, Counter):  # the milestones, of which two may be the same
        return sorted(readable(list(value.elements())))
    if isinstance(value, list):
        return [_of_scheduler(item) for item in value] if len(value) <= 50 else readable(value)
    if callable(value):
        described = with_class(value)
        return described["class"] if len(described) == 1 else described
    return _setting(value)


def _own(obj: Any) -> dict[str, Any]:
    return getattr(obj, "__dict__", {})


def scaler(obj: GradScaler) -> dict[str, Any]:
    """Return a gradient scaler's settings and its scale."""
    state = obj.state_dict() if obj.is_enabled() else {}
    found = {"class": type_name(obj), "device": str(getattr(obj, "_device", None))}
    shown = {key: readable(value) for key, value in state.items() if not key.startswith("_")}
    return {**found, "enabled": obj.is_enabled(), **shown, **public(obj)}
