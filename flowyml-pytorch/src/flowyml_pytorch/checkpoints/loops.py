"""The loops of a training, which know where they are and can begin somewhere in the middle.

Training that goes on walks through the code of the epoch again up to where it stood: with the
random numbers of when the epoch began, without the batches that were done, and at last with the
random numbers of that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from flowyml import seeds
from flowyml_pytorch.checkpoints.feeds import Feed, Note
from flowyml_pytorch.checkpoints.packing import packed
from flowyml_pytorch.checkpoints.passes import Pass
from flowyml_pytorch.checkpoints.progress import Progress
from flowyml_pytorch.checkpoints.resuming import Ahead

Boundary = Callable[[bool], None]
"""Called between two bodies; with True when an epoch is done."""

_MOST_FEEDS = 8


class Loops:
    """Loops over epochs, and over batches within them.

    Attributes:
        progress: where they are.
    """

    def __init__(self, loader: Any, note: Note) -> None:
        """Make loops that are to begin, for a training with a loader, or with None yet."""
        self.progress = Progress()
        self._loader = loader
        self._note = note
        self._feeds: list[Feed] = []
        self._pass: Pass | None = None
        self._loop: object | None = None
        self._epoch_random: Any = None
        self._ahead: Ahead | None = None
        self._late: Ahead | None = None
        if loader is not None:
            self._feed(loader)

    @property
    def in_epochs(self) -> bool:
        """Whether a loop over epochs is under way."""
        return self._loop is not None

    @property
    def in_batches(self) -> bool:
        """Whether a loop over batches is under way."""
        return self._pass is not None

    @property
    def is_catching_up(self) -> bool:
        """Whether the code that runs has been run before, up to where training goes on."""
        return self._ahead is not None

    def go_on(self, ahead: Ahead) -> None:
        """Begin where training has stood."""
        self._ahead = ahead
        self.progress = attrs.evolve(ahead.progress, loops=0, batch=0, begun=False)
        if ahead.progress.loops_by == "none":
            self.arrive(None)

    def random_states(self) -> dict[str, Any]:
        """Return the random states of now, and of when the epoch began; JSON data."""
        return {"now": _random(), "epoch": self._epoch_random if self.progress.begun else None}

    def loader_state(self) -> Any:
        """Return where the loader stands; JSON data, or None without one."""
        if self._pass is not None:
            return self._pass.state()
        if self._loader is not None:
            return {"now": self._feed(self._loader).moment()}
        return {"now": self._feeds[-1].moment()} if self._feeds else None

    def epochs(self, count: int, boundary: Boundary) -> Iterator[int]:
        """Yield the numbers of the epochs that aren't done, below `count`."""
        progress = self.progress
        progress.loops_by = "epochs"
        loop = self._loop = object()
        try:
            while progress.epoch < count and not progress.finished:
                self._begin_epoch()
                yield progress.epoch
                self._end_epoch()
                boundary(True)
        finally:  # which may come late, where an error has ended the loop
            if self._loop is loop:
                self._loop = None

    def _begin_epoch(self) -> None:
        ahead = self._ahead
        if ahead is not None and ahead.progress.is_inside:
            ahead.put_epoch()
            self._epoch_random = ahead.epoch_random()
            if not ahead.progress.loops and not ahead.progress.batch:
                self._ahead = None  # that is all that is known: the epoch begins anew
        else:
            self.arrive(None)
            self._epoch_random = _random()
        progress = self.progress
        progress.begun, progress.loops, progress.batch = True, 0, 0
        self._pass = None

    def _end_epoch(self) -> None:
        if self._ahead is not None:
            self._ahead = None
            self._note("the epoch ended before training had come to where it was to go on")
        progress = self.progress
        progress.epoch += 1
        progress.begun, progress.loops, progress.batch = False, 0, 0

    def batches(self, loader: Any, boundary: Boundary) -> Iterator[Any]:
        """Yield the batches of a loader that aren't done."""
        progress = self.progress
        if progress.loops_by == "none":
            progress.loops_by = "batches"
        one = self._pass = self._opened(self._feed(loader))
        if one is None:
            return
        try:
            for batch in one:
                progress.batch += 1
                progress.step += 1
                yield batch
                if self._pass is not one:
                    raise RuntimeError(
                        "two loops over ckpt.batches() are under way at the same time, and only "
                        "one position can be saved. Go through the other loader itself."
                    )
                boundary(False)
        except GeneratorExit:  # left by a break, or ended by an error some time ago
            if self._pass is one:
                self._close()
            raise
        boundary(self._close())

    def _opened(self, feed: Feed) -> Pass | None:
        """Begin a pass, or go on with the one of then; None for one that was done then."""
        progress, ahead = self.progress, self._ahead
        if ahead is not None and not ahead.progress.is_inside:
            self.arrive(feed)
            ahead = None
        if self._late is not None:
            self._late.put_loader(feed)
            self._late = None
        one = Pass(feed, progress.epoch)
        if ahead is None:
            one.begin()
            progress.batch = 0
            return one
        then = ahead.progress
        if progress.loops == then.loops:
            ahead.resume(one)
            ahead.put_random()
            progress.batch = then.batch
            self._ahead = None
            return one
        progress.loops += 1
        if progress.loops == then.loops and not then.batch:
            self.arrive(feed)
        return None

    def _close(self) -> bool:
        """Count a loop over batches; True when it was an epoch, as it is without `epochs`."""
        progress = self.progress
        self._pass = None
        progress.loops += 1
        progress.batch = 0
        if self.in_epochs:
            return False
        progress.epoch += 1
        progress.loops = 0
        return True

    def arrive(self, feed: Feed | None) -> None:
        """Stand where training is to go on, if it doesn't yet: put the random states of then."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        if feed is None and self._loader is not None:
            feed = self._feed(self._loader)
        if feed is None:
            self._late = ahead  # the loader shows when its batches are asked for
        else:
            ahead.put_loader(feed)
        ahead.put_random()

    def _feed(self, loader: Any) -> Feed:
        for feed in self._feeds:
            if feed.loader is loader:
                return feed
        self._feeds = [*self._feeds[-_MOST_FEEDS:], Feed(loader, self._note)]
        return self._feeds[-1]


def _random() -> Any:
    return packed(seeds.Randomness.now().packed())
