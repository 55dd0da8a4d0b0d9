"""Two mappings side by side: hyperparameters, properties, tags, and whatever else has names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowyml import leaves
from flowyml.difference.items import MISSING, Entry


def entries(
    before: Mapping[str, Any], after: Mapping[str, Any], step: str | None = None
) -> tuple[Entry, ...]:
    """Return an entry for each member that isn't the same in both."""
    names = dict.fromkeys((*before, *after))
    found = (
        Entry(name, before.get(name, MISSING), after.get(name, MISSING), step) for name in names
    )
    return tuple(e for e in found if not same(e.before, e.after))


def same(before: Any, after: Any) -> bool:
    """Tell whether two values are the same: NaN is, and 1 and 1.0 are not."""
    return not leaves.compare(before, after)


def flat(properties: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with names such as ``"optimizer.lr"``."""
    found: dict[str, Any] = {}
    for key, value in properties.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{path}{key}.")
        else:
            found[f"{path}{key}"] = value
    return found
