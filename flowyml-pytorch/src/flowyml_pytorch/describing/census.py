"""One walk over a module: what it consists of, each part counted once.

This is the whole cost of describing a model, so it is one flat loop with everything in local
names: it takes little more than ``model.parameters()`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flowyml_pytorch.describing import elsewhere, functional
from flowyml_pytorch.describing.classes import ClassFacts, facts_of
from flowyml_pytorch.describing.elsewhere import Originals

SAMPLE = 10
"""How many tensors `Census.sample` holds."""

Counts = dict[tuple[torch.dtype, torch.device], int]


@attrs.define
class LayerCount:
    """How many layers of a type there are, and how many parameters they own themselves."""

    count: int = 0
    parameters: int = 0


@attrs.define
class Census:
    """What a walk found.

    Attributes:
        class_name: the model's class, as its author named it.
        training: whether the model is in training mode.
        wrapper: the classes that held it, as ``"Outer(Inner)"``, or None.
        parameters: elements of parameters by dtype and device, each parameter once.
        trainable: how many of these elements require a gradient.
        buffers: elements of buffers by dtype and device, each buffer once.
        ties: groups of names that mean one parameter.
        tensors: how many tensors the state dict has, by every name.
        sample: shapes of the first of them.
        uninitialized: names of parameters without a shape yet.
        non_persistent: names of buffers that are not in the state dict.
        parametrizations: classes that compute a tensor, by its name.
        num_layers: submodules, each once; 1 for a root without any.
        layers: counts by type, in order of first appearance; without containers and the root.
        operations: functional operations in order of first appearance.
        quantized: whether some weights are packed.
        plain_state: whether the state dict has just the tensors that were counted.
        alive: parameters that exist only as long as somebody holds them.
    """

    class_name: str
    training: bool
    wrapper: str | None = None
    parameters: Counts = attrs.field(factory=dict)
    trainable: int = 0
    buffers: Counts = attrs.field(factory=dict)
    ties: list[list[str]] = attrs.field(factory=list)
    tensors: int = 0
    sample: dict[str, list[int]] = attrs.field(factory=dict)
    uninitialized: list[str] = attrs.field(factory=list)
    non_persistent: list[str] = attrs.field(factory=list)
    parametrizations: dict[str, list[str]] = attrs.field(factory=dict)
    num_layers: int = 0
    layers: dict[str, LayerCount] = attrs.field(factory=dict)
    operations: dict[str, None] = attrs.field(factory=dict)
    quantized: bool = False
    plain_state: bool = True
    alive: list[Tensor] = attrs.field(factory=list)


def take(model: nn.Module) -> Census:
    """Walk over a model."""
    root, wrapper = unwrap(model)
    training = bool(getattr(root, "training", False))  # absent without Module's own __init__
    census = Census(class_name(root), training, wrapper)
    parameters, sample, layers = census.parameters, census.sample, census.layers
    known: dict[type, ClassFacts] = {}
    visited: set[int] = set()
    parameters_seen: set[int] = set()
    tied: set[int] = set()
    buffers_seen: set[int] = set()
    tensors = trainable = met = 0
    # A module, the beginning of its parts' names, the layer above it, and whether it is a part of
    # that layer rather than a layer itself.
    nothing = LayerCount()
    waiting: list[tuple[str, nn.Module, LayerCount, bool]] = [("", model, nothing, False)]
    originals: Originals = {}
    while waiting:
        prefix, module, layer, inner = waiting.pop()
        cls = type(module)
        facts = known.get(cls) or known.setdefault(cls, facts_of(cls))
        if facts.inner is not None:
            originals.update(elsewhere.originals(module))
            waiting.append((prefix, _inner(module, facts), layer, inner))
            continue
        if id(module) in visited:
            tensors += _count_again(prefix, module, tied, census)
            continue
        visited.add(id(module))
        state = elsewhere.scripted_parts(module) if facts.scripted else module.__dict__
        children = state.get("_modules")
        inner = inner or facts.packs
        if not inner:
            met += 1
            if facts.container or (met == 1 and children and not _is_leaf(children)):
                layer = nothing
            else:
                name = type_name(module, facts)
                layer = layers.get(name) or layers.setdefault(name, LayerCount())
                layer.count += 1
        if facts.unusual:
            _note_unusual(module, facts, layer, census)
        if state.get("_state_dict_hooks"):
            census.plain_state = False

        for name, parameter in (state.get("_parameters") or _NONE).items():
            if parameter is None:
                continue
            if originals and id(parameter) in originals:
                parts = originals[id(parameter)]
                elements = _count_sharded(prefix, parameter, parts, census)
                tensors += len(parts)
                layer.parameters += elements
                trainable += elements if parameter.requires_grad else 0
                continue
            tensors += 1
            lazy = type(parameter) is not nn.Parameter and is_lazy(parameter)
            if len(sample) < SAMPLE and not lazy:
                sample[prefix + name] = list(parameter.shape)
            if id(parameter) in parameters_seen:
                tied.add(id(parameter))
                continue
            parameters_seen.add(id(parameter))
            if lazy:
                census.uninitialized.append(prefix + name)
            else:
                elements = count(parameter, parameters)
                layer.parameters += elements
                if parameter.requires_grad:
                    trainable += elements
        if state.get("_buffers"):
            tensors += _count_buffers(prefix, module, buffers_seen, census)
        if children:
            for name, child in reversed(children.items()):
                if child is not None:
                    part = inner or name == "parametrizations"
                    waiting.append((f"{prefix}{name}.", child, layer, part))
            if "parametrizations" in children:
                _note_parametrizations(prefix, children["parametrizations"], census)
    if tied:
        census.ties = _names_of(tied, root)
    census.tensors, census.trainable, census.num_layers = tensors, trainable, max(met - 1, 1)
    return census


_NONE: dict[str, Any] = {}


def count(tensor: Tensor, counts: Counts) -> int:
    """Add a tensor's elements to the counts and return how many they are."""
    elements = tensor.numel()
    kind = (tensor.dtype, tensor.device)
    counts[kind] = counts.get(kind, 0) + elements
    return elements


def _note_unusual(module: Any, facts: ClassFacts, layer: LayerCount, census: Census) -> None:
    """Note what only some classes have."""
    if facts.traced:
        census.operations.update(dict.fromkeys(functional.operations_of_graph(module)))
    elif facts.calls:
        census.operations.update(dict.fromkeys(functional.reached(facts.calls, module)))
    if facts.quantized or facts.packs:
        packed = elsewhere.packed_weights(module, facts)
        layer.parameters += sum(count(tensor, census.parameters) for tensor in packed)
        census.quantized = census.quantized or bool(packed)
    if facts.scripted:
        census.alive.extend(module.parameters(recurse=False))
    if not facts.plain_state:
        census.plain_state = False


def _count_buffers(prefix: str, module: nn.Module, seen: set[int], census: Census) -> int:
    """Count a module's own buffers; return how many of them are in the state dict."""
    tensors = 0
    scratch = getattr(module, "_non_persistent_buffers_set", ())
    for name, buffer in module._buffers.items():
        if buffer is None:
            continue
        if name in scratch:
            census.non_persistent.append(prefix + name)
        else:
            tensors += 1
            if len(census.sample) < SAMPLE and not is_lazy(buffer):
                census.sample[prefix + name] = list(buffer.shape)
        if id(buffer) not in seen and not is_lazy(buffer):
            seen.add(id(buffer))
            count(buffer, census.buffers)
    return tensors


def _count_sharded(
    prefix: str, parameter: Tensor, parts: list[tuple[str, torch.Size]], census: Census
) -> int:
    """Count what a sharded parameter stands for, at its global size."""
    elements = sum(shape.numel() for _, shape in parts)
    kind = (parameter.dtype, parameter.device)
    census.parameters[kind] = census.parameters.get(kind, 0) + elements
    for name, shape in parts:
        path = prefix + (name if len(parts) > 1 else name.rpartition(".")[2])
        if len(census.sample) < SAMPLE:
            census.sample[path] = list(shape)
    return elements


def unwrap(model: nn.Module) -> tuple[nn.Module, str | None]:
    """Return the model under its wrappers, and their names, as ``"Outer(Inner)"``."""
    outer: list[str] = []
    facts = facts_of(type(model))
    while facts.inner is not None:
        outer.append(facts.name)
        model = _inner(model, facts)
        facts = facts_of(type(model))
    if facts.sharded:
        outer.append("FSDPModule")
    return model, "(".join(outer) + ")" * (len(outer) - 1) if outer else None


def type_name(module: nn.Module, facts: ClassFacts) -> str:
    """Return the name of a module's class, as its author wrote it."""
    return str(module.original_name) if facts.scripted else facts.name


def class_name(model: nn.Module) -> str:
    """Return the name of a model's class, whatever wraps it."""
    root, _ = unwrap(model)
    return type_name(root, facts_of(type(root)))


def _inner(module: nn.Module, facts: ClassFacts) -> nn.Module:
    inner = getattr(module, str(facts.inner))
    assert isinstance(inner, nn.Module)
    return inner


def _is_leaf(children: Mapping[str, nn.Module | None]) -> bool:
    return all(
        child is None or name == "parametrizations" or facts_of(type(child)).packs
        for name, child in children.items()
    )


def _note_parametrizations(prefix: str, parametrizations: nn.Module, census: Census) -> None:
    for tensor, steps in parametrizations.named_children():
        census.parametrizations[prefix + tensor] = [type(s).__name__ for s in steps.children()]


def _count_again(prefix: str, module: nn.Module, tied: set[int], census: Census) -> int:
    """Return how many tensors of the state dict a module has that was met before."""
    tensors = 0
    for path, tensor, persistent in _tensors_below(prefix, module):
        if isinstance(tensor, nn.Parameter):
            tied.add(id(tensor))
        if persistent:
            tensors += 1
            if len(census.sample) < SAMPLE and not is_lazy(tensor):
                census.sample[path] = list(tensor.shape)
    return tensors


def _names_of(tied: set[int], root: nn.Module) -> list[list[str]]:
    """Return all names of the parameters that have several, in order of first appearance."""
    names: dict[int, list[str]] = {}
    for path, tensor, _ in _tensors_below("", root):
        if id(tensor) in tied:
            names.setdefault(id(tensor), []).append(path)
    return list(names.values())


def _tensors_below(
    prefix: str, module: nn.Module, above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield every tensor under every name; a module inside itself is not entered again."""
    facts = facts_of(type(module))
    while facts.inner is not None:
        module = _inner(module, facts)
        facts = facts_of(type(module))
    if id(module) in above:
        return
    scratch = getattr(module, "_non_persistent_buffers_set", ())
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter, True
    for name, buffer in module._buffers.items():
        if buffer is not None:
            yield prefix + name, buffer, name not in scratch
    for name, child in module._modules.items():
        if child is not None:
            yield from _tensors_below(f"{prefix}{name}.", child, (*above, id(module)))
