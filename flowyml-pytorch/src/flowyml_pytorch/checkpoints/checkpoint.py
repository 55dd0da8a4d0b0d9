"""`Checkpoint`: training that survives, saved in the background and gone on with exactly.

A save is asked for anywhere in the body of a loop, and taken when the body is done: whatever
follows there, such as a scheduler's step or an evaluation that draws random numbers, belongs to it.
So a process that goes on finds everything as it was when the next batch was about to come.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

import flowyml
from flowyml.errors import AssetNotFoundError
from flowyml.interfaces import Group
from flowyml.names import check_name, from_text
from flowyml.store import Store
from flowyml_pytorch.checkpoints.exactness import Exactness
from flowyml_pytorch.checkpoints.intervals import Clock, Every
from flowyml_pytorch.checkpoints.loops import Boundary, Loops
from flowyml_pytorch.checkpoints.parts import Parts
from flowyml_pytorch.checkpoints.progress import Best, History, Number, Progress, number_of
from flowyml_pytorch.checkpoints.resuming import Ahead, found_in_group
from flowyml_pytorch.checkpoints.saver import Moment, Saver
from flowyml_pytorch.checkpoints.versions import Versions

_OWN = ("checkpoint", "progress", "history", "random", "loader")
"""What a checkpoint holds besides the states of objects."""


class Checkpoint:
    """Saves what is trained, and goes on from what was saved.

    In a step that is restarted, retried or resumed, making it puts everything back as it was in
    the last checkpoint of the same call; the loops go on from there.

    Every process of a group makes one, and goes through the same loops and calls.

    Attributes:
        name: the name of the asset.
        store: where its versions are.
        resumed: the ref of the version that training goes on from, or None.
    """

    def __init__(
        self,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        dataloader: Any = None,
        name: str | None = None,
        store: Store | str | os.PathLike[str] | None = None,
        every: Any = None,
        keep: int | None = 3,
        best: str | tuple[str, str] | None = None,
        resume: bool | str | None = None,
        **others: Any,
    ) -> None:
        """Take what is trained.

        Args:
            model: a module, or a list or dict of them; so with the next three.
            optimizer: its optimizer.
            scheduler: what schedules the learning rate.
            scaler: a gradient scaler.
            dataloader: what `batches` goes through by default.
            name: of the asset; by default the step's with ``.checkpoint``, or ``"checkpoint"``.
            store: where; by default the step's.
            every: how often a call of `save` saves: ``100`` or ``"100 steps"`` (batches),
                ``"1 epoch"``, ``"30 seconds"``, a timedelta; by default each time.
            keep: how many versions stay, the last ones and the best; None keeps all.
            best: the metric by which one is the best, the less the better: ``"loss"``, or
                ``("accuracy", "max")``.
            resume: what to go on from: True is the newest version of the name, a ref that one,
                False none. By default the newest of the same call of the step.
            **others: further objects with ``state_dict`` and ``load_state_dict``, and generators.

        Raises:
            TypeError: for an object that has no state, or one that can't be stored.
            ValueError: for an unfit name or number.
            MaterializationError: when what was saved doesn't fit; nothing is changed then.
            AssetNotFoundError: when the version to go on from isn't there.
        """
        context = flowyml.current()
        given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
        objects = {key: obj for key, obj in given.items() if obj is not None} | _checked(others)
        if not objects:
            raise TypeError("Checkpoint takes what is trained, as in Checkpoint(model=net)")
        default = from_text(f"{context.step}.checkpoint") if context.step else "checkpoint"
        self.name = check_name(name if name is not None else default)
        self.store = context.store if store is None else Store.of(store)
        self.resumed: str | None = None
        self._every = Every.of(every)
        self._best = Best.of(best)
        self._group: Group | None = context.group if context.world_size > 1 else None
        self._parts = Parts(objects)
        tag = ("call", context.call) if context.call else ("training", os.urandom(8).hex())
        versions = Versions(self.store, self.name, tag, _checked_keep(keep), self._best)
        self._saver = Saver(self._parts, versions, self._group)
        self._clock = Clock(self._every.count, self._group, f"{self._saver.channel} clock")
        self._exactness = Exactness(self.name)
        self._history = History()
        self._metrics: dict[str, Any] = {}
        self._last = Progress()
        self._taken: Any = None
        self._asked = self._pending = self._prepared = False
        self._loops = Loops(dataloader, self._exactness.note)
        self._loader = dataloader
        self._resume(resume, context.call)
        self._saver.prepare()

    def _resume(self, resume: bool | str | None, call: str | None) -> None:
        versions = self._saver.versions
        found = found_in_group(versions, resume, call, self._group, self._saver.channel)
        if found is None:
            return
        asset, data = found
        ref = str(asset.ref)
        ahead = Ahead.of(data, ref, self._group)
        self._parts.load({key: data[key] for key in data if key not in _OWN}, ref)
        self._history = History.of(data["history"])
        versions.adopt(asset)
        self.resumed = ref
        self._last = ahead.progress
        self._taken = attrs.asdict(ahead.progress), self._history.length()
        for reason in (*asset.metadata.properties.get("reasons", ()), *ahead.reasons):
            self._exactness.note(reason)
        self._loops.go_on(ahead)

    # What is known.

    @property
    def epoch(self) -> int:
        """How many epochs are done: the number of the one that is under way, from 0."""
        return self._loops.progress.epoch

    @property
    def step(self) -> int:
        """How many batches `batches` has yielded in all; without it, calls of `save`."""
        return self._loops.progress.step

    @property
    def history(self) -> dict[str, list[Number]]:
        """Every value that `save` was given, by name."""
        return self._history.lists()

    @property
    def exact(self) -> bool:
        """Whether going on would give bitwise what training without a break gives."""
        return not self._exactness.reasons

    @property
    def reason(self) -> str | None:
        """Why it isn't exact; None when it is."""
        return "; ".join(self._exactness.reasons) or None

    @property
    def latest(self) -> str | None:
        """The ref of the newest version that is on the disk."""
        return self._saver.versions.latest

    @property
    def best(self) -> str | None:
        """The ref of the best version on the disk, by the metric of ``best=``."""
        best = self._saver.versions.best
        return None if best is None else best.ref

    @property
    def waited(self) -> float:
        """Seconds for which the loop has waited for earlier saves to be written."""
        return self._saver.writer.waited

    def __repr__(self) -> str:
        where = f"epoch {self.epoch}, step {self.step}"
        return f"<Checkpoint {self.latest or self.name}: {where}>"

    # The loops.

    def epochs(self, count: int) -> Iterator[int]:
        """Go through the epochs up to a number, from 0 or from where training goes on.

        When it is through, the last state is on the disk.

        Raises:
            Exception: what came of saving in the background, if it failed.
        """
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"epochs() takes a number of epochs; got {count!r}")
        return self._epochs(count)

    def _epochs(self, count: int) -> Iterator[int]:
        yield from self._loops.epochs(count, self._boundary)
        self._loops.arrive(None)
        if self._taken != self._where():
            self._take()
        self.wait()

    def batches(self, loader: Any = None) -> Batches:
        """Go through the batches of a loader, from the first or from where training goes on.

        Args:
            loader: by default ``dataloader=``.
        """
        loader = self._loader if loader is None else loader
        if loader is None:
            raise TypeError("batches() takes a loader, unless Checkpoint has got a dataloader=")
        return Batches(self._loops, loader, self._boundary)

    def stop(self) -> None:
        """End the loop over epochs when this one is done; it is remembered when resumed."""
        self._loops.progress.finished = True

    # Saving.

    def save(self, **metrics: Any) -> None:
        """Note values, and save if that is due: when the body of the loop around it is done.

        Args:
            **metrics: numbers by name, for `history`, ``best=`` and the version's properties.

        Raises:
            TypeError: for what is no number.
            Exception: what came of saving in the background, if it failed.
        """
        loops = self._loops
        if loops.is_catching_up:
            return  # this call was counted then
        self._saver.writer.check()
        self._history.add(metrics)
        self._metrics.update(metrics)
        if loops.progress.loops_by == "none":
            loops.progress.step += 1
        due = self._is_due(metrics)
        if not loops.in_epochs and not loops.in_batches:
            if due:
                self._take()
            return
        if due and self._pending and not loops.in_batches and not loops.progress.loops:
            self._exactness.note(
                "checkpoints were saved in the middle of epochs whose batches don't come from "
                "ckpt.batches(loader), so that such an epoch begins anew"
            )
            self._take()
        self._pending |= due
        if not due and not self._prepared:
            self._prepared = True  # by now optimizers have their state
            self._saver.prepare()

    def save_now(self, **metrics: Any) -> None:
        """Save this very moment, whether due or not; what follows in the body isn't part of it."""
        if self._loops.is_catching_up:
            return
        self._history.add(metrics)
        self._metrics.update(metrics)
        self._take()

    def wait(self) -> None:
        """Wait until everything that was to be saved is on the disk.

        A save that was asked for in a loop that was left, as by ``break``, is taken now.

        Raises:
            Exception: what came of saving, if it failed.
        """
        if self._pending:
            self._take()
        self._saver.writer.finish()

    def load_best(self) -> str:
        """Put the weights of the best version into the model; return its ref.

        Raises:
            AssetNotFoundError: when there is none yet.
        """
        self.wait()
        best = self.best
        if best is None:
            raise AssetNotFoundError(
                f"{self.name} has no best version: give best= a metric, as in best='loss', and "
                f"save() a value of it."
            )
        self._parts.load_models(self.store.load(best), best)
        return best

    def _is_due(self, metrics: Mapping[str, Any]) -> bool:
        self._asked = True
        every = self._every
        due = False
        if every.unit == "steps":
            due = self.step - self._last.step >= every.count
        elif every.unit == "seconds":
            due = self._clock.is_due()
        best = self._best
        if best is not None and best.metric in metrics and not self._loops.in_batches:
            due |= self._is_better(metrics[best.metric])
        return due

    def _is_better(self, value: Any) -> bool:
        """Tell whether a value after a loop is the best yet, as rank 0 sees it."""
        best = self._saver.versions.best
        assert self._best is not None
        better = self._best.is_better(number_of(value), None if best is None else best.value)
        if self._group is None:
            return better
        told = self._group.exchange(json.dumps(better).encode(), f"{self._saver.channel} best")
        return bool(json.loads(told[0]))

    def _boundary(self, is_epoch: bool) -> None:
        """Stand between two bodies: this is where states are whole."""
        self._saver.writer.check()
        by_epochs = self._every.unit == "epochs"
        if is_epoch and by_epochs and self._asked:
            self._pending |= self.epoch - self._last.epoch >= self._every.count
        if self._pending:
            self._take()
        elif is_epoch or not by_epochs:
            self._metrics = {}  # they tell nothing of what the next body makes

    def _take(self) -> None:
        self._pending = False
        loops = self._loops
        moment = Moment(
            attrs.evolve(loops.progress),
            self._history.lists(),
            {name: number_of(value) for name, value in self._metrics.items()},
            loops.random_states(),
            loops.loader_state(),
            tuple(self._exactness.reasons),
        )
        self._saver.take(moment)
        self._last, self._taken = moment.progress, self._where()
        self._metrics = {}
        self._asked = False
        self._clock.restart()

    def _where(self) -> Any:
        return attrs.asdict(self._loops.progress), self._history.length()


class Batches:
    """The batches of a loader, as `Checkpoint.batches` goes through them."""

    def __init__(self, loops: Loops, loader: Any, boundary: Boundary) -> None:
        self._loops = loops
        self._loader = loader
        self._boundary = boundary

    def __iter__(self) -> Iterator[Any]:
        return self._loops.batches(self._loader, self._boundary)

    def __len__(self) -> int:
        return len(self._loader)


def _checked(others: Mapping[str, Any]) -> dict[str, Any]:
    for name in others:
        if name in _OWN:
            raise ValueError(
                f"{name!r} is what a checkpoint itself calls something; choose another"
            )
    return dict(others)


def _checked_keep(keep: Any) -> int | None:
    if keep is None:
        return None
    if isinstance(keep, bool) or not isinstance(keep, int):
        raise TypeError(f"keep= takes a number of versions, or None for all; got {keep!r}")
    if keep < 1:
        raise ValueError(f"keep= takes a number from 1; got {keep}")
    return keep
