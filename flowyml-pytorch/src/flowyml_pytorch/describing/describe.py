"""The properties of a ``torch.nn.Module``; nothing of it changes, nothing of it is run.

What each property means exactly is written in ``docs/metadata.md``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flowyml.errors import AdapterWarning, warn
from flowyml_pytorch.describing import census, exported, functional
from flowyml_pytorch.describing.census import Census, Counts
from flowyml_pytorch.describing.observe import UNOBSERVED, observe
from flowyml_pytorch.describing.processes import world_size


def describe(model: Any, example_inputs: Any = None) -> dict[str, Any]:
    """Return the properties of a model by name.

    Args:
        model: a module, or a ``torch.export.ExportedProgram``.
        example_inputs: what its forward takes, see `describing.observe`; None runs nothing.
    """
    if not isinstance(model, nn.Module):
        found = exported.take(model)
        return {**_properties(found, found.tensors, found.sample, None), **UNOBSERVED}
    found = census.take(model)
    properties = _properties(found, *_state(found, model), world_size(model))
    if example_inputs is None:
        return {**properties, **UNOBSERVED}
    return {**properties, **observe(model, example_inputs)}


def _properties(
    found: Census,
    tensors: int | None,
    sample: dict[str, list[int]] | None,
    processes: int | None,
) -> dict[str, Any]:
    total = sum(found.parameters.values())
    counted = found.parameters or found.buffers
    devices, dtypes = _by_device(counted), _by_dtype(counted)
    return {
        "parameters": total,
        "trainable_parameters": found.trainable,
        "frozen_parameters": total - found.trainable,
        "architecture": found.class_name,
        "model_class": found.class_name,
        "num_layers": found.num_layers,
        "layer_types": _layer_types(found),
        "num_tensors": tensors,
        "tensor_shapes_sample": sample,
        "training_mode": found.training,
        "device": _most(devices),
        "dtype": _most(dtypes),
        "devices": devices,
        "dtypes": dtypes,
        "buffers": sum(found.buffers.values()),
        "size_bytes": _bytes(found.parameters) + _bytes(found.buffers),
        "tied_parameters": found.ties,
        "non_persistent_buffers": found.non_persistent,
        "uninitialized_parameters": found.uninitialized,
        "layers": {
            layer: {"count": count.count, "parameters": count.parameters}
            for layer, count in found.layers.items()
        },
        "functional_ops": list(found.operations),
        "wrapper": found.wrapper,
        "world_size": processes,
        "parametrizations": found.parametrizations,
        "quantized": found.quantized,
    }


def _layer_types(found: Census) -> list[str]:
    operations = (functional.module_name(operation) for operation in found.operations)
    return list(dict.fromkeys([*found.layers, *(name for name in operations if name)]))


def _state(found: Census, model: nn.Module) -> tuple[int | None, dict[str, list[int]] | None]:
    """Return number and sample of the state dict's tensors, asking a state dict of its own."""
    if found.plain_state:
        return found.tensors, found.sample
    try:
        state = census.unwrap(model)[0].state_dict()
        tensors = {key: item for key, item in state.items() if isinstance(item, Tensor)}
        shown = [key for key, tensor in tensors.items() if not is_lazy(tensor)][: census.SAMPLE]
        return len(tensors), {key: list(tensors[key].shape) for key in shown}
    except Exception as error:  # a user's own method may raise anything
        warn(
            f"num_tensors and tensor_shapes_sample of a {found.class_name} are not known: "
            f"its state_dict() raised {type(error).__name__}: {error}",
            AdapterWarning,
        )
        return None, None


def _by_device(counts: Counts) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (_, device), count in counts.items():
        found[str(device)] += count
    return dict(found)


def _by_dtype(counts: Counts) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (dtype, _), count in counts.items():
        found[str(dtype)] += count
    return dict(found)


def _most(counts: dict[str, int]) -> str | None:
    return max(counts, key=counts.__getitem__) if counts else None


def _bytes(counts: Counts) -> int:
    return sum(count * dtype.itemsize for (dtype, _), count in counts.items())
