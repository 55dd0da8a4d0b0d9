"""torchdata's StatefulDataLoader: it goes on in the middle of the epoch in which it was saved.

torchdata starts such an epoch over and passes by what was yielded. That is exact only where the
order of the epoch can be had again, and it draws seeds anew that the original drew when its epoch
began; this module sees to both. torchdata is looked up in ``sys.modules`` and never imported.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler
from torch.utils.data.dataloader import _InfiniteConstantSampler

from flowyml_pytorch.storing.kinds import NotRestorableError

RESUMES = "_get_iterator"
"""Attribute of a loader that has come back, until it has made its first iterator."""

_SAME_EVERY_TIME = (SequentialSampler, DistributedSampler, _InfiniteConstantSampler, list, range)


def is_stateful(cls: type) -> bool:
    """Tell whether loaders of a class can go on in the middle of an epoch."""
    stateful = getattr(sys.modules.get("torchdata.stateful_dataloader"), "StatefulDataLoader", None)
    return stateful is not None and issubclass(cls, stateful)


def has_state(obj: Any) -> bool:
    """Tell whether an object has a state of its own, as torchdata understands it."""
    return callable(getattr(obj, "state_dict", None)) and callable(
        getattr(obj, "load_state_dict", None)
    )


def progress(loader: Any) -> dict[str, Any]:
    """Return the part that says how far an epoch has come; none between two epochs.

    Raises:
        NotRestorableError: when the rest of the epoch couldn't be had again.
    """
    waiting = loader.next_iter_state
    if waiting is not None:  # it has come back itself, or was given a state, and not begun yet
        return {"state" if _resumes(loader, waiting) else "next_iter_state": waiting}
    iterator = loader._iterator
    if iterator is None or (iterator._finished and not loader.persistent_workers):
        return {}
    _check_can_go_on(loader)
    return {"state": loader.state_dict()}


def restore_progress(loader: Any, parts: Mapping[str, Any]) -> None:
    """Make a loader go on where its parts say."""
    state = parts.get("state", parts.get("next_iter_state"))
    vars(loader).update(next_iter_state=None, _initial_iter_for_state_dict=False)
    if state is None:
        return
    if type(state) is not dict:
        raise TypeError("the state of a loader has to be a dict")
    vars(loader)["next_iter_state"] = state
    if "state" in parts:
        vars(loader)[RESUMES] = functools.partial(_resume, loader, state)


def _resume(loader: Any, state: dict[str, Any]) -> Any:
    """Make the iterator that goes on; the generator stays where the original's is."""
    del vars(loader)[RESUMES]
    if loader.next_iter_state is not state:  # it was given another
        return loader._get_iterator()
    generator = torch.default_generator if loader.generator is None else loader.generator
    now = generator.get_state()
    try:
        return loader._get_iterator()
    finally:
        generator.set_state(now)


def has_come_back(loader: Any) -> bool:
    """Tell whether a loader has come back in the middle of an epoch, and not gone on yet."""
    resume = vars(loader).get(RESUMES)
    return isinstance(resume, functools.partial) and resume.func is _resume


def _resumes(loader: Any, state: Any) -> bool:
    return has_come_back(loader) and vars(loader)[RESUMES].args[1] is state


def _check_can_go_on(loader: Any) -> None:
    indices = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if not _can_be_had_again(indices):
        raise NotRestorableError(
            "sampler" if indices is loader.sampler or loader.batch_size else "batch_sampler",
            f"in the middle of an epoch, the order that a {type(indices).__qualname__} of a "
            f"{type(loader.sampler).__qualname__} drew can't be had again. Save the loader between "
            f"two epochs, use shuffle=True, or a sampler with state_dict and load_state_dict",
        )
    sampler = getattr(indices, "sampler", indices)
    if not loader._iterator._num_yielded and getattr(sampler, "yielded", None):
        raise NotRestorableError(
            "sampler",
            f"a {type(sampler).__qualname__} says where the epoch before ended until it is asked "
            f"for the first index. Save the loader between two epochs, or after a batch",
        )
    if loader.num_workers or loader.generator is None or not hasattr(sampler, "num_samples"):
        return
    if loader.generator is getattr(sampler, "generator", None) and (
        sampler.replacement or sampler.num_samples > len(sampler.data_source)
    ):
        raise NotRestorableError(
            "generator",
            "in the middle of an epoch, torchdata can't go on with a sampler that draws several "
            "times from the loader's own generator. Save the loader between two epochs, or give "
            "the sampler a generator of its own",
        )


def _can_be_had_again(indices: Any) -> bool:
    """Tell whether torchdata finds its way back to where an iterator over indices was."""
    kind = type(indices)
    if kind in _SAME_EVERY_TIME or has_state(indices):
        return True
    if not kind.__module__.startswith("torchdata."):
        return kind is BatchSampler and type(indices.sampler) in _SAME_EVERY_TIME
    sampler = getattr(indices, "sampler", None)
    return sampler is None or _can_be_had_again(sampler)
