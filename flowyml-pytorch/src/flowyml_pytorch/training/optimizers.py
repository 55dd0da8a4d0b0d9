"""Optimizers, gradient scalers and random generators, taken apart and put together again.

An optimizer is more than its attributes: torch patches its class when the first one is made, and a
scheduler patches the optimizer itself. Schedulers are in `training.schedulers`; what fills
an optimizer that the caller built is in `training.states`.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, _refresh_per_optimizer_state
from torch.optim import Optimizer, lr_scheduler

from flowyml_pytorch.storing.hooks import count_from
from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.training.schedulers import SCHEDULER, attributes_of
from flowyml_pytorch.training.states import first_line, load_into, set_state, state_of

__all__ = ["KINDS", "load_into", "state_of"]


def _optimizer_parts(optimizer: Optimizer) -> Mapping[str, Any]:
    parts = attributes_of(optimizer)
    parts.pop("_zero_grad_profile_name", None)  # made with the object
    step = parts.get("step")
    if step is not None:
        if not _is_patch_of_scheduler(optimizer, step):
            raise NotRestorableError(
                "step",
                f"the method is replaced on this one {type(optimizer).__qualname__}; put what "
                f"replaces it into a class of its own, or save the optimizer without it",
            )
        parts["step"] = True
    return parts


def _is_patch_of_scheduler(optimizer: Optimizer, step: Any) -> bool:
    """Tell whether ``step`` is torch's wrapper itself: others that wrap it copy its attributes."""
    return (
        isinstance(step, types.FunctionType)
        and step.__globals__ is vars(lr_scheduler)
        and getattr(step, "__wrapped__", None) is type(optimizer).step
    )


class _StepTracker(lr_scheduler.LRScheduler):
    """Patches an optimizer as every scheduler does, and schedules nothing."""

    def _initial_step(self) -> None:
        pass


def _build_optimizer(cls: type, parts: dict[str, Any]) -> Any:
    if not issubclass(cls, Optimizer):
        raise TypeError(f"{cls.__qualname__} is no optimizer")
    attributes = {name: part for name, part in parts.items() if name != "step"}
    _check_optimizer(attributes)
    built: Any = object.__new__(cls)
    Optimizer._patch_step_function(built)
    if parts.get("step") is True:
        vars(built)["param_groups"] = []  # a scheduler marks the groups that it finds
        _StepTracker(built)
    _set_state(built, attributes)
    for name, hooks in attributes.items():
        if _holds_hooks(name):
            count_from(hooks)
    return built


def _holds_hooks(name: str) -> bool:
    return name.startswith("_optimizer_") and name.endswith("_hooks")


def _check_optimizer(attributes: Mapping[str, Any]) -> None:
    """Check what torch's own code walks through, here or in the next step.

    An optimizer that wraps another one may have no groups and no state of its own.
    """
    for name, value in attributes.items():
        if callable(getattr(Optimizer, name, None)):
            raise TypeError(f"an optimizer has an attribute in place of {name}()")
        is_mapping = name in ("defaults", "state") or _holds_hooks(name)
        if is_mapping and not isinstance(value, dict):
            raise TypeError(f"{name} of an optimizer is no dict")
        if _holds_hooks(name) and not all(map(callable, value.values())):
            raise TypeError(f"{name} of an optimizer holds more than functions")
    groups = attributes.get("param_groups", [])
    if not isinstance(groups, list):
        raise TypeError("param_groups of an optimizer is no list")
    for group in groups:
        if type(group) is not dict or not isinstance(group.get("params"), list):
            raise TypeError("a parameter group is no dict with a list of params")
        if not all(isinstance(param, Tensor) for param in group["params"]):
            raise TypeError("a parameter group holds more than tensors")


def _set_state(optimizer: Any, attributes: dict[str, Any]) -> None:
    """Set attributes the way torch does, which supplies options that older versions lacked."""
    defaults = attributes.get("defaults")
    adds_option = defaults is not None and "differentiable" not in defaults
    # It walks through the state only to convert what was saved long ago.
    set_state(optimizer, {name: {} if name == "state" else v for name, v in attributes.items()})
    vars(optimizer).update(attributes)
    if adds_option:
        optimizer.defaults.pop("differentiable", None)


def _scaler_parts(scaler: GradScaler) -> Mapping[str, Any]:
    parts = attributes_of(scaler)
    if parts.pop("_per_optimizer_states", None):
        raise NotRestorableError(
            "_per_optimizer_states",
            "a gradient scaler is in the middle of a step; save it after scaler.update()",
        )
    return parts


_ALWAYS: Mapping[str, tuple[type, ...]] = {"_device": (str,), "_enabled": (bool,)}
_ENABLED: Mapping[str, tuple[type, ...]] = {
    "_init_scale": (Real,),
    "_init_growth_tracker": (Real,),
    "_growth_factor": (Real,),
    "_backoff_factor": (Real,),
    "_growth_interval": (Real,),
    "_scale": (Tensor, type(None)),
    "_growth_tracker": (Tensor, type(None)),
}
"""What a gradient scaler holds, and what it holds unless it is disabled."""


def _build_scaler(cls: type, parts: dict[str, Any]) -> Any:
    if not issubclass(cls, GradScaler):
        raise TypeError(f"{cls.__qualname__} is no gradient scaler")
    for name, fit in {**_ALWAYS, **(_ENABLED if parts["_enabled"] else {})}.items():
        value = parts[name]
        if not isinstance(value, fit) or (isinstance(value, Tensor) and value.dim()):
            raise TypeError(f"{name} of a gradient scaler can't be a {type(value).__qualname__}")
    built: Any = object.__new__(cls)
    vars(built).update(parts)
    if parts["_enabled"]:
        built._per_optimizer_states = defaultdict(_refresh_per_optimizer_state)
    return built


def _generator_parts(generator: torch.Generator) -> Mapping[str, Any]:
    return {"device": generator.device, "state": generator.get_state()}


def _build_generator(cls: type, parts: dict[str, Any]) -> torch.Generator:
    """Make a new generator, also of one that is a device's default: that is the process's own."""
    device, state = parts["device"], parts["state"]
    if cls is not torch.Generator or not isinstance(device, torch.device):
        raise TypeError(f"{cls.__qualname__} on a {type(device).__qualname__} is no generator")
    if not isinstance(state, Tensor):
        raise TypeError("the state of a generator is no tensor")
    try:
        generator = torch.Generator(device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"a generator of the device {device} can't be made where there is no such device; its "
            f"numbers are that device's own: {first_line(error)}"
        ) from error
    try:
        generator.set_state(state.cpu())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"no state of a generator on {device}: {first_line(error)}") from error
    return generator


_OPTIMIZERS = tuple(
    f"{item.__module__}.{item.__qualname__}"
    for item in vars(torch.optim).values()
    if isinstance(item, type) and issubclass(item, Optimizer)
)
_SCALERS = tuple(f"torch.{device}amp.grad_scaler.GradScaler" for device in ("", "cpu.", "cuda."))

KINDS: tuple[Kind, ...] = (
    Kind(
        "optimizer",
        lambda obj: isinstance(obj, Optimizer),
        _optimizer_parts,
        _build_optimizer,
        _OPTIMIZERS,
    ),
    SCHEDULER,
    Kind(
        "grad_scaler",
        lambda obj: isinstance(obj, GradScaler),
        _scaler_parts,
        _build_scaler,
        _SCALERS,
    ),
    Kind(
        "generator",
        lambda obj: type(obj) is torch.Generator,
        _generator_parts,
        _build_generator,
        ("torch._C.Generator",),
    ),
)
"""What this module and `training.schedulers` take apart."""
