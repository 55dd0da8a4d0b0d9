"""What differs, and why, as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from flowyml.difference import Difference
from flowyml.difference.items import AssetDifference, StepDifference
from flowyml.difference.wording import of_change, of_entry, of_input, of_metric, of_result

_LINES = 20
"""Of a section that are shown."""

_SOURCE = "Source"

_WIDEST = 32
"""Characters of a name up to which what follows is aligned."""


def as_text(difference: Difference) -> str:
    """Return what differs: a title, and a section for each kind of difference."""
    lines = [_title(difference)]
    for title, rows in _sections(difference):
        shown = _shortened(rows)
        if shown:
            shown = shown if title == _SOURCE else _aligned(shown)
            lines += ["", title, *(f"  {row}" for row in shown)]
    return "\n".join(lines)


def explained(difference: Difference) -> str:
    """Return what may have made the contents differ, the likeliest first."""
    causes = difference.explain()
    if not causes:
        return _title(difference)
    lines = [_title(difference), "", "What may be the cause, the likeliest first:"]
    for number, cause in enumerate(causes[:_LINES], 1):
        lines.append(f"{number}. {cause.sentence}")
        lines += [f"     {row}" for row in _aligned(_shortened(cause.evidence))]
    if len(causes) > _LINES:
        lines.append(f"… and {len(causes) - _LINES:,} more")
    return "\n".join(lines)


def _title(difference: Difference) -> str:
    what = "what the runs made" if difference.kind == "run" else "the contents"
    if difference.differs:
        told = "differs" if difference.kind == "run" else "differ"
    elif difference.complete:
        told = "is equal" if difference.kind == "run" else "are equal"
        told = f"{told}, bit for bit"
    else:
        told = "is equal as far as it was stored"
    return f"{difference.before} → {difference.after}: {what} {told}."


def _sections(difference: Difference) -> Iterator[tuple[str, Sequence[str]]]:
    steps, assets = difference.steps, difference.assets

    def of_steps(rows: Callable[[StepDifference], Iterable[str]]) -> list[str]:
        return _labelled([(step.name, rows(step)) for step in steps])

    def of_assets(rows: Callable[[AssetDifference], Iterable[str]]) -> list[str]:
        return _labelled([(asset.name, rows(asset)) for asset in assets])

    yield "Runs", [*map(of_entry, difference.about)]
    yield "Only in the first", difference.only_before
    yield "Only in the second", difference.only_after
    yield "Outcome", of_steps(lambda step: map(of_entry, step.outcome))
    yield "Hyperparameters", of_steps(lambda step: map(of_entry, step.hyperparameters))
    yield "Seeds", of_steps(lambda step: map(of_entry, step.seeds))
    yield "Code", difference.code
    for source in dict.fromkeys(step.source for step in steps if step.source):
        yield _SOURCE, source.splitlines()
    yield "Inputs", of_steps(lambda step: map(of_input, step.inputs))
    yield "Environment", [f"{kind}  {text}" for kind, text in difference.environment]
    yield "Outputs", [*map(of_result, difference.outputs)] if difference.kind == "run" else []
    if not steps:  # otherwise it stands among their inputs
        yield "Made from", of_assets(lambda asset: map(of_entry, asset.parents))
    yield "Metadata", of_assets(lambda asset: map(of_entry, asset.metadata))
    yield "Training history", of_assets(lambda asset: map(of_metric, asset.history))
    tags = of_assets(lambda asset: map(of_entry, asset.tags))
    yield "Tags", [*map(of_entry, difference.run_tags), *tags]
    for asset in assets:
        rows = [of_change(change) for change in asset.values or ()]
        yield f"Values of {asset.name}", [*rows, *([asset.note] if asset.note else [])]
    yield "Not known", [*difference.notes, *difference.unrecorded]


def _labelled(groups: Sequence[tuple[str, Iterable[str]]]) -> list[str]:
    """Return the rows of all groups, with their labels if there are several groups."""
    prefixed = len(groups) > 1
    return [f"{label}: {row}" if prefixed else row for label, rows in groups for row in rows]


def _shortened(rows: Sequence[str]) -> list[str]:
    if len(rows) <= _LINES + 1:
        return list(rows)
    return [*rows[:_LINES], f"… and {len(rows) - _LINES:,} more"]


def _aligned(rows: Sequence[str]) -> list[str]:
    """Return rows whose names, which end with two blanks, are equally wide."""
    parts = [row.partition("  ") for row in rows]
    widths = [len(name) for name, gap, _ in parts if gap and name and len(name) <= _WIDEST]
    width = max(widths, default=0)
    return [
        f"{name:<{width}}  {rest}" if gap and name not in ("", "+", "-") else f"{name}{gap}{rest}"
        for name, gap, rest in parts
    ]
