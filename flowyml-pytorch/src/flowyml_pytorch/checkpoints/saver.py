"""Taking a checkpoint: a copy in memory while the loop waits, written while it goes on.

In a group every process says where it stands and what its random generators hold. What all have
alike is written by rank 0; of what is sharded each process writes its own part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs

from flowyml.errors import StoreError, told
from flowyml.interfaces import Group
from flowyml_pytorch.checkpoints.buffers import Buffers
from flowyml_pytorch.checkpoints.parts import Parts, tensors_of
from flowyml_pytorch.checkpoints.progress import History, Number, Progress
from flowyml_pytorch.checkpoints.versions import SCHEMA, Kept, Versions
from flowyml_pytorch.checkpoints.writing import Writer
from flowyml_pytorch.storing.sharded import is_spread


@attrs.frozen(eq=False)
class Moment:
    """What a checkpoint says besides the states of the objects.

    Attributes:
        progress: the position.
        history: every value so far, by name.
        metrics: the values that belong to this position.
        random: this process's random states; JSON data.
        loader: where its loader stands; JSON data, or None where there is none.
        reasons: why going on from here isn't exact.
    """

    progress: Progress
    history: Mapping[str, list[Number]]
    metrics: Mapping[str, Number]
    random: Any
    loader: Any
    reasons: tuple[str, ...]


class Saver:
    """Saves the states of objects as versions, one after the other, in the background."""

    def __init__(self, parts: Parts, versions: Versions, group: Group | None) -> None:
        self.versions = versions
        self.writer = Writer(versions.name)
        self._parts = parts
        self._group = group
        self._buffers = Buffers()

    @property
    def channel(self) -> str:
        """The channel on which processes talk of this checkpoint."""
        return f"checkpoint {self.versions.name}"

    def prepare(self) -> None:
        """Make memory ready for what the objects hold now, where this process copies it."""
        if self._group is None or self._group.rank == 0:
            self._buffers.prepare(tensors_of(self._parts))

    def take(self, moment: Moment) -> None:
        """Copy everything, and begin to write it; waits for the one before.

        Raises:
            Exception: what came of the one before, if it failed.
        """
        self.writer.finish()
        state = self._parts.state()
        group = self._group
        spread = group is not None and group.world_size > 1 and is_spread(state)
        copied: Any = None
        if group is None or group.rank == 0 or spread:
            copied = self._buffers.copy(state, only_shards=group is not None and group.rank > 0)
        self.writer.start(lambda: self._write(copied, moment))

    def _write(self, copied: Any, moment: Moment) -> None:
        """Write what was copied; None where another process does."""
        group = self._group
        own = [moment.random, moment.loader, list(moment.reasons)]
        if group is None:
            self._save(copied, moment, [own])
            self.versions.drop_old()
            return
        all_own = group.exchange(json.dumps(own).encode(), self.channel)
        self._write_in_group(group, copied, moment, [json.loads(each) for each in all_own])

    def _write_in_group(self, group: Group, copied: Any, moment: Moment, own: list[Any]) -> None:
        error: Exception | None = None
        outcome: dict[str, Any] = {}
        try:
            if copied is not None:
                kept = self._save(copied, moment, own)
                outcome = {"ref": kept.ref, "value": kept.value}
        except Exception as caught:
            error = caught
            outcome = {"error": told(caught)}
        # Nobody may be left waiting for a process that has failed.
        first = json.loads(group.exchange(json.dumps(outcome).encode(), self.channel)[0])
        if error is not None:
            raise error
        if "error" in first:
            raise StoreError(f"rank 0 could not save {self.versions.name}: {first['error']}")
        if group.rank > 0:
            self.versions.keep(Kept(first["ref"], first["value"]))
        self.versions.drop_old(delete=group.rank == 0)

    def _save(self, copied: Any, moment: Moment, own: list[Any]) -> Kept:
        progress = moment.progress
        data = {
            "checkpoint": SCHEMA,
            **copied,
            "progress": attrs.asdict(progress),
            "history": History(moment.history).stored(),
            "random": [random for random, _, _ in own],
            "loader": [loader for _, loader, _ in own],
        }
        reasons = list(dict.fromkeys(reason for _, _, each in own for reason in each))
        properties = {
            "epoch": progress.epoch,
            "step": progress.step,
            "metrics": {name: _written(value) for name, value in moment.metrics.items()},
            "exact": not reasons,
            "world_size": len(own),
            **({"reasons": reasons} if reasons else {}),
        }
        tags = {"epoch": str(progress.epoch), "step": str(progress.step)}
        return self.versions.save(data, tags, properties)


def _written(value: Number) -> Number | str:
    """Return a number as JSON has it; what it has none for, as text."""
    return value if math.isfinite(value) else str(value)
