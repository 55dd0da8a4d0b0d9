"""Where torch keeps parameters that are not in a module's own table of them.

Sharding flattens them, quantization packs them, and scripting moves them into compiled code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from flowyml_pytorch.describing.classes import ClassFacts

Originals = dict[int, list[tuple[str, torch.Size]]]
"""Names and shapes of the parameters that a sharded one stands for, by its identity."""


def originals(wrapper: Any) -> Originals:
    """Return what the sharded parameters of an FSDP 1 unit were: names and shapes, by identity.

    A rank holds a slice of all the unit's parameters in one flat one, or views of that slice.
    """
    flat = getattr(getattr(wrapper, "_handle", None), "flat_param", None)
    if flat is None:
        return {}
    named = [
        (name, torch.Size(shape)) for name, shape in zip(flat._fqns, flat._shapes, strict=True)
    ]
    if flat._params is None:
        return {id(flat): named}
    return {id(view): [original] for view, original in zip(flat._params, named, strict=True)}


def scripted_parts(module: Any) -> dict[str, Any]:
    """Return the parts of a scripted module, which has them from its compiled form."""
    return {
        "_parameters": dict(module._parameters.items()),
        "_buffers": dict(module._buffers.items()),
        "_modules": dict(module._modules.items()),
    }


def packed_weights(module: Any, facts: ClassFacts) -> list[Tensor]:
    """Return the weights that a quantized module keeps packed, without those of its parts."""
    try:
        return [tensor for tensor in _packed(module, facts) if isinstance(tensor, Tensor)]
    except Exception:  # each kind packs in its own way, and some can't be unpacked
        return []


def _packed(module: Any, facts: ClassFacts) -> Iterable[Any]:
    if facts.packs:
        return tuple(module._weight_bias()) if hasattr(module, "_weight_bias") else ()
    if hasattr(module, "get_weight"):  # recurrent layers, by name
        return (*module.get_weight().values(), *module.get_bias().values())
    if isinstance(getattr(module, "_packed_params", None), nn.Module):
        return ()  # that submodule packs them, and is met itself
    if callable(getattr(module, "weight", None)):
        return (module.weight(), module.bias() if hasattr(module, "bias") else None)
    return ()
