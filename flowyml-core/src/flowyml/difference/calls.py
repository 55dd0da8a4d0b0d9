"""Two calls of a step side by side: what they were given, what they ran, and what they made."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from flowyml import encoding
from flowyml.difference.items import MISSING, Entry, InputDifference, Result, StepDifference
from flowyml.difference.members import entries
from flowyml.difference.provenance import Made, Provenance
from flowyml.properties import describe
from flowyml.records import Code, Input, RunRecord, StepRecord

_Environment = tuple[tuple[str, str], ...]


def durations(
    before: float | None, after: float | None, step: str | None = None
) -> tuple[Entry, ...]:
    """Return an entry when one took much longer: all durations differ, and most say nothing."""
    if before is None or after is None:
        return ()
    shorter, longer = sorted((before, after))
    if longer < _MUCH * shorter or longer - shorter < _SECONDS:
        return ()
    return (Entry("duration", f"{before:.3g} s", f"{after:.3g} s", step),)


_MUCH = 1.5
_SECONDS = 0.1


def environment_differences(first: RunRecord, second: RunRecord) -> _Environment:
    """Return how the environments of two runs differ: pairs of kind and words."""
    if not first.environment or not second.environment:
        return ()
    from flowyml.environment import differences

    return tuple(differences(first.environment, second.environment))


def step_difference(
    name: str, before: Made, after: Made, environment: _Environment, provenance: Provenance
) -> StepDifference:
    """Return how two calls of a step differ.

    Args:
        name: what to call the step.
        before: the first call.
        after: the second.
        environment: how the environments of their runs differ.
        provenance: what it takes to look at what the functions saved.
    """
    first, second = before.step, after.step
    codes = before.code, after.code
    code, source, libraries = _code(*codes)
    results, uncompared = _results(name, first, second, provenance)
    return StepDifference(
        name,
        before.place,
        after.place,
        hyperparameters=entries(first.hyperparameters, second.hyperparameters, name),
        seeds=_seeds(name, first, second),
        code=code,
        source=source,
        libraries=libraries,
        inputs=tuple(_inputs(name, first, second)),
        results=results,
        uncompared=uncompared,
        outcome=(
            *entries(_outcome(first), _outcome(second), name),
            *durations(first.duration, second.duration, name),
        ),
        environment=environment,
        used=_used(before.code) | _used(after.code),
        code_is_known=all(code is not None and not code.unknown for code in codes),
        drew=bool(_drawn(first, second)) if first.random_after and second.random_after else None,
        drew_alike=first.random_after == second.random_after if first.random_after else None,
        unknown=tuple(dict.fromkeys((*_unknown(before), *_unknown(after)))),
        parent=None if first.parent is None else f"{before.run.id}/{first.parent}",
    )


def _seeds(name: str, first: StepRecord, second: StepRecord) -> tuple[Entry, ...]:
    """Compare seeds; and random states, unless they follow from those or nobody drew from them."""
    seeds = [step.seed if step.seeded else None for step in (first, second)]
    if seeds[0] != seeds[1]:
        before, after = ("none applied" if seed is None else seed for seed in seeds)
        return (Entry("seed", before, after, name),)
    drawn = _drawn(first, second)
    states = entries(first.random, second.random, name)
    return tuple(
        attrs.evolve(entry, name=f"random state of {entry.name}")
        for entry in states
        if entry.name in drawn
    )


def _drawn(first: StepRecord, second: StepRecord) -> set[str]:
    """Return the libraries whose generators either call may have drawn from."""
    return {
        library
        for step in (first, second)
        for library, state in step.random.items()
        if step.random_after.get(library) != state
    }


def _code(
    before: Code | None, after: Code | None
) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """Return in words how the code differs, how its text does, and the libraries that it uses."""
    if before is None or after is None:
        return (), None, ()
    libraries = entries(before.libraries, after.libraries)
    told: tuple[str, ...] = ()
    if before.digest != after.digest:
        from flowyml.code import differences

        plain = (attrs.evolve(code, libraries={}) for code in (before, after))
        told = tuple(differences(*plain)) or (f"{before.function} changed",)
    return told, _source(before, after), tuple(map(_version, libraries))


def _version(entry: Entry) -> str:
    before, after = (
        "not used" if version is MISSING else version for version in (entry.before, entry.after)
    )
    return f"{entry.name} {before} → {after}"


def _source(before: Code, after: Code) -> str | None:
    if before.source is None or after.source is None or before.source == after.source:
        return None
    lines = difflib.unified_diff(
        before.source.splitlines(),
        after.source.splitlines(),
        before.function,
        after.function,
        lineterm="",
    )
    return "\n".join(lines)


def _inputs(name: str, first: StepRecord, second: StepRecord) -> Iterator[InputDifference]:
    for key in dict.fromkeys((*first.inputs, *second.inputs)):
        given = InputDifference(key, first.inputs.get(key), second.inputs.get(key), name)
        if given.differs or _told(given.before) != _told(given.after):
            yield given


def _told(given: Input | None) -> Any:
    """Return what is told of an input besides its content."""
    return given and (given.type, given.ref, encoding.dumps(describe(given.settings)))


def _results(
    name: str, first: StepRecord, second: StepRecord, provenance: Provenance
) -> tuple[tuple[Result, ...], tuple[str, ...]]:
    """Return what isn't the same, and the names of what isn't known on one side."""
    changed = {
        key for step in (first, second) for key, given in step.inputs.items() if given.changed
    }
    before, after = (_made(name, step, changed, provenance) for step in (first, second))
    results, uncompared = [], []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key, _NOTHING), after.get(key, _NOTHING)
        if not (old.is_known and new.is_known):
            uncompared.append(key)
        elif old.digest != new.digest:
            results.append(Result(key, old.digest, new.digest, old.ref, new.ref))
    return tuple(results), tuple(uncompared)


@attrs.frozen
class _Content:
    digest: str | None = None
    ref: str | None = None
    is_known: bool = True


_NOTHING = _Content()
_UNKNOWN = _Content(is_known=False)


def _made(
    name: str, step: StepRecord, changed: Iterable[str], provenance: Provenance
) -> dict[str, _Content]:
    """Return what a call returned, changed and saved, by a name for each."""
    found = {_output(name, item.key): _UNKNOWN for item in step.not_stored}
    for output in step.outputs:
        found[_output(name, output.key)] = _Content(output.digest, output.ref)
    for key in sorted(changed):
        given = step.inputs.get(key)
        digest = None if given is None else given.changed or given.digest
        found[f"{name}: the argument {key!r} afterwards"] = _Content(digest, None, bool(digest))
    times = Counter[str]()
    for ref in step.saved:
        asset, saved = provenance.asset(ref), ref.partition("@")[0]
        times[saved] += 1
        number = f" #{times[saved]}" if times[saved] > 1 else ""
        content = _UNKNOWN if asset is None else _Content(asset.digest, ref)
        found[f"{name}: saved {saved!r}{number}"] = content
    return found


def _output(name: str, key: str) -> str:
    return f"{name}.{key}" if key else name


def _outcome(step: StepRecord) -> dict[str, Any]:
    return {
        "status": step.status,
        "error": step.error and f"{step.error.type}: {step.error.message}",
        "failed attempts": len(step.attempts),
    }


def _used(code: Code | None) -> frozenset[str]:
    return frozenset(code.libraries if code else ())


def _unknown(made: Made) -> Iterator[str]:
    step = made.step
    if made.code is None:
        yield "its code isn't recorded"
    else:
        yield from made.code.unknown
    for key, given in step.inputs.items():
        if given.digest is None:
            reason = f": {given.reason}" if given.reason else ""
            yield f"the argument {key!r} has no digest{reason}"
    if not step.seeded and not step.random:
        yield "no seed was applied, and the random states at its entry aren't recorded"
    if not made.run.environment:
        yield f"the environment of the run {made.run.id} isn't recorded"
