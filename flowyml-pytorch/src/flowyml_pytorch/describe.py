"""The properties of a ``torch.nn.Module``; nothing of it changes, nothing is run.

What each property means exactly is written in ``docs/metadata.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from flowyml_pytorch import functional

_SAMPLE = 10
"""How many tensors `tensor_shapes_sample` shows."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def describe(module: nn.Module) -> dict[str, Any]:
    """Return the properties of a module by name."""
    parameters: list[Tensor] = list(module.parameters())
    tensors = parameters or list(module.buffers())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    state = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    name = type(module).__name__
    return {
        "parameters": total,
        "trainable_parameters": trainable,
        "frozen_parameters": total - trainable,
        "architecture": name,
        "model_class": name,
        "num_layers": max(sum(1 for _ in module.modules()) - 1, 1),
        "layer_types": layer_types(module),
        "num_tensors": len(state),
        "tensor_shapes_sample": {k: list(v.shape) for k, v in list(state.items())[:_SAMPLE]},
        "training_mode": module.training,
        "device": _majority((str(t.device), t.numel()) for t in tensors),
        "dtype": _majority((str(t.dtype), t.numel()) for t in tensors),
    }


def layer_types(module: nn.Module) -> list[str]:
    """Return the types of layers by first appearance, then the functional operations'.

    Containers are left out, and the root unless it is a layer itself.
    """
    modules = list(module.modules())
    layers = modules[1:] or modules
    types = [type(m).__name__ for m in layers if type(m) not in _CONTAINERS]
    operations = [operation for m in modules for operation in functional.operations(m)]
    names = [name for op in operations if (name := functional.module_name(op)) is not None]
    return list(dict.fromkeys([*types, *names]))


def _majority(weighted: Iterable[tuple[str, int]]) -> str | None:
    """Return the text that most elements have; the first of equals; None when there is none."""
    counts: Counter[str] = Counter()
    for text, count in weighted:
        counts[text] += count
    return max(counts, key=counts.__getitem__) if counts else None
