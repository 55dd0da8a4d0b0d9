"""Words for single differences: short, and never so short that two sides look the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from flowyml.difference.items import (
    MISSING,
    Entry,
    HistoryDifference,
    InputDifference,
    Result,
    relative_norm,
)
from flowyml.digests import is_digest
from flowyml.interfaces import Change
from flowyml.leaves import shortened
from flowyml.records import Input
from flowyml.reproducing.reproduction import in_words

_DIGITS = 12
"""Of a digest; enough to tell any two apart."""


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return names in a row, shortened with a count."""
    quoted = [repr(name) for name in names]
    if len(quoted) > most + 1:
        quoted = [*quoted[:most], f"{len(quoted) - most} more"]
    *first, last = quoted
    return f"{', '.join(first)} and {last}" if first else last


def of_entry(entry: Entry) -> str:
    """Return how a setting or property differs, with its name."""
    return f"{entry.name}  {sides(entry.before, entry.after)}"


def sides(before: Any, after: Any) -> str:
    """Return two values with an arrow between; numbers with few digits if that tells them apart."""
    texts = _value(before, ".6g"), _value(after, ".6g")
    if texts[0] == texts[1]:
        texts = _value(before, ""), _value(after, "")
    return " → ".join(texts)


def _value(value: Any, form: str) -> str:
    if value is MISSING:
        return "-"
    if type(value) is float:
        return f"{value:{form}}" if form and math.isfinite(value) else repr(value)
    if isinstance(value, str):
        if is_digest(value):
            return value[:_DIGITS] + "…"
        return shortened(value) if value.isprintable() and value else shortened(repr(value))
    try:
        return shortened(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):
        return shortened(repr(value))


def of_input(given: InputDifference) -> str:
    """Return how an argument that is data differs, with its name."""
    text = f"{given.name}  {_given(given.before)} → {_given(given.after)}"
    if given.before is None or given.after is None:
        return text
    if given.differs is False and given.before.type == given.after.type:
        where = sides(given.before.ref or MISSING, given.after.ref or MISSING)
        text = f"{given.name}  {given.before.type}, the same content: {where}"
    old, new = given.before.settings, given.after.settings
    settings = [
        f"{key} {sides(old.get(key, MISSING), new.get(key, MISSING))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key, MISSING) != new.get(key, MISSING)
    ]
    return f"{text} ({', '.join(settings)})" if settings else text


def _given(given: Input | None) -> str:
    if given is None:
        return "-"
    digest = "no digest" if given.digest is None else f"{given.digest[:_DIGITS]}…"
    kept = given.ref is None or given.ref.endswith(f"@{given.digest}")  # by its content alone
    where = "" if kept else f"{given.ref}, "
    return f"{given.type} ({where}{digest})"


def of_result(result: Result) -> str:
    """Return what was made on both sides."""
    before = _made(result.before, result.ref_before)
    return f"{result.name}  {before} → {_made(result.after, result.ref_after)}"


def _made(digest: str | None, ref: str | None) -> str:
    if digest is None:
        return "-"
    return f"{ref} ({digest[:_DIGITS]}…)" if ref else f"{digest[:_DIGITS]}…"


def of_metric(metric: HistoryDifference) -> str:
    """Return where a metric of the training history begins to differ, and how it ends."""
    if metric.epoch is None:
        side = "first" if metric.length_before else "second"
        return f"{metric.metric}  only in the {side}"
    last = sides(*(MISSING if value is None else value for value in (metric.before, metric.after)))
    text = f"{metric.metric}  from epoch {metric.epoch:g} on, last {last}"
    if metric.length_before == metric.length_after:
        return text
    return f"{text}, {metric.length_before} → {metric.length_after} epochs"


def of_change(change: Change) -> str:
    """Return how a value in the contents differs, and how much in relation to what it was."""
    relative = relative_norm(change)
    text = in_words(change)
    if change.elements == 1 or not math.isfinite(relative):
        return text
    return f"{text}, relative norm {relative:.3g}"
