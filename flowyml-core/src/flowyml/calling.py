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

from flowyml import arguments, caching, code, origins, seeds
from flowyml.digests import digest_of_bytes
from flowyml.errors import FlowymlError, FlowymlWarning, told, warn
from flowyml.identity import content_digest_of
from flowyml.inputs import Inputs
from flowyml.outputs import parts_of, store_outputs
from flowyml.records import Code, StepRecord
from flowyml.running import Run, current_step, failure
from flowyml.store import Store

if TYPE_CHECKING:
    from flowyml.steps import Step

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
    ) -> None:
        self._step = step
        self._settings = step.settings
        self._run = this_run
        self._args = args
        self._kwargs = kwargs
        self._again = again
        self._states: Mapping[str, bytes] = again.states if again else {}
        repeats = this_run.repeats
        self._store = this_run.store if repeats else Store.of(step.settings.store or this_run.store)
        parent = current_step.get()
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
        self._inputs = Inputs(self._call, self._store, step.settings.keep_inputs)
        self.record.hyperparameters = self._call.hyperparameters
        self.record.inputs = self._inputs.records
        self.record.call = self._call.form
        self.record.code = None if self._code is None else self._code.digest

    def _seed(self, parent: int | None) -> tuple[int, bool]:
        """Return the seed, and whether it is applied."""
        if self._again is not None:
            then = self._again.record
            return then.seed or 0, then.seeded
        seed = self._settings.seed
        if seed is None:
            seed = self._run.seed_of(self._step.name, parent)
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
            packed = before.packed()
            self.record.random = _digests(packed)
            states = {} if self.record.seeded else packed
            index = self._run.add(self.record, self._code, states)
            with self._cached(index) as entry:
                hit = entry.find(self._inputs) if entry else None
                if hit is not None:
                    return self._take(hit, index)
                result = self._attempts(index, before)
                self._finish(result, index, entry)
                return result

    @contextmanager
    def _random_numbers(self) -> Iterator[seeds.Randomness]:
        """Put the generators where the function starts from; if that is a change, undo it then."""
        if not self.record.seeded and self._again is None:
            yield seeds.Randomness.now()
            return
        with seeds.kept():
            if self.record.seeded:
                assert self.record.seed is not None
                seeds.sow(self.record.seed)
            else:
                seeds.put(self._states)
            yield seeds.Randomness.now()

    @contextmanager
    def _cached(self, index: int) -> Iterator[caching.Entry | None]:
        """Yield the entry for this call, which nobody else computes meanwhile; None without one."""
        with ExitStack() as stack:
            entry = None
            if self._settings.cache and not self._run.repeats:
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
        key = caching.key_of(self._code, self._call, self._inputs, seed, self._settings.format)
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
        retries = 0 if self._run.repeats else self._settings.retries
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
        tokens = current_step.set(index), origins.current_scope.set(scope)
        try:
            return self._step.function(*self._args, **self._kwargs)
        finally:
            current_step.reset(tokens[0])
            origins.current_scope.reset(tokens[1])

    def _finish(self, result: Any, index: int, entry: caching.Entry | None) -> None:
        """Store and record what the function returned; whatever fails, the result stays."""
        self.record.status = "completed"
        try:
            self.record.random_after = _digests(seeds.Randomness.now().packed())
            self._inputs.note_changes()
            preferred = self._settings.format
            store_outputs(
                parts_of(result), self.record, self._inputs, self._store, self._run.id, preferred
            )
            if entry is not None:
                self._keep(result, index, entry)
        except Exception as error:
            warn(
                f"The call of the step {self._step.name!r} is recorded in part: {told(error)}",
                FlowymlWarning,
            )
        self._run.update(index)

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


def _digests(packed: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest_of_bytes(state) for name, state in packed.items()}
