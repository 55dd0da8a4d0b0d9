"""Which step of which run made something, as far as the records in a store tell."""

from __future__ import annotations

from collections import defaultdict

import attrs

from flowyml import journal
from flowyml.assets import Asset
from flowyml.errors import FlowymlError
from flowyml.records import Code, Input, RunRecord, StepRecord
from flowyml.store import Store


@attrs.frozen(eq=False)
class Made:
    """One call of a step, in its run."""

    run: RunRecord
    index: int

    @property
    def step(self) -> StepRecord:
        """The call's record."""
        return self.run.steps[self.index]

    @property
    def code(self) -> Code | None:
        """What its function consisted of; None when that isn't recorded."""
        return self.run.code.get(self.step.code or "")

    @property
    def place(self) -> str:
        """``"<run id>/<index>"``, as records refer to it."""
        return f"{self.run.id}/{self.index}"


class Provenance:
    """Reads records and manifests of a store, each once.

    Attributes:
        notes: in words, what isn't known of how things were made.
        missing: in words, versions that couldn't be read.
    """

    def __init__(self, store: Store) -> None:
        self.notes: list[str] = []
        self.missing: list[str] = []
        self._store = store
        self._runs: dict[str, RunRecord | None] = {}
        self._assets: dict[str, Asset | None] = {}
        self._made: dict[str, dict[str | None, list[int]]] = {}

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run's record; None when it is missing or damaged."""
        if run_id not in self._runs:
            self._runs[run_id] = None
            try:
                self._runs[run_id] = journal.read(run_id, self._store)
            except (FlowymlError, OSError) as error:
                self.note(f"The record of the run {run_id} can't be read: {error}")
        return self._runs[run_id]

    def asset(self, ref: str, digest: str | None = None) -> Asset | None:
        """Return what is known of a version; None when it isn't there, or is another's."""
        if ref not in self._assets:
            self._assets[ref] = None
            try:
                self._assets[ref] = self._store.get(ref)
            except (FlowymlError, ValueError) as error:
                self.missing.append(f"{ref} can't be read: {error}")
        found = self._assets[ref]
        if found is not None and digest is not None and found.digest != digest:
            self.missing.append(f"{ref} of this store isn't what the record of a run means.")
            return None
        return found

    def maker(self, asset: Asset) -> Made | None:
        """Return the call that made a version; None when that isn't known."""
        stored = asset.stored
        if stored is None or stored.run is None:
            return None
        run = self.run(stored.run)
        if run is None:
            return None
        for index in self._made_in(run).get(asset.ref, ()):
            return self.original(Made(run, index))
        calls = [index for index, step in enumerate(run.steps) if step.name == stored.step]
        if len(calls) == 1:  # its record ends before its outputs were stored
            return Made(run, calls[0])
        self.note(f"The record of the run {run.id} doesn't say which step made {asset.ref}.")
        return None

    def maker_of_input(self, made: Made, given: Input) -> Made | None:
        """Return the call that made what another was given: an earlier one of its run at first."""
        found = self._made_in(made.run)
        calls = {*found.get(given.ref, ()), *found.get(given.digest, ())}
        calls -= _callers(made)  # which go on
        earlier = [index for index in calls if index < made.index]
        if earlier:
            return self.original(Made(made.run, max(earlier)))
        asset = None if given.ref is None else self.asset(given.ref, given.digest)
        return None if asset is None else self.maker(asset)

    def original(self, made: Made) -> Made:
        """Return the call whose outputs were taken, if the function didn't run in this one."""
        seen = {made.place}
        while made.step.cached_from is not None:
            run_id, _, index = made.step.cached_from.rpartition("/")
            run = self.run(run_id)
            if run is None or not index.isdecimal() or int(index) >= len(run.steps):
                break
            found = Made(run, int(index))
            if found.place in seen:
                break
            seen.add(found.place)
            made = found
        return made

    def _made_in(self, run: RunRecord) -> dict[str | None, list[int]]:
        """Return the calls that returned, saved or changed something, by its ref and digest."""
        if run.id not in self._made:
            made: dict[str | None, list[int]] = defaultdict(list)
            for index, step in enumerate(run.steps):
                outputs = [text for output in step.outputs for text in (output.ref, output.digest)]
                changed = [given.changed for given in step.inputs.values() if given.changed]
                for text in {*outputs, *changed, *step.saved}:
                    made[text].append(index)
            self._made[run.id] = dict(made)
        return self._made[run.id]

    def note(self, text: str) -> None:
        """Note what couldn't be had, once."""
        if text not in self.notes:
            self.notes.append(text)


def _callers(made: Made) -> set[int]:
    """Return the indices of the calls that a call is within."""
    steps, found = made.run.steps, set[int]()
    index = made.step.parent
    while index is not None and 0 <= index < len(steps) and index not in found:
        found.add(index)
        index = steps[index].parent
    return found
