"""One pass over a loader, which can be gone on with in another process.

A pass is gone on with by beginning it again from the same random states and leaving out what was
yielded: indices only, where the main process loads, since what it draws besides is put back
afterwards; whole batches, where workers draw as well. What has a state of its own is given that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from flowyml import seeds
from flowyml.digests import hasher
from flowyml_pytorch.checkpoints.feeds import (
    Feed,
    Note,
    goes_on,
    holder,
    is_known,
    is_stream,
    reasons,
    stays,
)
from flowyml_pytorch.checkpoints.packing import NotPlainError, packed, unpacked
from flowyml_pytorch.checkpoints.visible import global_marks
from flowyml_pytorch.storing.kinds import NotRestorableError
from flowyml_pytorch.training import stateful


class Pass:
    """One pass over a feed: an iterator of batches that knows where it stands."""

    def __init__(self, feed: Feed, epoch: int) -> None:
        self._feed = feed
        self._epoch = epoch
        self._watch: _Watch | None = None
        self._iterator: Iterator[Any] = iter(())
        self._saved: dict[str, Any] = {}
        self._draws = False
        self._number = 0

    def begin(self) -> None:
        """Begin at the first batch."""
        feed = self._feed
        feed.set_epoch(self._epoch)
        begun = feed.is_loader and feed.loader._iterator is not None and stays(feed.loader)
        self._saved = {
            "facts": feed.facts(),
            "random": packed(seeds.Randomness.now().packed()),
            "start": feed.moment(),
            "sampler": self._sampler_state(),
            "begun": begun,
        }
        self._check()
        self._open()

    def resume(self, saved: Mapping[str, Any], batches: int, *, same: bool) -> None:
        """Go on where a pass has stood.

        Args:
            saved: what `state` returned.
            batches: how many it had yielded.
            same: whether the processes are those of then, so that this one stands where it stood.
        """
        feed = self._feed
        feed.set_epoch(self._epoch)
        self._saved = {key: saved[key] for key in ("facts", "random", "start", "sampler", "begun")}
        self._check()
        if saved["begun"] and stays(feed.loader) and feed.loader._iterator is None:
            iter(feed.loader)  # workers that stay are started once, which draws a seed
        feed.put(saved["start"])
        feed.set_epoch(self._epoch)
        self._put_sampler_state(saved["sampler"])
        seeds.put(unpacked(saved["random"]))
        own = saved["state"] is not None and self._put_own_state(saved["state"])
        self._open()
        if not own:
            self._skip(self._converted(batches))
        self._number = max(self._number, 1)
        if same:
            feed.put(saved["now"])
            self._compare(saved)

    def _converted(self, batches: int) -> int:
        """Return the batches that hold as many samples as those of then, on all processes."""
        then, now = self._saved["facts"], self._feed.facts()
        told = [f"{key}: {then.get(key)} then, {now[key]} now" for key in now]
        differing = [text for text, key in zip(told, now, strict=True) if then.get(key) != now[key]]
        if differing:
            self._feed.note(f"the loader isn't the one of then ({'; '.join(differing)})")
        self._saved["facts"] = now
        if not {"batch_size", "processes"} <= then.keys() & now.keys():
            return batches
        samples = batches * int(then["batch_size"]) * int(then["processes"])
        return samples // (int(now["batch_size"]) * int(now["processes"]))

    def _compare(self, saved: Mapping[str, Any]) -> None:
        digest = self._watch.digest() if self._watch else None
        if None not in (digest, saved["indices"]) and digest != saved["indices"]:
            self._feed.note("the sampler yields other samples than it did then")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._draws or self._number == 0:
            self._number += 1
            return next(self._iterator)
        have_changed = global_marks()
        batch = next(self._iterator)
        if have_changed():
            self._draws = False
            self._feed.note(
                f"{self._drawing()} draws random numbers from the global generators as it goes, "
                f"between those that the training draws. Give it a generator of its own, or let "
                f"it draw all when it is asked for the first"
            )
        return batch

    def state(self) -> dict[str, Any]:
        """Return what `resume` takes; JSON data."""
        return {
            **self._saved,
            "now": self._feed.moment(),
            "state": self._own_state(),
            "indices": self._watch.digest() if self._watch else None,
        }

    # Below: how loaders of different kinds begin, and what of them can't be exact.

    def _open(self) -> None:
        feed = self._feed
        self._iterator = iter(feed.loader)
        self._number = 0
        custom = [s for s in feed.samplers() if not is_known(s)]
        if not feed.is_loader:
            self._draws = True
        elif feed.loader.num_workers == 0 and not is_stream(feed.loader.dataset):
            if hasattr(self._iterator, "_sampler_iter") and not stateful.is_stateful(
                type(feed.loader)
            ):
                inner: Any = self._iterator
                told = self._told_of_sampler if custom else None
                going = _as_it_goes(feed.samplers())
                self._watch = _Watch(inner._sampler_iter, told, going, feed.note)
                inner._sampler_iter = self._watch
        else:
            self._draws = bool(custom) or feed.loader.num_workers == 0

    def _told_of_sampler(self) -> None:
        self._feed.note(
            f"{self._drawing()} draws random numbers from the global generators as it goes, "
            f"between those that the training draws. Give it a generator of its own"
        )

    def _drawing(self) -> str:
        custom = [sampler for sampler in self._feed.samplers() if not is_known(sampler)]
        if custom:
            return f"the sampler {type(custom[0]).__qualname__}"
        source = self._feed.loader.dataset if self._feed.is_loader else self._feed.loader
        return type(source).__qualname__

    def _skip(self, batches: int) -> None:
        for _ in range(batches):
            try:
                if self._by_index():
                    inner: Any = self._iterator
                    inner._next_index()
                    inner._num_yielded += 1
                else:
                    next(self._iterator)
            except StopIteration:
                self._feed.note("the loader has fewer batches than it had yielded then")
                return

    def _by_index(self) -> bool:
        loader = self._feed.loader
        return (
            self._feed.is_loader
            and loader.num_workers == 0
            and not is_stream(loader.dataset)
            and hasattr(self._iterator, "_next_index")
            and hasattr(self._iterator, "_num_yielded")
        )

    def _sampler_state(self) -> Any:
        """Return the state of a sampler that has one, from which it begins."""
        states = [s.state_dict() for s in self._stateful_samplers()]
        try:
            return packed(states)
        except NotPlainError as error:
            self._feed.note(f"the state of a sampler holds {error}")
            return []

    def _stateful_samplers(self) -> list[Any]:
        return [s for s in self._feed.samplers() if stateful.has_state(s) and not is_known(s)]

    def _put_sampler_state(self, states: Any) -> None:
        for sampler, state in zip(self._stateful_samplers(), unpacked(states), strict=False):
            sampler.load_state_dict(state)

    def _own_state(self) -> Any:
        """Return the state of what goes on by itself; None for what is begun again."""
        loader = self._feed.loader
        try:
            if goes_on(self._feed):
                return packed(stateful.progress(loader))
            held = holder(self._feed)
            return None if held is None else packed(held.state_dict())
        except (NotRestorableError, NotPlainError) as error:
            self._feed.note(f"the state of the {type(loader).__qualname__} can't be had: {error}")
            return None

    def _put_own_state(self, state: Any) -> bool:
        value = unpacked(state)
        if goes_on(self._feed):
            stateful.restore_progress(self._feed.loader, value)
            return True
        held = holder(self._feed)
        if held is not None:
            held.load_state_dict(value)
        return held is not None

    def _check(self) -> None:
        """Note what is known from the beginning not to be exact."""
        for reason in reasons(self._feed, self._saved["begun"]):
            self._feed.note(reason)


class _Watch:
    """An iterator of indices that keeps a digest of them, and looks who draws when."""

    def __init__(
        self, indices: Iterator[Any], told: Callable[[], None] | None, sampler: Any, note: Note
    ) -> None:
        """Watch.

        Args:
            indices: what is watched.
            told: called when it draws from the global generators again and again; None for what
                is known not to.
            sampler: the sampler that draws as it goes from a generator of its own, or None.
            note: takes a reason why going on isn't exact.
        """
        self._indices = indices
        self._told = told
        self._sampler = sampler
        self._note = note
        self._begun = False
        self._after: Tensor | None = None
        self._hasher = hasher()

    def digest(self) -> str:
        """Return the digest of all indices so far."""
        found: str = self._hasher.copy().hexdigest()
        return found

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._look_at_generator()
        have_changed = global_marks() if self._told and self._begun else None
        self._begun = True
        index = next(self._indices)
        if have_changed is not None and have_changed() and self._told:
            self._told()
            self._told = None
        if self._sampler is not None:
            self._after = self._sampler.generator.get_state()
        if type(index) in (int, list, tuple):
            self._hasher.update(repr(index).encode())
        return index

    def _look_at_generator(self) -> None:
        """Note it when others draw from a generator that the sampler isn't done with."""
        if self._after is None or torch.equal(self._after, self._sampler.generator.get_state()):
            return
        self._note(
            f"the generator of the {type(self._sampler).__qualname__} is drawn from by others "
            f"while it draws as it goes. Give it one of its own"
        )
        self._sampler = self._after = None


def _as_it_goes(samplers: list[Any]) -> Any:
    """Return the sampler of torch's that draws as it goes, from a generator that others may hold.

    The others draw all they need when they are asked for the first index.
    """
    for sampler in samplers:
        if type(sampler) is not RandomSampler or sampler.generator is None:
            continue
        if sampler.replacement or sampler.num_samples > len(sampler.data_source):
            return sampler
    return None
