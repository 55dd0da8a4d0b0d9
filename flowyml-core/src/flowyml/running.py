"""Runs: what groups step calls, and keeps their record up to date in the store.

A killed process leaves a record of what it had done. If the store fails once user code has run,
that is a warning, never an exception: results come first.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from flowyml import groups, journal, seeds
from flowyml.environment import environment
from flowyml.errors import FlowymlWarning, StoreError, warn
from flowyml.properties import check_tags, type_name
from flowyml.records import Code, Failure, RunRecord, StepRecord
from flowyml.scripts import refuse_while_loading
from flowyml.store import Store

if TYPE_CHECKING:
    from flowyml.interfaces import Group, Launcher

_current_run: ContextVar[Run | None] = ContextVar("flowyml_run", default=None)
current_step: ContextVar[int | None] = ContextVar("flowyml_step", default=None)
"""Index of the step that this code runs in, within the current run."""


class Run:
    """A run in progress, or just ended; `record` is what is kept of it."""

    def __init__(
        self, record: RunRecord, store: Store, *, repeats: bool = False, keeps: bool = True
    ) -> None:
        """Begin with a record.

        Args:
            record: what is known.
            store: where outputs go, and the record.
            repeats: whether it repeats an earlier run.
            keeps: whether this process writes the record; of several that run together one does.
        """
        self.record = record
        self.store = store
        self.repeats = repeats
        self.states: dict[str, bytes] = {}
        self._keeps = keeps
        self._journal = journal.Journal(record, store)
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        self._calls: Counter[tuple[int | None, str]] = Counter()
        self._numbers: Counter[tuple[str, str]] = Counter()

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
        """The seed from which steps that have none of their own get theirs."""
        return self.record.seed

    @property
    def environment(self) -> dict[str, Any]:
        """What the run runs in; see `flowyml.environment`."""
        return self.record.environment

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.id}: {self.record.status}, {len(self.steps)} steps>"

    def seed_of(self, name: str, parent: int | None) -> int | None:
        """Return the seed of the next call of a step that has none; None where the run has none.

        It follows from the run's seed, the steps that the call is in, the step's name, and how
        many calls of that name there have been in the same step.
        """
        if self.seed is None:
            return None
        with self._lock:
            number = self._calls[parent, name]
            self._calls[parent, name] += 1
        outer = self.seed if parent is None else self.steps[parent].seed
        return seeds.derived(self.seed if outer is None else outer, f"{name}/{number}")

    def call_of(self, name: str, outer: str | None) -> str:
        """Return what tells a call of a step from all others, in all processes of a group.

        Args:
            name: the step's name.
            outer: the same of the step that calls it.
        """
        within = self.id if outer is None else outer
        with self._lock:
            number = self._numbers[within, name]
            self._numbers[within, name] += 1
        return f"{within}/{name}.{number}"

    def begin(self) -> None:
        """Write the beginning of the record. Raises StoreError when the store can't take it."""
        if self._keeps:
            self._journal.begin()

    def add(self, step: StepRecord, code: Code | None, states: Mapping[str, bytes]) -> int:
        """Add a step that starts; return its index."""
        with self._lock:
            self.steps.append(step)
            index = len(self.steps) - 1
            new = code is not None and code.digest not in self.record.code
            if code is not None and new:
                self.record.code[code.digest] = code
        if code is not None and new:
            self._written(lambda: self._journal.add_code(code.digest))
        if self._keeps:
            self._written(lambda: self._journal.add_states(states))
        else:
            self.states.update(states)
        self._written(lambda: self._journal.add_step(index, step, durable=False))
        return index

    def update(self, index: int) -> None:
        """Write a step as it stands, on the disk when this returns; a failure is only told."""
        self._written(lambda: self._journal.add_step(index, self.steps[index], durable=True))

    def _written(self, write: Callable[[], None]) -> None:
        if not self._keeps:
            return
        try:
            write()
        except Exception as error:  # the user's results matter more than our record
            warn(f"The record of the run {self.id} could not be written: {error}", FlowymlWarning)

    def end(self, error: BaseException | None) -> None:
        """Note how the run ended."""
        self.record.duration = time.perf_counter() - self._started
        self.record.status = "completed" if error is None else "failed"
        self.record.error = None if error is None else failure(error)
        self._written(self._journal.end)


_Tokens: TypeAlias = "tuple[Token[Run | None], Token[int | None], Token[Group | None]]"


class RunContext(ContextDecorator):
    """A run for the time of a with block, or of each call of a decorated function."""

    def __init__(
        self,
        name: str,
        seed: int | None,
        store: Store | None,
        tags: Mapping[str, str] | None,
        repeats: bool = False,
        launcher: Launcher | None = None,
    ) -> None:
        self._arguments = (name, seed, store, tags, repeats, launcher)
        self._run: Run | None = None
        self._tokens: _Tokens | None = None

    def _recreate_cm(self) -> Self:
        return type(self)(*self._arguments)

    def __enter__(self) -> Run:
        if self._run is not None:
            raise RuntimeError("a run can be entered once; call run(...) again for another")
        name, seed, store, tags, repeats, launcher = self._arguments
        refuse_while_loading(f"starts the run {name!r}")
        group = groups.join()
        record = RunRecord(
            id=_new_id(group),
            name=name,
            started_at=datetime.now(UTC),
            seed=seed,
            environment=environment(),
            tags=dict(tags or {}),
        )
        keeps = launcher.leads() if launcher is not None else True
        keeps = keeps and (group is None or group.rank == 0)
        self._run = Run(record, Store.of(store), repeats=repeats, keeps=keeps)
        self._run.begin()
        self._tokens = (
            _current_run.set(self._run),
            current_step.set(None),
            groups.joined.set(group),
        )
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
        current_step.reset(self._tokens[1])
        groups.joined.reset(self._tokens[2])
        self._run.end(error)


def _new_id(group: Group | None) -> str:
    """Return an id for a run: of one that several processes open together, the same in all."""
    own = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.urandom(3).hex()}"
    if group is None or current_step.get() is not None:
        return own
    return group.exchange(own.encode(), "run")[0].decode()


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
        seed: from which each step that has none of its own gets one, another for each call.
        store: where outputs and the record go; by default `Store.default`.
        tags: free text by key.

    Raises:
        StoreError: on entering, when the store can't be written: before anything is computed.
    """
    if not isinstance(name, str):
        raise TypeError(f"a run's name has to be a string, as in run('train'); got {name!r}")
    seed = None if seed is None else seeds.check_seed(seed)
    return RunContext(name, seed, store, check_tags(tags or {}))


@contextmanager
def entered(this_run: Run) -> Iterator[None]:
    """Make a run the current one, which goes on in this process, for the time of a with block."""
    tokens = _current_run.set(this_run), current_step.set(None)
    try:
        yield
    finally:
        _current_run.reset(tokens[0])
        current_step.reset(tokens[1])


def replay(record: RunRecord, store: Store) -> RunContext:
    """Return a run in which steps of an earlier one are repeated: nothing comes from a cache."""
    return RunContext(record.name, record.seed, store, record.tags, repeats=True)


def current_run() -> Run | None:
    """Return the run that this code runs in, if any."""
    return _current_run.get()


def runs(store: Store | None = None) -> list[RunRecord]:
    """Return the records of all runs, oldest first.

    A record that can't be read is left out, with a warning that names it.
    """
    store = Store.of(store)
    found = []
    for run_id in journal.ids(store):
        try:
            found.append(journal.read(run_id, store))
        except StoreError as error:
            warn(str(error), FlowymlWarning)
    return sorted(found, key=lambda record: (record.started_at, record.id))


def find_run(run_id: str, store: Store | None = None) -> RunRecord:
    """Return the record of a run.

    Args:
        run_id: its id, or as much of its beginning or its end as no other has.
        store: where; by default `Store.default`.

    Raises:
        StoreError: when there is no such run, or several are meant.
        IntegrityError: when its record is damaged.
    """
    store = Store.of(store)
    known = journal.ids(store)
    if run_id in known:
        return journal.read(run_id, store)
    fits = [item for item in known if item.startswith(run_id) or item.endswith(run_id)]
    if len(fits) == 1 and re.search(r"\w", run_id):
        return journal.read(fits[0], store)
    if len(fits) > 1:
        raise StoreError(f"{run_id!r} may mean {len(fits)} runs: {', '.join(fits[-5:])}.")
    newest = ", ".join(known[-5:]) or "none yet"
    raise StoreError(f"{store.path} holds no run {run_id!r}. The newest are: {newest}.")


def states_of(record: RunRecord, store: Store) -> dict[str, bytes]:
    """Return the packed random states that the steps of a run started from, by digest."""
    return journal.states(record.id, store)


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
    return Failure(type_name(error), _readable(message), _readable(trace))


def _readable(text: str) -> str:
    """Return text that JSON can hold: a message may have halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()
