"""One call of a step: what is recorded before, during and after it.

Nothing about a record is worth a result: what can't be described, kept or stored is told and
noted, and the call goes on.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from flowyml import arguments, caching, code, groups, origins, seeds
from flowyml.context import InStep, in_step, inside
from flowyml.digests import digest_of_bytes
from flowyml.errors import FlowymlError, FlowymlWarning, told, warn
from flowyml.identity import content_digest_of
from flowyml.inputs import Inputs
from flowyml.outputs import parts_of, store_outputs
from flowyml.properties import describe
from flowyml.records import Code, StepRecord
from flowyml.running import Run, current_step, failure
from flowyml.store import Store

if TYPE_CHECKING:
    from flowyml.interfaces import Launcher
    from flowyml.steps import Step

_IN_GROUP = caching.NotCachedError(
    "it is made by several processes, which were started together before; a step that launches "
    "them itself, with launcher=, can be cached"
)

_LONGEST_WAIT = 60.0
"""Seconds between two attempts, at most."""


@attrs.frozen(eq=False)
class Again:
    """What a call repeats: the record of the first one, and the random states it started from."""

    record: StepRecord
    states: Mapping[str, bytes]


class Calling:
    """One call of a step."""

    def __init__(
        self,
        step: Step[..., Any],
        this_run: Run,
        bound: inspect.BoundArguments,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        again: Again | None = None,
        resume: bool = False,
    ) -> None:
        self._step = step
        self._settings = step.settings
        self._run = this_run
        self._args = args
        self._kwargs = kwargs
        self._again = again
        self._states: Mapping[str, bytes] = again.states if again else {}
        self._packed: Mapping[str, bytes] = {}
        self._group = groups.joined.get()
        self._launcher = step.settings.launcher if self._group is None else None
        repeats = this_run.repeats
        self._store = this_run.store if repeats else Store.of(step.settings.store or this_run.store)
        parent = current_step.get()
        outer = in_step.get()
        self._call_id = this_run.call_of(step.name, None if outer is None else outer.call)
        seed, seeded = self._seed(parent)
        self.record = StepRecord(
            name=step.name,
            function=step.dotted,
            started_at=datetime.now(UTC),
            seed=seed,
            seeded=seeded,
            parent=parent,
        )
        self._bound = bound
        self._call = arguments.describe(bound)
        self._code = self._described_code()
        elsewhere = self._group is not None and self._group.rank > 0  # rank 0 keeps them
        limit = 0 if elsewhere else step.settings.keep_inputs
        self._inputs = Inputs(self._call, self._store, limit)
        self.record.hyperparameters = self._call.hyperparameters
        self.record.inputs = self._inputs.records
        self.record.call = self._call.form
        self.record.code = None if self._code is None else self._code.digest
        if self._launcher is not None:
            self.record.launcher = launcher_in_words(self._launcher)
        if self._group is not None:
            self.record.world_size = self._group.world_size
        self._resume(resume)
        self.record.call_id = self._call_id

    def _resume(self, wanted: bool) -> None:
        """Take the place of an interrupted call, if that is wanted and there is one."""
        again = self._group is not None and self._group.restarts > 0
        if not (wanted or again) or self._run.repeats or self.record.parent is not None:
            return
        from flowyml import resuming

        found = resuming.call_to_resume(
            self.record, self._code, self._run, self._group, told=wanted
        )
        self._call_id = found or self._call_id

    def _seed(self, parent: int | None) -> tuple[int, bool]:
        """Return the seed, and whether it is applied."""
        if self._again is not None:
            then = self._again.record
            return then.seed or 0, then.seeded
        seed = self._settings.seed
        if seed is None:
            seed = self._run.seed_of(self._step.name, parent)
        if seed is None and self._group is not None:  # in all of its processes the same
            return seeds.derived(0, self._call_id), False
        if seed is None:
            return int.from_bytes(os.urandom(4)), False
        return seed, True

    def _described_code(self) -> Code | None:
        try:
            given = code.code_in(self._bound.arguments.values())
            return code.describe_call(self._step.function, given, content_digest_of)
        except Exception as error:  # a record isn't worth a result
            warn(
                f"The code of the step {self._step.name!r} can't be described: {told(error)}",
                FlowymlWarning,
            )
            return None

    def result(self) -> Any:
        """Make the call, or take the result of an equal one."""
        with self._random_numbers() as before:
            packed = self._packed = before.packed()
            self.record.random = _digests(packed)
            states = {} if self.record.seeded else packed
            index = self._run.add(self.record, self._code, states)
            with self._cached(index) as entry:
                hit = entry.find(self._inputs) if entry else None
                if hit is not None:
                    return self._take(hit, index)
                result = self._attempts(index, before)
                self._finish(result, index, entry)
                alone = self._group is None or self.record.parent is not None
                return result if alone else groups.unwrapped(result)

    @contextmanager
    def _random_numbers(self) -> Iterator[seeds.Randomness]:
        """Put the generators where the function starts from; if that is a change, undo it then."""
        if not self.record.seeded and self._again is None:
            yield seeds.Randomness.now()
            return
        with seeds.kept():
            if self.record.seeded:
                assert self.record.seed is not None
                seeds.sow(seeds.of_rank(self.record.seed, self._group))
            else:
                seeds.put(self._states)
            yield seeds.Randomness.now()

    @contextmanager
    def _cached(self, index: int) -> Iterator[caching.Entry | None]:
        """Yield the entry for this call, which nobody else computes meanwhile; None without one."""
        with ExitStack() as stack:
            entry = None
            if self._settings.cache and self._group is not None:
                self._not_cached(_IN_GROUP)
            elif self._settings.cache and not self._run.repeats:
                try:
                    entry = self._entry()
                    stack.enter_context(entry.alone())
                except FlowymlError as error:
                    self._not_cached(error)
                    entry = None
                except BaseException as error:  # interrupted while it waits for another process
                    self.record.status, self.record.error = "failed", failure(error)
                    self._run.update(index)
                    raise
            yield entry

    def _entry(self) -> caching.Entry:
        seed = self.record.seed if self.record.seeded else None
        key = caching.key_of(
            self._code,
            self._call,
            self._inputs,
            seed,
            self._settings.format,
            self.record.launcher,
        )
        self.record.cache_key = key
        return caching.Entry(key, self._store)

    def _not_cached(self, error: Exception) -> None:
        self.record.not_cached = str(error)
        warn(
            f"The call of the step {self._step.name!r} isn't cached: {error}.",
            FlowymlWarning,
        )

    def _take(self, hit: caching.Hit, index: int) -> Any:
        self.record.status, self.record.duration = "completed", 0.0
        self.record.outputs, self.record.cached_from = hit.outputs, hit.source
        self._run.update(index)
        caching.say_once(self._step.name, hit.source)
        return hit.result

    def _attempts(self, index: int, before: seeds.Randomness) -> Any:
        """Call the function, and again after a failure, as often as that is wanted."""
        once = self._run.repeats or self._group is not None  # the others wouldn't follow
        retries = 0 if once else self._settings.retries
        started = time.perf_counter()
        while True:
            try:
                return self._attempt(index)
            except BaseException as error:
                left = retries - len(self.record.attempts)
                if left > 0 and isinstance(error, Exception):
                    self.record.attempts.append(failure(error))
                    self._run.update(index)
                    self._warn_of_changes()
                    before.restore()
                    time.sleep(self._wait())
                    continue
                self.record.duration = time.perf_counter() - started
                self.record.status, self.record.error = "failed", failure(error)
                self._run.update(index)
                raise
            finally:
                self.record.duration = time.perf_counter() - started

    def _wait(self) -> float:
        """Return the seconds before the next attempt: twice as many each time."""
        doubled: float = self._settings.backoff * 2 ** (len(self.record.attempts) - 1)
        return min(doubled, _LONGEST_WAIT)

    def _warn_of_changes(self) -> None:
        self._inputs.note_changes()
        for name in self._inputs.changed():
            warn(
                f"The failed attempt of the step {self._step.name!r} has changed its argument "
                f"{name!r}, and the next one starts with it as it is now.",
                FlowymlWarning,
            )

    def _attempt(self, index: int) -> Any:
        scope = origins.Scope(
            self._run.id,
            self._step.name,
            self._inputs.parents(of_model=True),
            self.record.saved,
            self._run.store if self._run.repeats else None,
        )
        if self._launcher is not None:
            return self._sent(self._launcher)
        in_step = InStep(self._store, self._step.name, self._call_id, self.record.seed)
        with inside(index, in_step, scope):
            return self._step.function(*self._args, **self._kwargs)

    def _sent(self, launcher: Launcher) -> Any:
        """Have other processes make the call; return what came back."""
        from flowyml.launching.jobs import Sending

        sending = Sending(
            self._step,
            self._run,
            self.record,
            self._call_id,
            self._bound,
            self._inputs,
            self._packed,
            self._store,
            launcher,
        )
        return sending.made()

    def _finish(self, result: Any, index: int, entry: caching.Entry | None) -> None:
        """Store and record what the function returned; whatever fails, the result stays."""
        self.record.status = "completed"
        try:
            if self._launcher is None:
                self._store_outputs(result)
            if entry is not None:
                self._keep(result, index, entry)
        except Exception as error:
            warn(
                f"The call of the step {self._step.name!r} is recorded in part: {told(error)}",
                FlowymlWarning,
            )
        self._run.update(index)

    def _store_outputs(self, result: Any) -> None:
        self.record.random_after = _digests(seeds.Randomness.now().packed())
        self._inputs.note_changes()
        preferred = self._settings.format
        store_outputs(
            parts_of(result), self.record, self._inputs, self._store, self._run.id, preferred
        )

    def _keep(self, result: Any, index: int, entry: caching.Entry) -> None:
        try:
            self._refuse_changed_settings()
            entry.keep(result, f"{self._run.id}/{index}", self.record, self._inputs)
        except FlowymlError as error:
            self._not_cached(error)

    def _refuse_changed_settings(self) -> None:
        """Raise NotCachedError when the function has changed a plain argument, such as a list."""
        now = arguments.describe(self._bound)
        for name in {**self._call.hyperparameters, **now.hyperparameters}:
            before, after = self._call.hyperparameters.get(name), now.hyperparameters.get(name)
            if repr(before) != repr(after):
                raise caching.NotCachedError(f"it changes its argument {name!r}")


def launcher_in_words(launcher: Launcher) -> dict[str, Any]:
    """Return what a record says about a launcher."""
    return {"name": str(launcher.name), **describe(dict(launcher.settings()))}


def _digests(packed: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest_of_bytes(state) for name, state in packed.items()}
