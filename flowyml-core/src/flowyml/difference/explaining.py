"""Why contents differ: what was recorded of how they were made, the likeliest causes first.

Only what can influence a result counts as a cause. What follows from another cause, such as an
input that an earlier step made differently, isn't one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import attrs

from flowyml.difference import Difference
from flowyml.difference.items import InputDifference, StepDifference
from flowyml.difference.wording import listed, of_entry, of_input

CauseKind: TypeAlias = Literal[
    "code",
    "steps",
    "inputs",
    "hyperparameters",
    "seed",
    "packages",
    "python",
    "hardware",
    "settings",
    "git",
    "other packages",
    "unrecorded",
    "nondeterminism",
]
"""Kinds of causes, the likeliest first."""

_RANKS = {kind: rank for rank, kind in enumerate(get_args(CauseKind))}


@attrs.frozen
class Cause:
    """What may have made contents differ.

    Attributes:
        kind: one of `CauseKind`.
        sentence: what differs, and why that may be the cause.
        evidence: what was recorded, a line for each item.
        steps: the calls that it concerns; empty when it concerns all.
    """

    kind: CauseKind
    sentence: str
    evidence: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


def causes(difference: Difference) -> list[Cause]:
    """Return what may have made contents differ, the likeliest first; none if they are equal."""
    if not difference.differs:
        return []
    involved = [step for step in (*difference.steps, *difference.upstream) if step.involved]
    found = [
        *_of_whole(difference),
        *_merged(cause for step in involved for cause in _of_step(step)),
        *_of_environment(involved),
        *_of_records(difference),
    ]
    found += _nondeterminism(involved, found)
    return sorted(found, key=lambda cause: _RANKS[cause.kind])


_STEPS = "{steps}"
"""Stands in a sentence for the names of the calls."""


def _merged(causes: Iterable[Cause]) -> Iterator[Cause]:
    """Make one cause of those that differ in the call alone: a step may be called many times."""
    groups: dict[Cause, list[str]] = {}
    for cause in causes:
        groups.setdefault(attrs.evolve(cause, steps=()), []).extend(cause.steps)
    for cause, names in groups.items():
        sentence = cause.sentence.replace(_STEPS, listed(names))
        yield attrs.evolve(cause, sentence=sentence, steps=tuple(names))


def _of_whole(difference: Difference) -> Iterator[Cause]:
    """Yield causes that concern no call of a step that both sides have."""
    for labels, which in (
        (difference.only_before, "first"),
        (difference.only_after, "second"),
    ):
        if labels:
            yield Cause(
                "steps",
                f"Only the {which} run called {listed(labels)}, so what these made isn't in the "
                f"other run, and what is made from it differs.",
            )
    if difference.made_together:
        yield Cause("steps", f"One call of {difference.made_together!r} made both.")
    elif difference.kind == "version" and not difference.steps:
        yield from _of_metadata(difference)


def _of_metadata(difference: Difference) -> Iterator[Cause]:
    """Yield what two versions say themselves of how they were made."""
    for asset in difference.assets:
        if asset.parents:
            evidence = tuple(map(of_entry, asset.parents))
            yield Cause("inputs", f"{asset.name!r} was made from something else.", evidence)
        settings = [entry for entry in asset.metadata if _TRAINED_WITH.match(entry.name)]
        if settings:
            evidence = tuple(map(of_entry, settings))
            yield Cause(
                "hyperparameters",
                f"{asset.name!r} was trained with other settings, as its metadata says.",
                evidence,
            )


_TRAINED_WITH = re.compile(r"(optimizer|scheduler|loss)(\.|$)")
"""Properties that adapters give for what a model was trained with."""


def _of_step(step: StepDifference) -> Iterator[Cause]:
    """Yield what differs between two calls, without their environment."""
    steps = (step.name,)
    if step.code:
        source = step.source.splitlines()[2:] if step.source else []
        yield Cause(
            "code",
            f"Other code was run by {_STEPS}, so something else may have been computed.",
            (*step.code, *(line for line in source if line[:1] in "+-")),
            steps,
        )
    inputs = [given for given in step.inputs if given.name not in step.traced and _may_tell(given)]
    if inputs:
        names = listed(given.name for given in inputs)
        sentence = f"Other data was given to {_STEPS}: {names}."
        yield Cause("inputs", sentence, tuple(map(of_input, inputs)), steps)
    if step.hyperparameters:
        names = listed(entry.name for entry in step.hyperparameters)
        sentence = f"Other settings were given to {_STEPS}: {names}."
        yield Cause("hyperparameters", sentence, tuple(map(of_entry, step.hyperparameters)), steps)
    if step.seeds:
        kind: CauseKind = "unrecorded" if step.drew is False else "seed"
        yield Cause(kind, _seed_sentence(step), tuple(map(of_entry, step.seeds)), steps)
    if step.unknown:
        yield Cause(
            "unrecorded",
            f"Not everything about {_STEPS} was recorded, so something may differ unseen.",
            step.unknown,
            steps,
        )


def _may_tell(given: InputDifference) -> bool:
    """Tell whether an input is known to differ: by its content, or else by its settings."""
    if given.differs is None and given.before is not None and given.after is not None:
        return given.before.settings != given.after.settings
    return given.differs is True


def _seed_sentence(step: StepDifference) -> str:
    if step.drew is False:
        return (
            f"Another seed was applied to {_STEPS}, but nothing was drawn from a generator whose "
            f"state is recorded; there may be others."
        )
    if any(entry.name == "seed" for entry in step.seeds):
        return f"Another seed was applied to {_STEPS}, so other random numbers were drawn."
    sources = listed(entry.name.removeprefix("random state of ") for entry in step.seeds)
    return (
        f"On entry to {_STEPS}, the random generators of {sources} were in other states, so other "
        f"random numbers were drawn. A seed makes them the same: @step(seed=...)."
    )


_ENVIRONMENT: dict[str, tuple[CauseKind, str]] = {
    "python": ("python", "Another Python ran it, which may compute or order things otherwise."),
    "hardware": (
        "hardware",
        "The hardware isn't the same: other kernels may add the same numbers in another order.",
    ),
    "settings": (
        "settings",
        "Settings of the process that numbers depend on aren't the same: threads, precision, or "
        "which algorithms may be used.",
    ),
}


def _of_environment(involved: Sequence[StepDifference]) -> Iterator[Cause]:
    """Yield what differs in what the calls ran in, once for all of them."""
    told = _grouped(((kind, text), step) for step in involved for kind, text in step.environment)
    libraries = dict.fromkeys(text for step in involved for text in step.libraries)
    packages = [text for kind, text in told if kind == "packages"]
    used = [text for text in packages if any(_uses(step, text) for step in told["packages", text])]
    named = {_package(text) for text in used}
    used += [text for text in libraries if _package(text) not in named]
    if used:
        yield Cause(
            "packages",
            "Packages that the code uses have other versions, which may compute otherwise.",
            tuple(used),
        )
    others = [text for text in packages if text not in used]
    if others:
        yield Cause(
            "other packages",
            "Other packages have other versions, which the code may use by way of those that it "
            "names.",
            tuple(others),
        )
    for kind, (cause, sentence) in _ENVIRONMENT.items():
        evidence = tuple(text for each, text in told if each == kind)
        if evidence:
            yield Cause(cause, sentence, evidence)
    git = [
        text
        for (kind, text), steps in told.items()
        if kind == "code" and any(not step.code_is_known for step in steps)
    ]
    if git:
        yield Cause(
            "git",
            "What code ran isn't fully recorded, and the repository wasn't in the same state.",
            tuple(git),
        )


def _grouped(
    pairs: Iterable[tuple[tuple[str, str], StepDifference]],
) -> dict[tuple[str, str], list[StepDifference]]:
    found: dict[tuple[str, str], list[StepDifference]] = {}
    for text, step in pairs:
        found.setdefault(text, []).append(step)
    return found


def _uses(step: StepDifference, text: str) -> bool:
    """Tell whether a package is one that the code uses; if that isn't known, it may be."""
    return not step.used or _package(text) in map(_normal, step.used)


def _package(text: str) -> str:
    """Return the package that a sentence on versions begins with."""
    return _normal(text.partition(" ")[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _of_records(difference: Difference) -> Iterator[Cause]:
    """Yield what may differ without anybody knowing, as records are missing."""
    if difference.unrecorded:
        yield Cause(
            "unrecorded",
            "Not all is known of how they were made, so there may be differences unseen.",
            difference.unrecorded,
        )


def _nondeterminism(involved: Sequence[StepDifference], found: Sequence[Cause]) -> Iterator[Cause]:
    """Yield a cause for the calls that nothing recorded explains: what they run may vary."""
    recorded = [cause for cause in found if cause.kind != "unrecorded"]
    if not all(cause.steps for cause in recorded):  # some concern all, such as the environment
        return
    explained = {name for cause in recorded for name in cause.steps}
    parents = {step.parent for step in involved if step.parent is not None}
    left = [
        step
        for step in involved
        if step.name not in explained and not step.traced and step.before not in parents
    ]
    if left:
        names = listed(step.name for step in left)
        yield Cause(
            "nondeterminism",
            f"Nothing that was recorded of {names} differs: the same code may give another result "
            f"each time, as parallel sums on a GPU or on several threads do. "
            f"seed_everything(seed, deterministic=True) makes the frameworks compute the same.",
            tuple(text for step in left for text in _draws(step)),
            tuple(step.name for step in left),
        )


def _draws(step: StepDifference) -> Iterator[str]:
    if step.drew is False:
        yield (
            f"Nothing was drawn in {step.name!r} from a random generator whose state is recorded. "
            f"Sets of strings are ordered by Python's hash seed: PYTHONHASHSEED=0 fixes it."
        )
    elif step.drew_alike is not None:
        states = "in equal states: both drew" if step.drew_alike else "in other states: they drew"
        numbers = "the same random numbers" if step.drew_alike else "other or more random numbers"
        yield f"The random generators ended {states} {numbers} in {step.name!r}."
