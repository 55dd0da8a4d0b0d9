"""Loaders, samplers and datasets: what decides the order and size of batches, and of what.

Nothing is iterated and no worker is started; a dataset is asked for no more than its length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from flowyml.properties import type_name
from flowyml_pytorch.describing.readable import public, readable, tensor, with_class
from flowyml_pytorch.training.datasets import DatasetRef

_PLAIN = (
    "batch_size",
    "drop_last",
    "num_workers",
    "pin_memory",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)
"""Arguments of a loader that are settings as they are."""

_MAX_PARTS = 20
_MAX_DEPTH = 5


def loader(obj: DataLoader[Any]) -> dict[str, Any]:
    """Return a loader's settings, its dataset's and its sampler's; functions by their names."""
    found: dict[str, Any] = {"class": type_name(obj), "dataset": dataset(obj.dataset)}
    own = vars(obj)
    found.update((name, readable(own.get(name))) for name in _PLAIN)
    batch_sampler = obj.batch_sampler
    if obj.batch_size is None and batch_sampler is not None:
        found["batch_sampler"] = sampler(batch_sampler)
    else:
        found["shuffle"] = _shuffles(obj.sampler)
        if found["shuffle"] is not False:
            found["sampler"] = sampler(obj.sampler)
    for name in ("collate_fn", "worker_init_fn"):
        function = own.get(name)
        if function not in (None, default_collate, default_convert):
            found[name] = with_class(function)["class"]
    found["generator"] = None if obj.generator is None else generator(obj.generator)
    return found


def _shuffles(obj: Any) -> bool | None:
    """Tell whether torch's own sampler shuffles; None for any other sampler."""
    if type(obj) is SequentialSampler:
        return False
    return True if type(obj) is RandomSampler else None


def sampler(obj: Any, depth: int = 0) -> dict[str, Any]:
    """Return a sampler's class and settings."""
    found: dict[str, Any] = {"class": type_name(obj)}
    if type(obj) is RandomSampler:
        found.update(replacement=obj.replacement, num_samples=obj._num_samples)
    elif isinstance(obj, BatchSampler) and depth < _MAX_DEPTH and isinstance(obj.sampler, Sampler):
        found["sampler"] = sampler(obj.sampler, depth + 1)
        found.update(public(obj, ("sampler",)))
    else:
        found.update(public(obj, ("data_source", "dataset", "generator")))
    own = getattr(obj, "__dict__", {}).get("generator")
    return {**found, "generator": generator(own)} if isinstance(own, torch.Generator) else found


def generator(obj: torch.Generator) -> dict[str, Any]:
    """Return a generator's device, and the seed that it began with."""
    return {"device": str(obj.device), "initial_seed": obj.initial_seed()}


def dataset(obj: Any, depth: int = 0) -> dict[str, Any]:
    """Return a dataset's type and length, and what is known of those that it is made of."""
    found: dict[str, Any] = {"class": type_name(obj)}
    if isinstance(obj, DatasetRef):
        return {**found, **_reference(obj)}
    length = _length(obj)
    if length is not None:
        found["length"] = length
    if type(obj) is TensorDataset:
        found["tensors"] = [tensor(item, digested=False) for item in obj.tensors[:_MAX_PARTS]]
    elif isinstance(obj, Subset) and depth < _MAX_DEPTH:
        found["dataset"] = dataset(obj.dataset, depth + 1)
    elif isinstance(obj, ConcatDataset) and depth < _MAX_DEPTH:
        found["datasets"] = [dataset(item, depth + 1) for item in obj.datasets[:_MAX_PARTS]]
    return found


def _length(obj: Any) -> int | None:
    """Return a dataset's length; None where it has none, or that raises."""
    if not hasattr(type(obj), "__len__"):
        return None
    try:
        return len(obj)
    except Exception:  # the user's own code
        return None


def _reference(obj: DatasetRef) -> dict[str, Any]:
    """Describe a reference without making its dataset."""
    target = readable(obj._target)
    found = {"target": target, "args": readable(obj._args), "kwargs": readable(obj._kwargs)}
    made: Dataset[Any] | None = obj._dataset
    return found if made is None else {**found, "length": _length(made)}
