"""What differs between two calls of a step or two stored versions, item by item: plain values."""

from __future__ import annotations

import math
from typing import Any

import attrs

from flowyml.interfaces import Change
from flowyml.records import Input


class _Missing:
    """Stands for what isn't there at all, as None is a value."""

    def __repr__(self) -> str:
        return "-"


MISSING: Any = _Missing()


@attrs.frozen
class Entry:
    """One setting or property that differs.

    Attributes:
        name: its flat name, such as ``"config.learning_rate"``.
        before: what it is in the first; `MISSING` where it isn't.
        after: what it is in the second.
        step: the step that it belongs to, where there is one.
    """

    name: str
    before: Any = MISSING
    after: Any = MISSING
    step: str | None = None


@attrs.frozen
class InputDifference:
    """One argument that is data: what is known of it in both calls; None where it isn't given."""

    name: str
    before: Input | None
    after: Input | None
    step: str | None = None

    @property
    def differs(self) -> bool | None:
        """Whether its content differs; None when that can't be told."""
        if self.before is None or self.after is None:
            return True
        if self.before.digest is None or self.after.digest is None:
            return True if self.before.type != self.after.type else None
        return self.before.digest != self.after.digest


@attrs.frozen
class Result:
    """One thing that a step made or changed, which isn't the same in both calls.

    Attributes:
        name: the step's name, with the key of the output if it has one.
        before: its content digest in the first; None where there is none.
        after: its content digest in the second.
        ref_before: where the store has the first, if it does.
        ref_after: where the store has the second.
    """

    name: str
    before: str | None = None
    after: str | None = None
    ref_before: str | None = None
    ref_after: str | None = None


@attrs.frozen
class HistoryDifference:
    """One metric of the training history that differs.

    Attributes:
        metric: its name.
        epoch: the first epoch in which it differs, as the history counts; None when only one has
            the metric.
        before: its last value in the first; None where there is none.
        after: its last value in the second.
        length_before: how many epochs the first has.
        length_after: how many the second has.
    """

    metric: str
    epoch: float | None
    before: float | None
    after: float | None
    length_before: int
    length_after: int


@attrs.frozen
class AssetDifference:
    """What differs between two stored versions.

    Attributes:
        name: what they are: the name of the output, or that of the asset.
        before: ref of the first.
        after: ref of the second.
        same: whether their contents are equal, bit for bit.
        metadata: properties that differ.
        history: metrics that differ.
        tags: tags that differ.
        parents: what they were made from, as far as that differs.
        values: how the contents differ, largest relative change first; None when that isn't known
            or wasn't asked for.
        note: why `values` isn't known.
    """

    name: str
    before: str
    after: str
    same: bool
    metadata: tuple[Entry, ...] = ()
    history: tuple[HistoryDifference, ...] = ()
    tags: tuple[Entry, ...] = ()
    parents: tuple[Entry, ...] = ()
    values: tuple[Change, ...] | None = None
    note: str | None = None


@attrs.frozen
class StepDifference:
    """What differs between two calls of a step.

    Attributes:
        name: the step's name, with a number where a run calls it more than once.
        before: ``"<run id>/<index>"`` of the first call.
        after: the same of the second.
        hyperparameters: those that differ.
        seeds: the seed, or else the states at entry of random generators that were drawn from.
        code: in words.
        source: how the function's text differs, as a unified diff; None when it doesn't.
        libraries: other versions of libraries that the code uses, in words.
        inputs: the other arguments that differ.
        results: what the calls made or changed, as far as it differs.
        uncompared: names of what isn't known on one side, so that it couldn't be compared.
        outcome: status, error and duration.
        environment: kind and words of each difference between the environments of the runs.
        used: names of packages that the code uses; empty when that isn't known.
        code_is_known: whether all that the code consists of has a digest, in both.
        drew: whether a generator was drawn from whose state is recorded; None if unknown.
        drew_alike: whether the random generators ended in equal states; None if unknown.
        unknown: what isn't recorded and may differ, in words.
        parent: where the call is recorded that the first one was made in; None when in none.
        involved: whether what differs may be a cause: the calls, or what was made of what they
            made, ended differently.
        traced: names of inputs that differ because others of the calls made them so.
    """

    name: str
    before: str
    after: str
    hyperparameters: tuple[Entry, ...] = ()
    seeds: tuple[Entry, ...] = ()
    code: tuple[str, ...] = ()
    source: str | None = None
    libraries: tuple[str, ...] = ()
    inputs: tuple[InputDifference, ...] = ()
    results: tuple[Result, ...] = ()
    uncompared: tuple[str, ...] = ()
    outcome: tuple[Entry, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    used: frozenset[str] = frozenset()
    code_is_known: bool = True
    drew: bool | None = None
    drew_alike: bool | None = None
    unknown: tuple[str, ...] = ()
    parent: str | None = None
    involved: bool = False
    traced: frozenset[str] = frozenset()

    @property
    def differs(self) -> bool:
        """Whether the calls ended differently, or made what is known to differ."""
        return bool(self.results) or any(entry.name == "status" for entry in self.outcome)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that concerns the call itself differs."""
        found = (self.hyperparameters, self.seeds, self.code, self.libraries, self.inputs)
        return not (any(found) or self.results or self.outcome or self.source)


def relative_norm(change: Change) -> float:
    """Return how large a change is in relation to what was there; infinite without numbers."""
    if change.norm is None or change.norm_before is None:
        return math.inf
    if change.norm == 0:
        return 0.0
    if change.norm_before == 0 or not math.isfinite(change.norm):
        return math.inf
    return change.norm / change.norm_before
