"""The file that a run's record grows in while the run goes on: a line of JSON for each event.

A line is added when a step starts and when it ends, so a run of many steps costs each of them the
same. When the run ends, the whole record takes the journal's place, in one atomic step. After the
process was killed, the journal says what was done until then.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from flowyml.digests import digest_of_bytes
from flowyml.errors import IntegrityError, StoreError
from flowyml.records import RunRecord, StepRecord, from_data, step_to_data, to_data
from flowyml.store import Store

_RUNS = "runs"


class Journal:
    """Writes the record of one run."""

    def __init__(self, record: RunRecord, store: Store) -> None:
        self._record = record
        self._store = store
        self._lock = threading.Lock()
        self._states: set[str] = set()

    def begin(self) -> None:
        """Write what is known when a run starts. Raises StoreError when that can't be."""
        header = {**to_data(self._record), "steps": [], "code": {}}
        try:
            self._add({"run": header}, durable=False)
        except BaseException:
            with suppress(Exception):  # half a line would be a damaged record for good
                self._store.remove_record(_journal_key(self._record.id))
            raise

    def add_code(self, digest: str) -> None:
        """Write what a function consists of."""
        data = to_data(self._record)["code"][digest]
        self._add({"code": [digest, data]}, durable=False)

    def add_step(self, index: int, step: StepRecord, *, durable: bool) -> None:
        """Write a step as it stands; the last line about a step counts."""
        self._add({"step": [index, step_to_data(step)]}, durable=durable)

    def add_states(self, states: Mapping[str, bytes]) -> None:
        """Write random states that steps start from, each once."""
        for source, packed in states.items():
            digest = digest_of_bytes(packed)
            if digest not in self._states:
                self._states.add(digest)
                state = base64.b64encode(packed).decode()
                line = {"digest": digest, "source": source, "state": state}
                self._store.append_record(_states_key(self._record.id), line, durable=False)

    def end(self) -> None:
        """Put the whole record in the journal's place."""
        with self._lock:
            if self._states:  # they have to be there for longer than the journal
                self._store.append_record(_states_key(self._record.id), {}, durable=True)
            self._store.write_record(_key(self._record.id), to_data(self._record))
            self._store.remove_record(_journal_key(self._record.id))

    def _add(self, data: Any, *, durable: bool) -> None:
        with self._lock:
            self._store.append_record(_journal_key(self._record.id), data, durable=durable)


def ids(store: Store) -> list[str]:
    """Return the ids of all runs in a store, oldest first."""
    found = {key for suffix in (".json", ".jsonl") for key in store.records(_RUNS, suffix)}
    return sorted({key.removeprefix(f"{_RUNS}/").partition(".")[0] for key in found})


def read(run_id: str, store: Store) -> RunRecord:
    """Read the record of a run, finished or not.

    Raises:
        IntegrityError: when it is damaged.
        StoreError: when it can't be read.
    """
    key = _key(run_id)
    try:
        try:
            return from_data(store.read_record(key), key)
        except FileNotFoundError:
            return _from_lines(store.read_lines(_journal_key(run_id)), _journal_key(run_id))
    except OSError as error:
        raise StoreError(f"The run record {key} can't be read: {error}.") from error


def _from_lines(lines: Iterable[Any], key: str) -> RunRecord:
    header: Any = None
    code: dict[str, Any] = {}
    steps: dict[int, Any] = {}
    for line in lines:
        match line:
            case {"run": found}:
                header = found
            case {"code": [str(digest), found]}:
                code[digest] = found
            case {"step": [int(index), found]}:
                steps[index] = found
    if not isinstance(header, dict):
        raise IntegrityError(f"The run record {key} is damaged: it has no beginning.")
    ordered = [steps[index] for index in sorted(steps)]
    return from_data({**header, "code": code, "steps": ordered}, key)


def states(run_id: str, store: Store) -> dict[str, bytes]:
    """Return the packed random states that a run's steps started from, by their digests.

    States that aren't what was written are left out.
    """
    try:
        lines = store.read_lines(_states_key(run_id))
    except (OSError, StoreError):
        return {}
    found: dict[str, bytes] = {}
    for line in lines:
        match line:
            case {"digest": str(digest), "state": str(text)}:
                try:
                    packed = base64.b64decode(text, validate=True)
                except ValueError:
                    continue
                if digest_of_bytes(packed) == digest:
                    found[digest] = packed
    return found


def _key(run_id: str) -> str:
    return f"{_RUNS}/{run_id}.json"


def _journal_key(run_id: str) -> str:
    return f"{_RUNS}/{run_id}.jsonl"


def _states_key(run_id: str) -> str:
    return f"{_RUNS}/{run_id}.states"
