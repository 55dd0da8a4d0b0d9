"""Repeating a run: its steps once more, from what was recorded, compared with what came of them.

Each step starts from its own recorded arguments and random state, so that a difference shows in
the step where it arises. Nothing is written to the store of the run. Whatever can't be repeated
is said, and the other steps are tried all the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any

import attrs

from flowyml import rebuilding, running
from flowyml.arguments import MASK
from flowyml.errors import FlowymlError, StoreError, told
from flowyml.models import described
from flowyml.names import parse_ref
from flowyml.records import RunRecord, StepRecord
from flowyml.reproducing import finding, outcomes
from flowyml.reproducing.reproduction import Reproduction, StepReproduction
from flowyml.reproducing.scratch import Scratch, formats_of
from flowyml.running import Run, find_run, states_of
from flowyml.scripts import refuse_while_loading
from flowyml.steps import Step, find
from flowyml.store import Store
from flowyml.store.catalog import is_kept
from flowyml.trust import Trust


def reproduce(
    run_id: str,
    store: Store | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    trust: Any = (),
    tell: Callable[[str], object] | None = None,
) -> Reproduction:
    """Run the steps of a run again, and compare what comes of them, bit for bit.

    It runs code: the steps as this process has them, else those of the modules that the record
    names, or of the script, without its ``if __name__ == "__main__":`` part.

    Args:
        run_id: the run's id, or as much of it as no other has.
        store: where its record and results are; by default `Store.default`.
        arguments: values by flat name for what was masked or isn't in the store, as in
            ``{"api_key": "..."}``. They may be changed in place.
        trust: classes and dotted names (``"mypkg.*"``) that loading the arguments may import.
        tell: called with what is known before the steps are run, line by line.

    Raises:
        StoreError: when there is no such run, or it hasn't ended.
        IntegrityError: when its record is damaged.
        ValueError: when `arguments` has a name that no step of the run needs.
    """
    refuse_while_loading("reproduces a run")
    store = Store.of(store)
    record = find_run(run_id, store)
    _check_ended(record)
    given, trusted = dict(arguments or {}), Trust.of(trust).patterns
    _check_needed(given, record)
    tell = tell or (lambda _: None)
    with ExitStack() as stack:
        found = stack.enter_context(finding.steps_of(record))
        before = tuple(dict.fromkeys(finding.differences(record, found)))
        for line in (*found.notes, *(before or ("Nothing that is recorded differs from then.",))):
            tell(line)
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="flowyml-", ignore_cleanup_errors=True)
        )
        scratch = Scratch(folder, formats_of(record.outputs, store))
        this_run = stack.enter_context(running.replay(record, scratch))
        source = _Source(record, store, scratch, given, trusted)
        steps = [
            result
            for index, step in found.steps.items()
            for result in _Repetition(source, index, step).results(this_run)
        ]
    return Reproduction(record.id, record.name, tuple(steps), before)


def _check_ended(record: RunRecord) -> None:
    if record.status == "running":
        raise StoreError(
            f"The run {record.id} ({record.name}) is still going on, or its process was killed: "
            f"its record says what was done until then, but a run can be reproduced once it has "
            f"ended."
        )


def _check_needed(given: Mapping[str, Any], record: RunRecord) -> None:
    known = {name for step in record.steps for name in _needed(step)}
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {sorted(known)}."
            raise ValueError(
                f"arguments= has {name!r}, which no step of the run {record.id} needs: only what "
                f"was masked and what is data can be given. {hint}"
            )


def _needed(step: StepRecord) -> Iterator[str]:
    yield from rebuilding.inputs_in(step.call)
    yield from (name for name, value in step.hyperparameters.items() if value == MASK)


class _NotRepeatedError(FlowymlError):
    """A step can't be repeated."""


@attrs.frozen
class _Source:
    """What a run is repeated from; see `reproduce`."""

    record: RunRecord
    store: Store
    scratch: Scratch
    given: Mapping[str, Any]
    trust: tuple[str, ...]


class _Repetition:
    """One step of a run, repeated, and with it the steps that it calls."""

    def __init__(self, source: _Source, index: int, step: Step[..., Any] | str) -> None:
        self._source = source
        self._index = index
        self._step = step
        self._then = source.record.steps[index]
        self._together: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        self._notes: list[str] = []
        self._suspicions: list[str] = []
        """Notes that matter only where something differs."""

    def results(self, this_run: Run) -> list[StepReproduction]:
        """Repeat the step; return what came of it and of the steps in it."""
        then = self._source.record.steps
        try:
            root = self._repeat(this_run)
        except _NotRepeatedError as error:
            return [StepReproduction(self._then.name, self._index, reason=str(error))]
        found = [self._compared(self._index, this_run, root)]
        counterparts = outcomes.calls_below(this_run.steps, root)
        below = outcomes.calls_below(then, self._index)
        for path, index in below.items():
            if path in counterparts:
                found.append(self._compared(index, this_run, counterparts[path]))
            else:
                reason = "it wasn't called this time"
                found.append(StepReproduction(then[index].name, index, reason=reason))
        for path in sorted(counterparts.keys() - below.keys()):
            name, number = path[-1]
            reason = f"call {number + 1} of it wasn't made then"
            found.append(StepReproduction(name, self._index, reason=reason))
        return found

    def _repeat(self, this_run: Run) -> int:
        """Call the step again; return the index of the call in the new run."""
        if isinstance(self._step, str):
            raise _NotRepeatedError(self._step)
        if self._then.error is not None and self._then.error.type == "KeyboardInterrupt":
            raise _NotRepeatedError("it was interrupted, so there is nothing to compare")
        run, step = self._computed_in()
        args, kwargs = self._arguments(step)
        states = {} if step.seeded else self._states(run, step)
        index = len(this_run.steps)
        self._source.scratch.expect(self._refs())
        try:
            self._step.repeat(step, args, kwargs, states, this_run)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, say, which is a way to fail as any other
            if len(this_run.steps) == index:
                raise _NotRepeatedError(
                    f"it can't be called as it was then: {told(error)}"
                ) from error
        return index

    def _refs(self) -> Iterator[str]:
        """Yield what the call stored, and the calls in it."""
        steps = self._source.record.steps
        for index in (self._index, *outcomes.calls_below(steps, self._index).values()):
            yield from (output.ref for output in steps[index].outputs)
            yield from steps[index].saved

    def _computed_in(self) -> tuple[RunRecord, StepRecord]:
        """Return the call to repeat: of a result that was taken, the one that computed it."""
        run, step = own = self._source.record, self._then
        while step.cached_from is not None and not step.seeded:
            run_id, _, index = step.cached_from.rpartition("/")
            try:
                run = find_run(run_id, self._source.store)
                step = run.steps[int(index)]
            except (FlowymlError, ValueError, IndexError) as error:
                self._suspicions.append(
                    f"its result was taken from the run {run_id}, whose record can't be read "
                    f"({told(error)}), so it was run from the random state of this run"
                )
                return own
        return run, step

    def _arguments(self, step: StepRecord) -> tuple[list[Any], dict[str, Any]]:
        given = self._source.given
        for name in given:
            if name in step.inputs:
                self._note_input(name, given[name], step, "the one given")
        try:
            return rebuilding.rebuild(step.call, lambda name: self._load(name, step), given)
        except rebuilding.NotRepeatableError as error:
            raise _NotRepeatedError(str(error)) from error
        except (KeyboardInterrupt, _NotRepeatedError):
            raise
        except BaseException as error:  # classes of arguments may do anything
            raise _NotRepeatedError(f"its arguments can't be rebuilt: {told(error)}") from error

    def _load(self, name: str, step: StepRecord) -> Any:
        record = step.inputs[name]
        ref = record.within or record.ref
        if ref is None:
            reason = f": {record.reason}" if record.reason else ""
            later = " @step(keep_inputs=True) keeps those of later runs."
            if record.digest is None or "secret" in reason:
                later = ""
            raise _NotRepeatedError(
                f"its argument {name!r}, a {record.type}, isn't in the store{reason}. Pass it: "
                f"flowyml.reproduce(run, arguments={{{name!r}: ...}}).{later}"
            )
        try:
            found = self._loaded(ref, name if record.within else None, record.type)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of an adapter, or of trusted code
            text = str(error) if isinstance(error, FlowymlError) else told(error)
            raise _NotRepeatedError(
                f"its argument {name!r} can't be loaded from {ref}: {text}"
            ) from error
        self._note_input(name, found, step, ref)
        return found

    def _loaded(self, ref: str, member: str | None, type_of_input: str) -> Any:
        assert isinstance(self._step, Step)
        store = Store.of(self._step.settings.store or self._source.store)
        if member is None:
            data = store.load(ref, trust=self._source.trust)
        else:
            if ref not in self._together:
                self._together[ref] = store.load(ref, trust=self._source.trust)
            data = self._together[ref][member]
        if type_of_input not in _ASSETS:
            return data
        asset = described(data) if is_kept(*parse_ref(ref)) else store.get(ref)
        asset.data = data
        return asset

    def _note_input(self, name: str, value: Any, step: StepRecord, source: str) -> None:
        self._inputs[name] = value
        expected, now = step.inputs[name].digest, outcomes.digest_or_reason(value)
        if expected is not None and now != expected:
            self._notes.append(
                f"its argument {name!r} isn't what it was: its digest was {expected[:12]}…, and "
                f"that of {source} is {now[:12]}…"
            )

    def _states(self, run: RunRecord, step: StepRecord) -> dict[str, bytes]:
        """Return the random states that it started from, by library."""
        packed = states_of(run, self._source.store)
        for name, after in step.random_after.items():
            before = step.random.get(name)
            if before is None:
                self._suspicions.append(
                    f"{name} was first imported while it ran, so the state that its random "
                    f"generators started from isn't known"
                )
            elif before not in packed and before != after:
                self._suspicions.append(
                    f"the random state of {name} that it started from isn't in the store"
                )
        return {name: packed[key] for name, key in step.random.items() if key in packed}

    def _compared(self, index: int, this_run: Run, index_now: int) -> StepReproduction:
        then, now = self._source.record.steps[index], this_run.steps[index_now]
        if then.world_size != now.world_size:
            self._notes.append(
                f"{then.world_size} processes made it together, and {now.world_size} now"
            )
        found = StepReproduction(
            then.name, index, not_stored=tuple(left.key for left in then.not_stored)
        )
        if then.error is not None or now.error is not None:
            reason = outcomes.how_failed(then.error, now.error)
            found = attrs.evolve(found, reason=reason, failed_again=reason is None)
        else:
            step = find(then.function)
            own = step.settings.store if step is not None else None
            stores = Store.of(own or self._source.store), this_run.store
            outputs = [*outcomes.outputs(then, now, stores), *outcomes.saved(then, now, stores)]
            if index == self._index:
                outputs += outcomes.changed_arguments(then, self._inputs)
            found = attrs.evolve(found, outputs=tuple(outputs))
        if index != self._index:
            return found
        notes = self._notes + (self._suspicions if found.identical is False else [])
        return attrs.evolve(found, notes=tuple(notes))


_ASSETS = ("flowyml.assets.Asset", "flowyml.models.Model")
