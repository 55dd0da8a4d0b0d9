"""Where training goes on: what was saved of the position, until the loops have come there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from flowyml import seeds
from flowyml.assets import Asset
from flowyml.errors import MaterializationError, StoreError, told
from flowyml.interfaces import Group
from flowyml_pytorch.checkpoints.feeds import Feed
from flowyml_pytorch.checkpoints.packing import unpacked
from flowyml_pytorch.checkpoints.passes import Pass
from flowyml_pytorch.checkpoints.progress import Progress
from flowyml_pytorch.checkpoints.versions import Versions


@attrs.frozen(eq=False)
class Ahead:
    """A position that training has yet to come to.

    Attributes:
        progress: the position.
        reasons: why this process can't go on exactly from there.
    """

    progress: Progress
    reasons: tuple[str, ...]
    _random: Mapping[str, Any] | None
    _loader: Mapping[str, Any] | None
    _same: bool

    @classmethod
    def of(cls, data: Mapping[str, Any], ref: str, group: Group | None) -> Ahead:
        """Return what a checkpoint says of the position.

        Raises:
            MaterializationError: when it says it in no form that is known.
        """
        rank, processes = (0, 1) if group is None else (group.rank, group.world_size)
        try:
            then = len(data["random"])
            same = then == processes
            random = data["random"][rank] if same else None
            loader = data["loader"][rank if same else 0]
            progress = Progress.of(data["progress"])
        except (LookupError, TypeError) as error:
            raise MaterializationError(f"{ref} has no position in it: {error!r}") from error
        reasons = () if same else (f"{then} processes saved it, and {processes} go on",)
        return cls(progress, reasons, random, loader, same)

    def put_epoch(self) -> None:
        """Put the random states of when the epoch began."""
        if self.epoch_random() is not None:
            seeds.put(unpacked(self.epoch_random()))

    def epoch_random(self) -> Any:
        """Return the random states of when the epoch began, as they were saved."""
        return None if self._random is None else self._random["epoch"]

    def put_random(self) -> None:
        """Put the random states of when it was saved."""
        if self._random is not None:
            seeds.put(unpacked(self._random["now"]))

    def put_loader(self, feed: Feed) -> None:
        """Put the generators that a loader holds into their states of then."""
        if self._same and self._loader is not None:
            feed.put(self._loader["now"])

    def resume(self, one: Pass) -> None:
        """Go on with a pass; its process's random states are put by `put_random`."""
        assert self._loader is not None
        with seeds.kept():
            one.resume(self._loader, self.progress.batch, same=self._same)


def found_in_group(
    versions: Versions,
    resume: bool | str | None,
    call: str | None,
    group: Group | None,
    channel: str,
) -> tuple[Asset, Any] | None:
    """Find the version to go on from: the one that rank 0 finds, for all.

    Raises:
        Exception: as `Versions.find` does.
    """
    if group is None:
        return versions.find(resume, call)
    found = error = None
    told_all: dict[str, Any] = {}
    if group.rank == 0:
        try:
            found = versions.find(resume, call)
            told_all = {"ref": found and str(found[0].ref)}
        except Exception as caught:
            error, told_all = caught, {"error": told(caught)}
    first = json.loads(group.exchange(json.dumps(told_all).encode(), channel)[0])
    if error is not None:
        raise error
    if "error" in first:
        raise StoreError(f"rank 0 found nothing to go on from: {first['error']}")
    if group.rank and first["ref"] is not None:
        return versions.opened(first["ref"])
    return found
