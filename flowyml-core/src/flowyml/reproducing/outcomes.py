"""What a call of a step came to, then and now: outputs, arguments it changed, what it saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowyml.errors import FlowymlError, StoreError
from flowyml.identity import NoDigestError, content_digest_of
from flowyml.interfaces import Change
from flowyml.names import parse_ref
from flowyml.records import Failure, StepRecord
from flowyml.reproducing.reproduction import OutputReproduction
from flowyml.store import Store

Path = tuple[tuple[str, int], ...]
"""Where a call is within another: names of steps, and how many calls of the name came before."""


def calls_below(steps: Sequence[StepRecord], root: int) -> dict[Path, int]:
    """Return the indexes of the calls that were made in a call, by where they are in it."""
    paths: dict[int, Path] = {root: ()}
    found: dict[Path, int] = {}
    for index, step in enumerate(steps):
        if index != root and step.parent in paths:
            number = 0
            while (path := (*paths[step.parent], (step.name, number))) in found:
                number += 1
            paths[index] = path
            found[path] = index
    return found


def how_failed(then: Failure | None, now: Failure | None) -> str | None:
    """Return how two calls ended differently, of which one failed at least; None if alike."""
    if then is None:
        assert now is not None
        return f"it fails now: {now.type}: {now.message}"
    if now is None:
        return f"it failed then, and doesn't now; then: {then.type}: {then.message}"
    if then.type == now.type and _plain(then.message) == _plain(now.message):
        return None
    return (
        f"it fails in another way now: {now.type}: {now.message}; then: {then.type}: {then.message}"
    )


def _plain(message: str) -> str:
    """Return a message without addresses in memory, which differ from process to process."""
    return re.sub(r"\b0x[0-9a-fA-F]+", "0x", message)


def outputs(
    then: StepRecord, now: StepRecord, stores: tuple[Store, Store]
) -> Iterator[OutputReproduction]:
    """Yield what the function returned, then and now, key by key.

    Args:
        then: the record of the first call.
        now: that of the other.
        stores: where the outputs of each are.
    """
    after = {output.key: output for output in now.outputs}
    reasons = {left.key: f"it wasn't stored: {left.reason}" for left in now.not_stored}
    for output in then.outputs:
        found = after.get(output.key)
        if found is None:
            reason = reasons.get(output.key)
            yield OutputReproduction(output.key, "output", output.digest, None, reason=reason)
            continue
        changes, reason = None, None
        if found.digest != output.digest:
            changes, reason = _changes(stores, output.ref, found.ref)
        yield OutputReproduction(output.key, "output", output.digest, found.digest, changes, reason)
    known = {output.key for output in then.outputs} | {left.key for left in then.not_stored}
    for key in sorted(after.keys() - known):
        yield OutputReproduction(key, "output", None, after[key].digest)


def saved(
    then: StepRecord, now: StepRecord, stores: tuple[Store, Store]
) -> Iterator[OutputReproduction]:
    """Yield what the function saved by itself, then and now, name by name."""
    after = _by_name(now.saved)
    for name, refs in _by_name(then.saved).items():
        for number, ref in enumerate(refs):
            try:
                before = stores[0].get(ref).digest
            except StoreError:  # somebody has deleted it, so there is nothing to compare with
                continue
            if before is None:
                continue
            others = after.get(name, [])
            if number < len(others):
                yield _saved_again(name, stores, before, ref, others[number])
            else:
                reason = "it wasn't saved this time"
                yield OutputReproduction(name, "saved", before, None, reason=reason)


def _saved_again(
    name: str, stores: tuple[Store, Store], before: str, ref: str, now: str
) -> OutputReproduction:
    after = stores[1].get(now).digest
    changes, reason = (None, None) if after == before else _changes(stores, ref, now)
    return OutputReproduction(name, "saved", before, after, changes, reason)


def _by_name(refs: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ref in refs:
        found.setdefault(parse_ref(ref)[0], []).append(ref)
    return found


def _changes(
    stores: tuple[Store, Store], before: str, after: str
) -> tuple[tuple[Change, ...] | None, str | None]:
    from flowyml.comparing import compare_assets

    try:
        changes = compare_assets(stores[0], before, stores[1], after)
    except FlowymlError as error:
        return None, f"its values can't be compared: {error}"
    return None if changes is None else tuple(changes), None


def changed_arguments(then: StepRecord, now: Mapping[str, Any]) -> Iterator[OutputReproduction]:
    """Yield the arguments that were changed in place, then and now.

    Args:
        then: the record of the first call.
        now: the arguments of the other, by flat name, after it.
    """
    for name, record in then.inputs.items():
        if record.changed is None or name not in now:
            continue
        after = digest_or_reason(now[name])
        reason: str | None = "its values then weren't stored, as the step didn't return it"
        if any(output.digest == record.changed for output in then.outputs):
            reason = "it is what the step returned then"
        if after == record.digest:
            reason = (
                "it wasn't changed this time. Two arguments that had parts in common, which their "
                "adapter didn't tell, have none now: make one of them in the step, or pass both: "
                "arguments={...}"
            )
        yield OutputReproduction(name, "argument", record.changed, after, reason=reason)


def digest_or_reason(value: object) -> str:
    """Return the content digest of an object, or why it has none."""
    try:
        return content_digest_of(value)
    except NoDigestError as error:
        return f"none: {error}"
