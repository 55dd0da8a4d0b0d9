"""The tree of a module's layers, for people to read."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from flowyml.interfaces import Layer
from flowyml_pytorch.describing.census import type_name, unwrap
from flowyml_pytorch.describing.classes import facts_of

_Counted = dict[int, tuple[int, bool]]


def outline(model: Any) -> Layer | None:
    """Return the tree of a module's layers; None for what is no module."""
    if not isinstance(model, nn.Module):
        return None
    root, _ = unwrap(model)
    return _Outliner().layer("", "", root)[0]


class _Outliner:
    def __init__(self) -> None:
        self._modules: dict[int, str] = {}
        self._parameters: dict[int, str] = {}

    def layer(self, name: str, path: str, module: nn.Module) -> tuple[Layer, _Counted]:
        """Return a module's layer, and its parameters' sizes by identity."""
        facts = facts_of(type(module))
        if facts.inner is not None:
            module, _ = unwrap(module)
            facts = facts_of(type(module))
        kind = type_name(module, facts)
        first = self._modules.setdefault(id(module), path)
        counted: _Counted = {}
        notes: list[str] = []
        children: list[Layer] = []
        prefix = f"{path}." if path else ""
        if first != path:
            notes.append(f"shared with {first or 'the model itself'}")
            counted = _all_parameters(module)
        else:
            notes += self._own_parameters(prefix, module, counted)
            for part, child in module._modules.items():
                if child is None:
                    continue
                if part == "parametrizations" or facts_of(type(child)).packs:
                    counted.update(_all_parameters(child))
                    continue
                layer, below = self.layer(part, prefix + part, child)
                children.append(layer)
                counted.update(below)
        return Layer(
            name=name,
            type=kind,
            parameters=sum(size for size, _ in counted.values()),
            trainable=sum(size for size, trains in counted.values() if trains),
            notes=tuple(notes),
            children=tuple(children),
        ), counted

    def _own_parameters(self, prefix: str, module: nn.Module, counted: _Counted) -> list[str]:
        """Count a module's own parameters; return notes on those that are tied or lazy."""
        notes = []
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            first = self._parameters.setdefault(id(parameter), prefix + name)
            if first != prefix + name:
                notes.append(f"{name} is {first}")
            if _is_lazy(parameter):
                notes.append(f"{name} has no shape yet")
            else:
                counted[id(parameter)] = (parameter.numel(), parameter.requires_grad)
        return notes


def _is_lazy(parameter: Any) -> bool:
    return bool(is_lazy(parameter))


def _all_parameters(module: nn.Module) -> _Counted:
    return {id(p): (p.numel(), p.requires_grad) for p in module.parameters() if not _is_lazy(p)}
