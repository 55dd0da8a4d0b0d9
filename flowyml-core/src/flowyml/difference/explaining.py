"""Why contents differ: what was recorded of how they were made, the likeliest causes first.

Only what can influence a result counts as a cause. What follows from another cause, such as an
input that an earlier step made differently, isn't one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
        step: the step that it concerns; None when it concerns all.
    """

    kind: CauseKind
    sentence: str
    evidence: tuple[str, ...] = ()
    step: str | None = None


def causes(difference: Difference) -> list[Cause]:
    """Return what may have made contents differ, the likeliest first; none if they are equal."""
    if not difference.differs:
        return []
    involved = [step for step in (*difference.steps, *difference.upstream) if step.involved]
    found = [*_of_whole(difference)]
    for step in involved:
        found += _of_step(step)
    for make in (_of_environment, _unrecorded):
        found += make(difference, involved)
    found += _nondeterminism(difference, involved, found)
    return sorted(dict.fromkeys(found), key=lambda cause: _RANKS[cause.kind])


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
    """Yield the recorded differences between two calls, without their environment."""
    name = step.name
    if step.code:
        source = step.source.splitlines()[2:] if step.source else []
        yield Cause(
            "code",
            f"The code that {name!r} runs isn't the same, so it may compute something else.",
            (*step.code, *(line for line in source if line[:1] in "+-")),
            name,
        )
    inputs = [given for given in step.inputs if given.differs and given.name not in step.traced]
    inputs += [given for given in step.inputs if given.differs is None and _settings_differ(given)]
    if inputs:
        yield Cause(
            "inputs",
            f"{name!r} was given other data: {listed(given.name for given in inputs)}.",
            tuple(map(of_input, inputs)),
            name,
        )
    if step.hyperparameters:
        yield Cause(
            "hyperparameters",
            f"{name!r} was called with other settings: "
            f"{listed(entry.name for entry in step.hyperparameters)}.",
            tuple(map(of_entry, step.hyperparameters)),
            name,
        )
    if step.seeds:
        kind: CauseKind = "unrecorded" if step.drew is False else "seed"
        yield Cause(kind, _seed_sentence(step), tuple(map(of_entry, step.seeds)), name)


def _settings_differ(given: InputDifference) -> bool:
    assert given.before is not None
    assert given.after is not None
    return given.before.settings != given.after.settings


def _seed_sentence(step: StepDifference) -> str:
    if step.drew is False:
        return (
            f"{step.name!r} was seeded otherwise, but drew from no random generator whose state is "
            f"recorded; it may have drawn from another."
        )
    if any(entry.name == "seed" for entry in step.seeds):
        return f"{step.name!r} was seeded otherwise, so it drew other random numbers."
    sources = listed(entry.name.removeprefix("random state of ") for entry in step.seeds)
    return (
        f"When {step.name!r} was called, the random generators of {sources} were in other states, "
        f"so it drew other random numbers. A seed makes them the same: @step(seed=...)."
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


def _of_environment(difference: Difference, involved: Iterable[StepDifference]) -> Iterator[Cause]:
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


def _unrecorded(difference: Difference, involved: Iterable[StepDifference]) -> Iterator[Cause]:
    """Yield what may differ without anybody knowing."""
    for step in involved:
        if step.unknown:
            yield Cause(
                "unrecorded",
                f"Not all that {step.name!r} used was recorded, so it may differ unseen.",
                step.unknown,
                step.name,
            )
    if difference.unrecorded:
        yield Cause(
            "unrecorded",
            "Not all is known of how they were made, so there may be differences unseen.",
            difference.unrecorded,
        )


def _nondeterminism(
    difference: Difference, involved: list[StepDifference], found: list[Cause]
) -> Iterator[Cause]:
    """Yield a cause for the calls that nothing recorded explains: what they run may vary."""
    recorded = {cause.step for cause in found if cause.kind != "unrecorded"}
    if None in recorded:  # the environment, which concerns all
        return
    parents = {step.parent for step in involved if step.parent is not None}
    left = [
        step
        for step in involved
        if step.name not in recorded and not step.traced and step.before not in parents
    ]
    if not left:
        return
    names = listed(step.name for step in left)
    yield Cause(
        "nondeterminism",
        f"Nothing that was recorded of {names} differs: what it runs may give another result each "
        f"time, as parallel sums on a GPU or on several threads do. "
        f"seed_everything(seed, deterministic=True) makes the frameworks compute the same.",
        tuple(text for step in left for text in _draws(step)),
    )


def _draws(step: StepDifference) -> Iterator[str]:
    if step.drew_alike is not None:
        states = "in equal states: both drew" if step.drew_alike else "in other states: they drew"
        numbers = "the same random numbers" if step.drew_alike else "other or more random numbers"
        yield f"The random generators ended {states} {numbers} in {step.name!r}."
