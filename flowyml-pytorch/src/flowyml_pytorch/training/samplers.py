"""The samplers and datasets of ``torch.utils.data``: they are their attributes and nothing else.

They come back with these attributes and without a call of their constructors, which would ask a
dataset for its length, or a process group for its rank. Samplers and datasets of users' own
classes are plain objects, and need no kind.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.training.distributed import EpochSampler

Fits = Callable[[Any], bool]
"""Tells whether a value is fit for an attribute; it looks at the value and runs nothing of it."""


def anything(_: Any) -> bool:
    """Accept every value: what it is used for tells soon enough whether it is fit."""
    return True


def is_flag(value: Any) -> bool:
    """Accept True and False, and 1 and 0, which pass for them."""
    return isinstance(value, int)


def is_whole(value: Any) -> bool:
    """Accept whole numbers, NumPy's too."""
    return isinstance(value, numbers.Integral)


def is_size(value: Any) -> bool:
    """Accept whole numbers from 0 on."""
    return isinstance(value, numbers.Integral) and int(value) >= 0


def is_count(value: Any) -> bool:
    """Accept whole numbers from 1 on."""
    return isinstance(value, numbers.Integral) and int(value) > 0


def is_duration(value: Any) -> bool:
    """Accept finite numbers from 0 on."""
    return isinstance(value, (int, float)) and 0 <= value < math.inf


def is_generator(value: Any) -> bool:
    """Accept a generator of random numbers."""
    return isinstance(value, torch.Generator)


def or_none(fits: Fits) -> Fits:
    """Accept None besides."""
    return lambda value: value is None or fits(value)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _are_tensors(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(map(_is_tensor, value))


def _are_sizes(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(map(is_size, value))


def _are_datasets(value: Any) -> bool:
    return isinstance(value, (tuple, list, dict))


_RANDOM: Mapping[str, Fits] = {
    "data_source": anything,
    "replacement": is_flag,
    "_num_samples": or_none(is_count),
    "generator": or_none(is_generator),
}
_BATCH: Mapping[str, Fits] = {"sampler": anything, "batch_size": is_count, "drop_last": is_flag}
_DISTRIBUTED: Mapping[str, Fits] = {
    "dataset": anything,
    "num_replicas": is_count,
    "rank": is_size,
    "shuffle": is_flag,
    "seed": is_whole,
    "epoch": is_whole,
    "drop_last": is_flag,
    "num_samples": is_size,
    "total_size": is_size,
}

SAMPLERS: Mapping[str, Mapping[str, Fits]] = {
    f"{EpochSampler.__module__}.{EpochSampler.__qualname__}": _DISTRIBUTED,
    "torch.utils.data.dataloader._InfiniteConstantSampler": {},
    "torch.utils.data.distributed.DistributedSampler": _DISTRIBUTED,
    "torch.utils.data.sampler.BatchSampler": _BATCH,
    "torch.utils.data.sampler.RandomSampler": _RANDOM,
    "torch.utils.data.sampler.SequentialSampler": {"data_source": anything},
    "torch.utils.data.sampler.SubsetRandomSampler": {
        "indices": anything,
        "generator": or_none(is_generator),
    },
    "torch.utils.data.sampler.WeightedRandomSampler": {
        "weights": _is_tensor,
        "num_samples": is_count,
        "replacement": is_flag,
        "generator": or_none(is_generator),
    },
    "torchdata.stateful_dataloader.sampler.BatchSampler": _BATCH,
    "torchdata.stateful_dataloader.sampler.RandomSampler": _RANDOM,
    "torchdata.stateful_dataloader.sampler.StatefulDistributedSampler": {
        **_DISTRIBUTED,
        "yielded": is_size,
        "next_yielded": or_none(is_size),
    },
}
"""The attributes of samplers, by class."""

DATASETS: Mapping[str, Mapping[str, Fits]] = {
    "torch.utils.data.dataset.ChainDataset": {"datasets": anything},
    "torch.utils.data.dataset.ConcatDataset": {
        "datasets": _are_datasets,
        "cumulative_sizes": _are_sizes,
    },
    "torch.utils.data.dataset.StackDataset": {"datasets": _are_datasets, "_length": is_size},
    "torch.utils.data.dataset.Subset": {"dataset": anything, "indices": anything},
    "torch.utils.data.dataset.TensorDataset": {"tensors": _are_tensors},
}
"""The attributes of datasets, by class."""


def class_name(cls: type) -> str:
    """Return a class's dotted name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def parts_of(obj: Any, attributes: Mapping[str, Fits]) -> dict[str, Any]:
    """Return an object's attributes as parts, without the underscore that some begin with.

    Raises:
        NotRestorableError: when one of them is missing or isn't what it has to be.
    """
    held = vars(obj)
    parts = {}
    for name, fits in attributes.items():
        part = name.removeprefix("_")
        if name not in held:
            raise NotRestorableError(part, f"this {type(obj).__qualname__} has none")
        if not fits(held[name]):
            kind = type(held[name]).__qualname__
            raise NotRestorableError(part, f"no {type(obj).__qualname__} takes such a {kind}")
        parts[part] = held[name]
    return parts


def added(obj: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part with the attributes that somebody added; no part when there are none.

    Raises:
        NotRestorableError: when one takes the place of a method.
    """
    # What typing notes on an object of a class with a parameter is no attribute of anybody's.
    others = {key: item for key, item in vars(obj).items() if key not in known}
    others.pop("__orig_class__", None)
    for name in others:
        if callable(getattr(type(obj), name, None)):
            raise NotRestorableError(name, f"a method of this {type(obj).__qualname__} is replaced")
    return {"attributes": others} if others else {}


def checked(parts: Mapping[str, Any], attributes: Mapping[str, Fits]) -> dict[str, Any]:
    """Return the attributes that parts say, once each is known to be fit.

    Raises:
        KeyError: when a part is missing.
        TypeError: when one isn't what it has to be.
    """
    values = {name: parts[name.removeprefix("_")] for name in attributes}
    for name, fits in attributes.items():
        if not fits(values[name]):
            raise TypeError(f"{name} can't be a {type(values[name]).__qualname__} like this")
    return values


def checked_added(cls: type, parts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `added` found, once it is known to take nothing's place.

    Raises:
        TypeError: when it would.
    """
    others = parts.get("attributes", {})
    if type(others) is not dict:
        raise TypeError("attributes has to be a dict")
    for name in others:
        if not isinstance(name, str) or not name.isidentifier() or name in known:
            raise TypeError(f"a {type(name).__qualname__} can't be the name of an added attribute")
        if callable(getattr(cls, name, None)):
            raise TypeError(f"{name!r} is a method of {cls.__qualname__}")
    return others


def _kind(name: str, classes: Mapping[str, Mapping[str, Fits]]) -> Kind:
    def handles(obj: Any) -> bool:
        return class_name(type(obj)) in classes

    def parts(obj: Any) -> dict[str, Any]:
        attributes = classes[class_name(type(obj))]
        return {**parts_of(obj, attributes), **added(obj, attributes)}

    def build(cls: type, parts: dict[str, Any]) -> Any:
        attributes = classes.get(class_name(cls))
        if attributes is None:
            raise TypeError(f"{cls.__qualname__} is no {name} of torch's own")
        values = checked(parts, attributes)
        built: Any = object.__new__(cls)
        vars(built).update(checked_added(cls, parts, attributes))
        vars(built).update(values)
        return built

    return Kind(name, handles, parts, build, tuple(classes))


SAMPLER = _kind("sampler", SAMPLERS)
DATASET = _kind("dataset", DATASETS)
