"""Runs: what groups step calls, and keeps their record up to date in the store.

The record is written when a run starts, after each step and when it ends, each time in one
atomic step, so that a killed process leaves a record of what it had done. If the store fails
once user code has run, that is a warning, never an exception: results come first.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from flowyml import adapters
from flowyml.errors import FlowymlWarning, IntegrityError, StoreError, warn
from flowyml.properties import check_tags, type_name
from flowyml.records import Failure, RunRecord, StepRecord, from_data, to_data
from flowyml.seeds import check_seed
from flowyml.store import Store

_current_run: ContextVar[Run | None] = ContextVar("flowyml_run", default=None)
parent_step: ContextVar[int | None] = ContextVar("flowyml_step", default=None)
"""Index of the step that this code runs in, within the current run."""


class Run:
    """A run in progress, or just ended; `record` is what is kept of it."""

    def __init__(self, record: RunRecord, store: Store) -> None:
        self.record = record
        self.store = store
        self._started = time.perf_counter()
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id

    @property
    def name(self) -> str:
        """The run's name."""
        return self.record.name

    @property
    def steps(self) -> list[StepRecord]:
        """Records of the steps called so far."""
        return self.record.steps

    @property
    def outputs(self) -> list[str]:
        """Refs of everything stored so far."""
        return self.record.outputs

    @property
    def seed(self) -> int | None:
        """The seed for steps that have none of their own."""
        return self.record.seed

    @property
    def environment(self) -> dict[str, Any]:
        """Python, platform and adapter versions."""
        return self.record.environment

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.id}: {self.record.status}, {len(self.steps)} steps>"

    def add(self, step: StepRecord) -> int:
        """Add a step that starts; return its index."""
        with self._lock:
            self.steps.append(step)
            return len(self.steps) - 1

    def write(self) -> None:
        """Write the record as it stands. Raises StoreError when the store can't take it."""
        with self._lock:
            self.store.write_record(f"runs/{self.id}.json", to_data(self.record))

    def write_or_warn(self) -> None:
        """Write the record as it stands; a failure is only told."""
        try:
            self.write()
        except Exception as error:  # the user's results matter more than our record
            warn(f"The record of the run {self.id} could not be written: {error}", FlowymlWarning)

    def end(self, error: BaseException | None) -> None:
        """Note how the run ended."""
        self.record.duration = time.perf_counter() - self._started
        self.record.status = "completed" if error is None else "failed"
        self.record.error = None if error is None else failure(error)
        self.write_or_warn()


class RunContext(ContextDecorator):
    """A run for the time of a with block, or of each call of a decorated function."""

    def __init__(
        self, name: str, seed: int | None, store: Store | None, tags: Mapping[str, str] | None
    ) -> None:
        self._arguments = (name, seed, store, tags)
        self._run: Run | None = None
        self._tokens: tuple[Token[Run | None], Token[int | None]] | None = None

    def _recreate_cm(self) -> Self:
        return type(self)(*self._arguments)

    def __enter__(self) -> Run:
        if self._run is not None:
            raise RuntimeError("a run can be entered once; call run(...) again for another")
        name, seed, store, tags = self._arguments
        record = RunRecord(
            id=f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.urandom(3).hex()}",
            name=name,
            started_at=datetime.now(UTC),
            seed=seed,
            environment=environment(),
            tags=dict(tags or {}),
        )
        self._run = Run(record, Store.of(store))
        self._run.write()
        self._tokens = _current_run.set(self._run), parent_step.set(None)
        return self._run

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._run is not None
        assert self._tokens is not None
        _current_run.reset(self._tokens[0])
        parent_step.reset(self._tokens[1])
        self._run.end(error)


def run(
    name: str,
    *,
    seed: int | None = None,
    store: Store | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunContext:
    """Group step calls: ``with run("name") as r:``, or ``@run("name")`` on a function.

    Args:
        name: what to call the run.
        seed: for steps that have none of their own.
        store: where outputs and the record go; by default `Store.default`.
        tags: free text by key.

    Raises:
        StoreError: on entering, when the store can't be written: before anything is computed.
    """
    if not isinstance(name, str):
        raise TypeError(f"a run's name has to be a string, as in run('train'); got {name!r}")
    seed = None if seed is None else check_seed(seed)
    return RunContext(name, seed, store, check_tags(tags or {}))


def current_run() -> Run | None:
    """Return the run that this code runs in, if any."""
    return _current_run.get()


def runs(store: Store | None = None) -> list[RunRecord]:
    """Return the records of all runs, oldest first.

    A record that can't be read is left out, with a warning that names it.
    """
    store = Store.of(store)
    found = []
    for key in store.records("runs"):
        try:
            found.append(from_data(store.read_record(key), key))
        except (IntegrityError, StoreError, OSError) as error:
            warn(str(error), FlowymlWarning)
    return sorted(found, key=lambda record: (record.started_at, record.id))


def failure(error: BaseException) -> Failure:
    """Return what is kept of an exception; one whose text can't be had is named by its type."""
    from traceback import format_exception, format_tb

    try:
        message = str(error)
        trace = "".join(format_exception(error))
    except Exception:  # a user's own __str__ may raise
        message, trace = (
            "(its text can't be had)",
            "".join(format_tb(error.__traceback__)),
        )
    return Failure(type_name(error), message, trace)


@functools.cache
def _fixed_environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "executable": sys.executable,
        "adapters": {info.name: f"{info.distribution} {info.version}" for info in adapters.list()},
    }


def environment() -> dict[str, Any]:
    """Return what is known of this process's environment."""
    return {**_fixed_environment()}
