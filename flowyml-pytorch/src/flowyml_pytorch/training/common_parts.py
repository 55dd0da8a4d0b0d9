"""What objects may have in common: an optimizer and its model, a loader and its generator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler


def parts(obj: Any) -> set[tuple[str, int]]:
    """Return what tells apart the tensors, generators and datasets that an object holds.

    Tensors count by their memory, so that a view and what it is a view of have it in common.
    Nothing is iterated over but containers.
    """
    return set(_parts(obj, set()))


def _parts(obj: Any, met: set[int]) -> Iterator[tuple[str, int]]:
    if id(obj) in met:
        return
    met.add(id(obj))
    if isinstance(obj, Tensor):
        yield _memory(obj)
    elif isinstance(obj, nn.Module):
        for tensor in (*obj.parameters(), *obj.buffers()):
            yield _memory(tensor)
    elif isinstance(obj, torch.Generator):
        yield "generator", id(obj)
    elif isinstance(obj, torch.optim.Optimizer):
        yield "optimizer", id(obj)
        for group in obj.param_groups:
            yield from _parts(group["params"], met)
    elif isinstance(obj, torch.optim.lr_scheduler.LRScheduler):
        yield from _parts(getattr(obj, "optimizer", None), met)
    elif isinstance(obj, Dataset):
        yield "dataset", id(obj)
        yield from _parts(getattr(obj, "tensors", ()), met)
    elif isinstance(obj, (DataLoader, Sampler)):
        held = ("dataset", "data_source", "generator", "sampler", "batch_sampler")
        for name in held:
            yield from _parts(getattr(obj, name, None), met)
    elif isinstance(obj, dict):
        for item in obj.values():
            yield from _parts(item, met)
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for item in obj:
            yield from _parts(item, met)


def _memory(tensor: Tensor) -> tuple[str, int]:
    """Return what tells a tensor's memory from another's; one without memory by itself."""
    try:
        address = tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or of a subclass
        address = 0
    return ("memory", address) if address else ("tensor", id(tensor))
