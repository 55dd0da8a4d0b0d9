"""Steps: functions whose calls are recorded and whose outputs are stored by themselves.

A step returns exactly what its function returned. What a materializer handles is stored under
the step's name, or an asset's own; what none handles is noted in the record.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Generic, ParamSpec, TypeVar, overload

import attrs

from flowyml import arguments, caching, code, names, origins, seeds
from flowyml.digests import digest_of_bytes
from flowyml.errors import FlowymlError, FlowymlWarning, told, warn
from flowyml.identity import content_digest_of
from flowyml.inputs import KEPT_BY_DEFAULT, Inputs
from flowyml.outputs import parts_of, store_outputs
from flowyml.properties import check_tags
from flowyml.records import Code, StepRecord
from flowyml.running import Run, current_run, current_step, failure, run
from flowyml.scripts import refuse_while_loading
from flowyml.store import Store
from flowyml.store.saving import checked_preference

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_LONGEST_WAIT = 60.0
"""Seconds between two attempts, at most."""


@attrs.frozen
class Settings:
    """How a step goes about its calls; see `step` for the meaning of each."""

    seed: int | None = None
    cache: bool = False
    retries: int = 0
    backoff: float = 1.0
    store: Store | None = None
    tags: dict[str, str] = attrs.field(factory=dict)
    format: tuple[str, ...] = ()
    keep_inputs: int | None = KEPT_BY_DEFAULT


@attrs.frozen(eq=False)
class _Again:
    """What a call repeats: the record of the first one, and the random states it started from."""

    record: StepRecord
    states: Mapping[str, bytes]


class Step(Generic[_Parameters, _Result]):
    """A function whose calls are recorded; call it like the function.

    Attributes:
        name: of the step, and of outputs that have none of their own.
        function: the function.
        settings: what `step` was given.
    """

    def __init__(
        self, function: Callable[_Parameters, _Result], name: str | None, settings: Settings
    ) -> None:
        _refuse_unfit(function)
        functools.update_wrapper(self, function)
        self.function = function
        self._signature = inspect.signature(function)
        self.name = names.check_name(name or names.from_text(function.__name__))
        self.settings = settings
        code.source_of(function)  # the file may be edited before the first call
        _steps[self.dotted] = self

    @property
    def dotted(self) -> str:
        """The dotted name of the function."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __reduce__(self) -> str:
        """Pickle by name, like a function, so that processes can be handed a step."""
        return self.function.__qualname__

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind like a function, so that methods can be steps."""
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        """Call the function in the current run, or in a run of its own."""
        refuse_while_loading(f"calls the step {self.name!r}")
        bound = self._signature.bind(*args, **kwargs)  # a wrong call is no run
        outer = current_run()
        settings = self.settings
        context = (
            nullcontext(outer)
            if outer
            else run(self.name, store=settings.store, tags=settings.tags)
        )
        with context as this_run:
            assert this_run is not None
            result: _Result = _Calling(self, this_run, bound, args, kwargs).result()
            return result

    def repeat(
        self,
        record: StepRecord,
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        states: Mapping[str, bytes],
        this_run: Run,
    ) -> StepRecord:
        """Call the function once more as it was called then; return the new record.

        Args:
            record: of the call then. Its seed is applied if it was.
            args: positional arguments.
            kwargs: keyword arguments.
            states: packed random states by library, to start from if no seed was applied.
            this_run: the run to record it in, which `running.replay` opened.

        Raises:
            TypeError: when the arguments don't fit the function any more.
        """
        bound = self._signature.bind(*args, **kwargs)
        calling = _Calling(
            self, this_run, bound, tuple(args), dict(kwargs), _Again(record, dict(states))
        )
        try:
            calling.result()
        except Exception as error:
            if calling.record.status != "failed":  # the recording failed, not the function
                calling.record.status, calling.record.error = "failed", failure(error)
        return calling.record


_steps: weakref.WeakValueDictionary[str, Step[..., Any]] = weakref.WeakValueDictionary()


def find(function: str) -> Step[..., Any] | None:
    """Return the step of a function's dotted name in this process, the last one that was made."""
    return _steps.get(function)


class _Calling:
    """One call of a step."""

    def __init__(
        self,
        step: Step[..., Any],
        this_run: Run,
        bound: inspect.BoundArguments,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        again: _Again | None = None,
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
        self._inputs.note_changes(of_all=False)
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
            self._inputs.note_changes(of_all=entry is not None)
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


@overload
def step(function: Callable[_Parameters, _Result], /) -> Step[_Parameters, _Result]: ...


@overload
def step(
    name: str | None = None,
    *,
    seed: int | None = None,
    cache: bool = False,
    retries: int = 0,
    backoff: float = 1.0,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
    format: str | Iterable[str] | None = None,
    keep_inputs: bool | int | None = None,
) -> Callable[[Callable[_Parameters, _Result]], Step[_Parameters, _Result]]: ...


def step(
    name: Callable[..., Any] | str | None = None,
    *,
    seed: int | None = None,
    cache: bool = False,
    retries: int = 0,
    backoff: float = 1.0,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
    format: str | Iterable[str] | None = None,
    keep_inputs: bool | int | None = None,
) -> Any:
    """Make a function a step: ``@step``, ``@step("name")`` or ``@step(seed=0)``.

    Args:
        name: of the step and of outputs that have none of their own; by default the function's.
        seed: seeds Python, NumPy and every framework before each call; the outer random state
            is put back after it.
        cache: whether a call takes the result of an equal one: of the same code, arguments of
            the same content, and the same seed.
        retries: how many times a call that raises an Exception is made again, each time from the
            same random state.
        backoff: seconds before the first retry; twice as many before each further one, but
            never more than 60.
        store: where outputs go; by default the run's store.
        tags: free text by key, for the run that a call outside any run opens.
        format: the format, or formats in order of preference, for outputs that have it; it comes
            before the store's own.
        keep_inputs: bytes up to which an argument that isn't in the store is kept there by its
            content, so that the call can be reproduced: 16 MiB by default. True keeps all, False
            none.

    Raises:
        ValueError: for an unfit name, seed or number, or a format that no installed adapter has.
        TypeError: for what is no plain function: a generator or ``async def`` returns before it
            has run, so its outputs could not be stored.
    """
    if callable(name):
        return Step(name, None, Settings())
    settings = Settings(
        seed=None if seed is None else seeds.check_seed(seed),
        cache=_checked_flag("cache", cache),
        retries=_checked_retries(retries),
        backoff=_checked_backoff(backoff),
        store=store,
        tags=check_tags(tags or {}),
        format=checked_preference(format),
        keep_inputs=_checked_limit(keep_inputs),
    )
    return lambda function: Step(function, name, settings)


def _checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}= takes True or False; got {value!r}")
    return value


def _checked_retries(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"retries= takes a whole number; got {value!r}")
    if value < 0:
        raise ValueError(f"retries= takes a number from 0; got {value}")
    return value


def _checked_backoff(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"backoff= takes seconds; got {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"backoff= takes seconds from 0; got {value}")
    return float(value)


def _checked_limit(value: Any) -> int | None:
    """Return the bytes up to which inputs are kept; None is without limit."""
    if value is None:
        return KEPT_BY_DEFAULT
    if isinstance(value, bool):
        return None if value else 0
    if not isinstance(value, int):
        raise TypeError(f"keep_inputs= takes True, False or a number of bytes; got {value!r}")
    if value < 0:
        raise ValueError(f"keep_inputs= takes bytes from 0; got {value}")
    return value


def _refuse_unfit(function: Any) -> None:
    if not inspect.isroutine(function):
        raise TypeError(f"@step decorates functions; got {function!r}")
    for test, kind in (
        (inspect.iscoroutinefunction, "an async function"),
        (inspect.isgeneratorfunction, "a generator"),
        (inspect.isasyncgenfunction, "an async generator"),
    ):
        if test(function):
            raise TypeError(
                f"{function.__qualname__} is {kind}, which returns before it has run; make it a "
                f"plain function that returns its result."
            )
