"""Calls that were interrupted, and go on when an equal call is made.

What goes on is up to the function, by the checkpoints that it keeps; flowyml tells which call it
is that they belong to.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flowyml import journal
from flowyml.code import differences
from flowyml.errors import FlowymlError, FlowymlWarning, StoreError, warn
from flowyml.interfaces import Group
from flowyml.records import Code, RunRecord, StepRecord
from flowyml.running import Run


def call_to_resume(
    record: StepRecord, code: Code | None, this_run: Run, group: Group | None, *, told: bool
) -> str | None:
    """Return what tells the interrupted call from others that a new one goes on with.

    It is the newest of the step with equal arguments, if that didn't end well. In a group of
    processes, rank 0 looks for it.

    Args:
        record: of the new call.
        code: of its function.
        this_run: the run that it is in.
        group: the processes that make it together.
        told: whether to say what is resumed.

    Raises:
        StoreError: when that call is still being made by another process.
    """
    found = ""
    if group is None or group.rank == 0:
        found = _found(record, code, this_run, told) or ""
    if group is not None:
        found = group.exchange(found.encode(), "resume")[0].decode()
    return found or None


def _found(record: StepRecord, code: Code | None, this_run: Run, told: bool) -> str | None:
    for run, step in _earlier(record, this_run):
        if _arguments(step) != _arguments(record):
            continue
        if step.status == "completed" or step.call_id is None:
            break
        _refuse_running(run, step)
        if told:
            print(f"flowyml: {record.name} resumes its call in the run {run.id}", file=sys.stderr)
        _warn_of_changes(run, step, code)
        return step.call_id
    if told:
        print(
            f"flowyml: {record.name} has no interrupted call with these arguments, so it begins",
            file=sys.stderr,
        )
    return None


def _earlier(record: StepRecord, this_run: Run) -> Iterator[tuple[RunRecord, StepRecord]]:
    """Yield the calls of the step that no other step made, the newest first."""
    for run_id in reversed(journal.ids(this_run.store)):
        if run_id == this_run.id:
            steps = [(this_run.record, step) for step in reversed(this_run.steps)]
        else:
            try:
                run = journal.read(run_id, this_run.store)
            except FlowymlError:
                continue
            steps = [(run, step) for step in reversed(run.steps)]
        for run, step in steps:
            if step.function == record.function and step.parent is None and step is not record:
                yield run, step


def _arguments(step: StepRecord) -> object:
    inputs = {name: (given.type, given.digest) for name, given in step.inputs.items()}
    return repr(sorted(step.hyperparameters.items())), inputs


def _refuse_running(run: RunRecord, step: StepRecord) -> None:
    if step.status == "running" and run.status == "running" and _is_alive(run):
        raise StoreError(
            f"The call of {step.name!r} in the run {run.id} is still being made, by process "
            f"{run.environment['pid']}: there is nothing to resume."
        )


def _is_alive(run: RunRecord) -> bool:
    """Tell whether the process of a run is still there, as far as this machine can tell."""
    import platform

    pid = run.environment.get("pid")
    if type(pid) is not int or run.environment.get("hostname") != platform.node():
        return False
    if pid == os.getpid():
        return False  # its run was left, or its own thread would know
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    with suppress(OSError, ValueError, IndexError):  # another may have got the number since
        return _started_at(pid) <= run.started_at.timestamp() + 1
    return True


def _started_at(pid: int) -> float:
    """Return when a process was started, in seconds since the epoch; as Linux tells it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _warn_of_changes(run: RunRecord, step: StepRecord, now: Code | None) -> None:
    then = run.code.get(step.code or "")
    if then is not None and now is not None and then.digest != now.digest:
        changes = "; ".join(differences(then, now)) or "its code has changed"
        warn(
            f"The step {step.name!r} resumes the run {run.id}, but isn't what it was then: "
            f"{changes}.",
            FlowymlWarning,
        )
