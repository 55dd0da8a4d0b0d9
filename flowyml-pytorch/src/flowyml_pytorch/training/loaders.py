"""DataLoaders as readable recipes: every argument by name, the sampler, the generators' state.

A loader that comes back yields bitwise the batches that the original would have yielded, had
``iter()`` been called on it when it was saved. What says so has to be the loader's own:

- The generators that it and its samplers hold are saved with their state. One that both hold is
  one object again, and so is a dataset that is shared.
- Without a generator, torch draws seeds from its default generator when an epoch begins. That
  one isn't the loader's, and isn't saved: both yield the same from the same global state.
- An iterator isn't saved. An epoch that has begun is over for the loader that comes back, except
  for torchdata's ``StatefulDataLoader``, which goes on after the batch that it yielded last.
- Workers that stay (``persistent_workers``) hold state that can't be read: refused once they run.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import (
    ChainDataset,
    DataLoader,
    IterableDataset,
    IterDataPipe,
    MapDataPipe,
    default_collate,
    default_convert,
)

from flowyml_pytorch.storing.kinds import Kind, NotRestorableError
from flowyml_pytorch.training import stateful
from flowyml_pytorch.training.datasets import REFERENCE
from flowyml_pytorch.training.samplers import (
    DATASET,
    SAMPLER,
    Fits,
    added,
    anything,
    checked,
    checked_added,
    is_count,
    is_duration,
    is_flag,
    is_generator,
    is_size,
    or_none,
    parts_of,
)

_COLLATE: Mapping[str, Callable[..., Any]] = {
    "default_collate": default_collate,
    "default_convert": default_convert,
}

_SETTINGS: Mapping[str, Fits] = {
    "dataset": anything,
    "batch_size": or_none(is_count),
    "drop_last": is_flag,
    "sampler": lambda value: value is not None,
    "batch_sampler": anything,
    "generator": or_none(is_generator),
    "collate_fn": or_none(callable),
    "num_workers": is_size,
    "worker_init_fn": or_none(callable),
    "prefetch_factor": or_none(is_size),
    "persistent_workers": is_flag,
    "in_order": is_flag,
    "timeout": is_duration,
    "pin_memory": is_flag,
    "pin_memory_device": lambda value: isinstance(value, str),
}
"""Arguments of a loader, which are attributes of it under the same names."""

_STATEFUL: Mapping[str, Fits] = {**_SETTINGS, "snapshot_every_n_steps": or_none(is_size)}

_CONTEXT = "_DataLoader__multiprocessing_context"
_OWN = {
    **dict.fromkeys(_STATEFUL),
    **dict.fromkeys((_CONTEXT, "_DataLoader__initialized", "_dataset_kind", "_iterator")),
    **dict.fromkeys(("_IterableDataset_len_called", "_initial_iter_for_state_dict")),
    "next_iter_state": None,
}
"""Attributes that a loader has of its own: arguments, and where it stands in an epoch."""


def _settings(cls: type) -> Mapping[str, Fits]:
    return _STATEFUL if stateful.is_stateful(cls) else _SETTINGS


def _parts(loader: Any) -> dict[str, Any]:
    cls = type(loader)
    for hook in ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__"):
        if getattr(cls, hook, None) is not getattr(DataLoader, hook, None):
            raise NotRestorableError("", f"{cls.__qualname__} is restored by code of its own")
    _check_dataset(loader)
    parts = parts_of(loader, _settings(cls))
    for name in ("collate_fn", "worker_init_fn"):
        parts[name] = _function_part(parts[name])
    parts["multiprocessing_context"] = _context_part(loader)
    if stateful.is_stateful(cls):
        parts.update(stateful.progress(loader))
    else:
        _check_not_running(loader)
    own = {**_OWN, stateful.RESUMES: None} if stateful.has_come_back(loader) else _OWN
    return {**parts, **added(loader, own)}


def _build(cls: type, parts: dict[str, Any]) -> Any:
    if not issubclass(cls, DataLoader):
        raise TypeError(f"{cls.__qualname__} is no DataLoader")
    settings = _settings(cls)
    functions = {name: _function(parts[name]) for name in ("collate_fn", "worker_init_fn")}
    values = checked({**parts, **functions}, settings)
    if isinstance(values["dataset"], (IterDataPipe, MapDataPipe)):
        raise TypeError("a DataPipe can't be a dataset here")
    # What a loader has beyond its arguments is the matter of this version of torch; nothing of
    # the sampler, the workers or the batch size is made use of before an epoch begins.
    made = DataLoader(values["dataset"])
    loader: Any = object.__new__(cls)
    vars(loader).update(checked_added(cls, parts, _OWN))
    vars(loader).update(vars(made))
    vars(loader).update(values)
    vars(loader)[_CONTEXT] = _context(parts["multiprocessing_context"])
    if stateful.is_stateful(cls):
        stateful.restore_progress(loader, parts)
    return loader


def _check_dataset(loader: Any) -> None:
    dataset = loader.dataset
    if isinstance(dataset, (IterDataPipe, MapDataPipe)):
        raise NotRestorableError("dataset", "a DataPipe; give the loader a map-style dataset")
    if not _is_stream(dataset) or (
        stateful.is_stateful(type(loader)) and stateful.has_state(dataset)
    ):
        return
    raise NotRestorableError(
        "dataset",
        f"{type(dataset).__qualname__} is an iterable stream, and what it would yield next can't "
        f"be known. Give the loader a map-style dataset or a DatasetRef to one, or give the class "
        f"a __len__ if it starts over in every epoch",
    )


def _is_stream(dataset: Any) -> bool:
    """Tell whether a dataset is iterable and endless, as far as is known: it has no length."""
    if isinstance(dataset, ChainDataset) and isinstance(dataset.datasets, (list, tuple)):
        return any(map(_is_stream, dataset.datasets))
    return isinstance(dataset, IterableDataset) and not hasattr(type(dataset), "__len__")


def _check_not_running(loader: Any) -> None:
    if loader._iterator is not None:
        raise NotRestorableError(
            "persistent_workers",
            "the workers are running, and the state that they hold can't be read. Save the loader "
            "before its first epoch, or set loader._iterator = None between two epochs: the next "
            "one then starts new workers, here and in the loader that comes back",
        )


def _function_part(function: Any) -> Any:
    """Return torch's own ways to collate by name: readable, and nothing to trust."""
    return next((name for name, own in _COLLATE.items() if function is own), function)


def _function(part: Any) -> Any:
    return _COLLATE[part] if isinstance(part, str) else part


def _context_part(loader: Any) -> str | None:
    context = loader.multiprocessing_context
    if context is None:
        return None
    for name in multiprocessing.get_all_start_methods():
        if context is multiprocessing.get_context(name):
            return name
    raise NotRestorableError(
        "multiprocessing_context", f"a {type(context).__qualname__} is none of the start methods"
    )


def _context(name: Any) -> Any:
    if name is None:
        return None
    if not isinstance(name, str) or name not in multiprocessing.get_all_start_methods():
        known = ", ".join(multiprocessing.get_all_start_methods())
        raise ValueError(f"multiprocessing_context {name!r} is none of those known here: {known}")
    return multiprocessing.get_context(name)


LOADER = Kind(
    "loader",
    lambda obj: isinstance(obj, DataLoader),
    _parts,
    _build,
    (
        "torch.utils.data.dataloader.DataLoader",
        "torchdata.stateful_dataloader.stateful_dataloader.StatefulDataLoader",
    ),
)

KINDS: tuple[Kind, ...] = (LOADER, SAMPLER, DATASET, REFERENCE)
