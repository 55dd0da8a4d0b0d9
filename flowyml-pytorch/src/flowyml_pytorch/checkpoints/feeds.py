"""A loader as something to go through pass by pass: what of it has a state, and can't be seen.

Where the state of a loader can't be had, going on isn't exact, and the reason is noted as soon as
it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, IterDataPipe, MapDataPipe, Sampler

from flowyml.properties import type_name
from flowyml_pytorch.checkpoints.packing import packed, unpacked
from flowyml_pytorch.checkpoints.visible import Visible, look, set_scalar
from flowyml_pytorch.training import stateful
from flowyml_pytorch.training.samplers import SAMPLERS, class_name

Note = Callable[[str], None]
"""Takes a reason why going on isn't exact."""

_HELD = ("dataset", "sampler", "batch_sampler", "collate_fn", "generator")


class Feed:
    """A loader, pass by pass."""

    def __init__(self, loader: Any, note: Note) -> None:
        self.loader = loader
        self.note = note
        self.is_loader = isinstance(loader, DataLoader)
        self._first = dict(self.look().scalars)
        self._changed: set[str] = set()

    def look(self) -> Visible:
        """Look at what is held by the loader, or at the object itself."""
        return look(self.roots())

    def roots(self) -> dict[str, Any]:
        """Return what may have a state, by the names that it goes by."""
        if not self.is_loader:
            return {"loader": self.loader}
        return {name: getattr(self.loader, name, None) for name in _HELD}

    def moment(self) -> dict[str, Any]:
        """Return what the loader holds now: states of generators, and values that have changed."""
        seen = self.look()
        self._changed |= {p for p, v in seen.scalars.items() if self._first.get(p) != v}
        scalars = {path: seen.scalars.get(path) for path in sorted(self._changed)}
        generators = seen.states()
        for path, state in generators.items():
            if state is None:
                self.note(f"the loader's {path} draws numbers that can't be drawn again")
        return {"generators": packed(generators), "scalars": packed(scalars)}

    def put(self, moment: Mapping[str, Any]) -> None:
        """Put the loader back into a moment."""
        for path, value in unpacked(moment["scalars"]).items():
            self._changed.add(path)
            if not set_scalar(self.roots(), path, value):
                self.note(f"the loader has no {path} any more")
        for path in self.look().put(unpacked(moment["generators"])):
            self.note(f"the state of the loader's {path} can't be put back")

    def set_epoch(self, epoch: int) -> None:
        """Tell samplers that order by the number of the epoch which one it is."""
        for sampler in self.samplers():
            if callable(getattr(sampler, "set_epoch", None)):
                sampler.set_epoch(epoch)

    def samplers(self) -> list[Any]:
        """Return the loader's samplers, and those in them."""
        found: list[Any] = []
        names = ("batch_sampler", "sampler") if self.is_loader else ("sampler",)
        waiting = [getattr(self.loader, name, None) for name in names]
        while waiting:
            sampler = waiting.pop()
            if isinstance(sampler, Sampler) and not any(sampler is each for each in found):
                found.append(sampler)
                waiting.append(getattr(sampler, "sampler", None))
        return found

    def facts(self) -> dict[str, Any]:
        """Return what has to be the same when a pass is gone on with."""
        if not self.is_loader:
            return {"loader": type_name(self.loader)}
        replicas = [getattr(sampler, "num_replicas", 1) for sampler in self.samplers()]
        return {
            "loader": type_name(self.loader),
            "samples": _length(self.loader.dataset),
            "batch_size": _batch_size(self.loader),
            "num_workers": self.loader.num_workers,
            "processes": max(replicas, default=1),
        }


def _length(obj: Any) -> int | None:
    try:
        return len(obj)
    except TypeError:
        return None


def _batch_size(loader: Any) -> int:
    """Return how many samples a batch has; 1 where a batch sampler doesn't say."""
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) else 1


def reasons(feed: Feed, begun: bool) -> Iterator[str]:
    """Yield why a pass over a feed can't be gone on with exactly, as far as that shows at once."""
    loader = feed.loader
    if not feed.is_loader:
        if not stateful.has_state(loader) and not isinstance(loader, (list, tuple, range)):
            yield (
                f"whether a {type_name(loader)} yields the same again can't be known. Pass a "
                f"DataLoader, or something with state_dict and load_state_dict"
            )
        return
    dataset = loader.dataset
    name = type(dataset).__qualname__
    if isinstance(dataset, (IterDataPipe, MapDataPipe)):
        yield "the dataset is a DataPipe, whose state can't be had. Use a map-style dataset"
    elif _is_endless(dataset) and not stateful.has_state(dataset):
        yield (
            f"{name} is an iterable stream, and whether it yields the same again can't be known. "
            f"Give the class a __len__ if it starts over in every epoch, or state_dict and "
            f"load_state_dict"
        )
    if loader.num_workers > 1 and not getattr(loader, "in_order", True):
        yield "in_order=False lets batches come as they get ready"
    if begun:
        yield (
            "persistent_workers keep what they have drawn and changed in the epochs before, which "
            "can't be seen"
        )
    for path in feed.look().iterators:
        if loader.num_workers == 0 or "sampler" in path:
            yield f"the place of the iterator {path} in the loader can't be seen"


def stays(loader: Any) -> bool:
    """Tell whether a loader's workers stay from pass to pass."""
    return bool(loader.persistent_workers and loader.num_workers)


def is_stream(dataset: Any) -> bool:
    """Tell whether a dataset is gone through, rather than asked for items."""
    return isinstance(dataset, IterableDataset)


def _is_endless(dataset: Any) -> bool:
    return is_stream(dataset) and not hasattr(type(dataset), "__len__")


def goes_on(feed: Feed) -> bool:
    """Tell whether a loader of torchdata has to go on by itself, as its dataset has a state."""
    return (
        feed.is_loader
        and stateful.is_stateful(type(feed.loader))
        and stateful.has_state(feed.loader.dataset)
    )


def holder(feed: Feed) -> Any:
    """Return what has the state of a pass: the loader or the dataset of another kind, or None."""
    if not feed.is_loader:
        return feed.loader if stateful.has_state(feed.loader) else None
    dataset = feed.loader.dataset
    alone = feed.loader.num_workers == 0 and is_stream(dataset)
    return dataset if alone and stateful.has_state(dataset) else None


def is_known(sampler: Any) -> bool:
    """Tell whether a sampler is known to draw at once, or from a generator of its own."""
    kind = type(sampler)
    return class_name(kind) in SAMPLERS or kind.__module__.startswith("flowyml_pytorch.")
