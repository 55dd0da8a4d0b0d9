"""Two stored versions side by side: what is known of them, without their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from flowyml.assets import Asset, Parent
from flowyml.difference.items import MISSING, AssetDifference, Entry, HistoryDifference
from flowyml.difference.members import entries, flat, same
from flowyml.models import Model


def asset_difference(name: str, first: Asset, second: Asset) -> AssetDifference:
    """Return how two versions differ, except for their values."""
    histories = [a.training_history if isinstance(a, Model) else None for a in (first, second)]
    return AssetDifference(
        name,
        str(first.ref),
        str(second.ref),
        first.digest == second.digest,
        metadata=entries(flat(first.metadata.properties), flat(second.metadata.properties)),
        history=tuple(_history(histories[0] or {}, histories[1] or {})),
        tags=entries(first.tags, second.tags),
        parents=tuple(_parents(first, second)),
    )


def _history(
    before: Mapping[str, list[int | float]], after: Mapping[str, list[int | float]]
) -> Iterator[HistoryDifference]:
    epochs = before.get("epochs", [])
    for metric in dict.fromkeys((*before, *after)):
        old, new = before.get(metric), after.get(metric)
        if old is None or new is None:
            epoch = None
        elif same(old, new):
            continue
        else:
            pairs = zip(old, new, strict=False)
            place = next((i for i, pair in enumerate(pairs) if not same(*pair)), -1)
            place = place if place >= 0 else min(len(old), len(new))
            epoch = epochs[place] if place < len(epochs) else place + 1
        old, new = old or [], new or []
        yield HistoryDifference(
            metric,
            epoch,
            old[-1] if old else None,
            new[-1] if new else None,
            len(old),
            len(new),
        )


def _parents(first: Asset, second: Asset) -> Iterator[Entry]:
    before, after = (dict(_placed(a)) for a in (first, second))
    for place in dict.fromkeys((*before, *after)):
        old, new = before.get(place), after.get(place)
        if old is None or new is None or not _is_same(old, new):
            refs = (MISSING if parent is None else parent.ref for parent in (old, new))
            yield Entry(place, *refs)


def _is_same(first: Parent, second: Parent) -> bool:
    if first.digest is None and second.digest is None:
        return first.ref == second.ref
    return first.digest == second.digest


def _placed(asset: Asset) -> Iterator[tuple[str, Parent]]:
    times = Counter[str]()
    for parent in asset.parents:
        times[parent.relation] += 1
        number = times[parent.relation]
        relation = parent.relation.replace("_", " ")
        yield (relation if number == 1 else f"{relation} #{number}"), parent
