"""How layers are to be quantized, taken apart: what a model in training for it keeps beside them.

Every layer has a ``qconfig``, whose makers of observers hold functions that torch made for that
very layer. torch is going to give this way to quantize up, so nothing of it is imported here: who
holds such an object has imported it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from flowyml_pytorch.storing.kinds import Kind

_QCONFIG = "torch.ao.quantization.qconfig.QConfig"
_MAKER = "torch.ao.quantization.observer._PartialWrapper"


class DeviceOf:
    """Stands in for the function with which torch asks a layer for its device."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> dict[str, torch.device] | None:
        """Return the argument that puts an observer onto the layer's device."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        return next(({"device": tensor.device} for tensor in tensors), None)


_ASKS_LAYER = "_add_module_to_qconfig_obs_ctr.<locals>.get_factory_kwargs_based_on_module_device"


def _layer_asked(function: Any) -> Any:
    """Return the layer whose device a function tells; None for other functions."""
    if type(function) is DeviceOf:
        return function.module
    if getattr(function, "__qualname__", None) != _ASKS_LAYER:
        return None
    if function.__module__ != "torch.ao.quantization.qconfig":
        return None
    (cell,) = function.__closure__
    return cell.cell_contents


def _maker_parts(maker: Any) -> Mapping[str, Any]:
    layers = {name: _layer_asked(function) for name, function in maker.callable_args.items()}
    others = {name: fn for name, fn in maker.callable_args.items() if layers[name] is None}
    asked = {name: layer for name, layer in layers.items() if layer is not None}
    return {"p": maker.p, "callable_args": others, "device_of": asked}


def _build_maker(cls: type, parts: dict[str, Any]) -> Any:
    _check_class(cls, _MAKER)
    made, others, asked = parts["p"], parts["callable_args"], parts["device_of"]
    if not callable(made) or not isinstance(others, dict) or not isinstance(asked, dict):
        raise TypeError("a maker of observers has unfit parts")
    if not all(map(callable, others.values())):
        raise TypeError("a maker of observers has arguments that nothing makes")
    if not all(isinstance(layer, nn.Module) for layer in asked.values()):
        raise TypeError("a maker of observers asks something that is no layer")
    built: Any = object.__new__(cls)
    built.p = made
    built.callable_args = {**others, **{name: DeviceOf(layer) for name, layer in asked.items()}}
    return built


def _build_qconfig(cls: type, parts: dict[str, Any]) -> Any:
    _check_class(cls, _QCONFIG)
    makers = parts["activation"], parts["weight"]
    if not all(callable(maker) and not isinstance(maker, nn.Module) for maker in makers):
        raise TypeError("a qconfig holds more than makers of observers")
    return tuple.__new__(cls, makers)


def _check_class(cls: type, name: str) -> None:
    module, _, qualname = name.rpartition(".")
    if cls is not getattr(sys.modules.get(module), qualname, None):
        raise TypeError(f"{cls.__qualname__} isn't {name}")


def _is(name: str, obj: Any) -> bool:
    return f"{type(obj).__module__}.{type(obj).__qualname__}" == name


KINDS: tuple[Kind, ...] = (
    Kind(
        "qconfig",
        functools.partial(_is, _QCONFIG),
        lambda qconfig: qconfig._asdict(),
        _build_qconfig,
        (_QCONFIG,),
    ),
    Kind("observer_maker", functools.partial(_is, _MAKER), _maker_parts, _build_maker, (_MAKER,)),
)
