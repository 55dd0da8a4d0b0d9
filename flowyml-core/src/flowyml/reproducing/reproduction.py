"""What came of repeating a run: each result, as it was and as it is now, and in words."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from flowyml.interfaces import Change

_SHOWN = 20
"""Tensors of one output whose differences `Reproduction.text` shows."""


@attrs.frozen
class OutputReproduction:
    """One result of a step, then and now.

    Attributes:
        key: where it stood in what the step returned, the name of an argument, or of an asset.
        kind: ``"output"``, ``"argument"`` for one that the step changed in place, or ``"saved"``
            for what its function saved by itself.
        before: its content digest then; None when there was no such result.
        after: its content digest now; None when there is no such result.
        changes: how the two differ, value by value; None when that isn't known.
        reason: why there is no such result now, or no values to compare.
    """

    key: str
    kind: str
    before: str | None
    after: str | None
    changes: tuple[Change, ...] | None = None
    reason: str | None = None

    @property
    def identical(self) -> bool:
        """Whether it is the same now, bit for bit."""
        return self.before == self.after

    @property
    def differences(self) -> list[str]:
        """What differs, a sentence for each value."""
        if self.identical:
            return []
        if self.changes:
            return [f"{self}: {in_words(change)}" for change in self.changes]
        if self.after is None:
            return [f"{self} isn't there now: {self.reason or 'the step gave none'}"]
        if self.before is None:
            return [f"{self} is new: the step gave none then"]
        told = f"{self} differs: its digest was {self.before[:12]}… and is {self.after[:12]}…"
        return [f"{told} ({self.reason})" if self.reason else told]

    def __str__(self) -> str:
        if self.kind == "argument":
            return f"the argument {self.key!r}, changed in place"
        if self.kind == "saved":
            return f"the saved {self.key!r}"
        return f"the output {self.key!r}" if self.key else "the output"


@attrs.frozen
class StepReproduction:
    """One call of a step, then and now.

    Attributes:
        name: the step's name.
        index: the call's index in the run.
        outputs: what was compared.
        reason: why it couldn't be repeated or ended otherwise; None when it was and didn't.
        failed_again: whether it failed then, and now in the same way.
        not_stored: keys of outputs that the store had not taken then, so that there is nothing to
            compare them with.
        notes: what may explain a difference.
    """

    name: str
    index: int
    outputs: tuple[OutputReproduction, ...] = ()
    reason: str | None = None
    failed_again: bool = False
    not_stored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def identical(self) -> bool | None:
        """Whether all came out the same; None when there was nothing to compare."""
        if self.reason is not None:
            return False
        if not self.outputs:
            return True if self.failed_again else None
        return all(output.identical for output in self.outputs)

    @property
    def differences(self) -> list[str]:
        """What differs, in sentences."""
        if self.identical is not False:
            return []
        found = [f"{self}: {self.reason}"] if self.reason else []
        found += [f"{self}: {text}" for output in self.outputs for text in output.differences]
        return [*found, *(f"{self}: {note}" for note in self.notes)]

    def __str__(self) -> str:
        return f"step {self.index} ({self.name})"

    def _in_short(self) -> str:
        if self.failed_again:
            return "failed again in the same way"
        unstored = ", ".join(repr(key) if key else "the output" for key in self.not_stored)
        left = f"; not compared, as it wasn't stored then: {unstored}" if unstored else ""
        if self.identical is None:
            return f"nothing to compare{left}"
        count = len(self.outputs)
        if self.identical:
            return f"identical, {_counted(count, 'result')}{left}"
        if not self.outputs:
            return "differs"
        differing = sum(not output.identical for output in self.outputs)
        return f"differs in {differing} of {_counted(count, 'result')}{left}"

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        yield f"{self.index}  {self.name}: {self._in_short()}"
        if self.reason:
            yield f"     {self.reason}"
        for output in self.outputs:
            differences = output.differences
            yield from (f"     {text}" for text in differences[:_SHOWN])
            if len(differences) > _SHOWN:
                yield f"     and {len(differences) - _SHOWN} more values of {output}"
        yield from (f"     note: {note}" for note in self.notes)


@attrs.frozen
class Reproduction:
    """A run, repeated and compared.

    Attributes:
        run: the run's id.
        name: the run's name.
        steps: its steps, in the order in which they were called then.
        before: what differs from then, found before anything was repeated.
    """

    run: str
    name: str
    steps: tuple[StepReproduction, ...]
    before: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether every step came out the same, at least one result having been compared."""
        found = [step.identical for step in self.steps]
        return True in found and False not in found

    @property
    def differences(self) -> list[str]:
        """What differs in the results, or couldn't be repeated, in sentences."""
        found = [text for step in self.steps for text in step.differences]
        if not found and not self.identical:
            return ["the run has no results that could be compared"]
        return found

    def text(self) -> str:
        """Return it as text: the steps, what differs in each, and the result."""
        lines = [line for step in self.steps for line in step.lines()]
        return "\n".join([*lines, self._result()])

    def __str__(self) -> str:
        return self.text()

    def _result(self) -> str:
        title = f"The run {self.run} ({self.name})"
        outputs = [output for step in self.steps for output in step.outputs]
        if self.identical:
            again = sum(step.failed_again for step in self.steps)
            results = _counted(len(outputs), "result")
            failed = f", {_counted(again, 'step')} failed again in the same way" if again else ""
            without = sum(step.identical is None for step in self.steps)
            rest = f"; {_counted(without, 'step')} had nothing to compare" if without else ""
            return f"{title} is bit for bit identical: {results} compared{failed}{rest}."
        failing = sum(step.identical is False for step in self.steps)
        if not failing:
            return f"{title} has no results that could be compared."
        return f"{title} isn't identical: {failing} of {_counted(len(self.steps), 'step')}."


def in_words(change: Change) -> str:
    """Return how a value differs, in one sentence."""
    name = f"{change.name}: " if change.name else ""
    if change.before is None or change.after is None:
        return f"{name}{change.after} is new" if change.before is None else f"{name}is gone"
    if change.elements is None or change.different is None:
        return f"{name}was {change.before}, is {change.after}"
    of = f"{change.different:,} of {change.elements:,} elements differ"
    if change.elements == 1:
        of = "differs"
    first = ""
    if change.first_before is not None:
        where = f"first at {[*change.first]}: " if change.first else ""
        first = f", {where}was {change.first_before}, is {change.first_after}"
    sizes = [
        f"{size:.3g} {kind}"
        for size, kind in ((change.max_absolute, "absolute"), (change.max_relative, "relative"))
        if size is not None
    ]
    largest = f"; by at most {', '.join(sizes)}" if sizes else ""
    return f"{name}{of}{first}{largest}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
