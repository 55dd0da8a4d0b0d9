"""Two runs or versions side by side: which of their parts belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from flowyml import journal, names
from flowyml.assets import Asset
from flowyml.comparing import compare_assets
from flowyml.difference import Difference, Kind
from flowyml.difference.assets import asset_difference
from flowyml.difference.calls import durations, environment_differences, step_difference
from flowyml.difference.items import AssetDifference, InputDifference, StepDifference, relative_norm
from flowyml.difference.members import entries
from flowyml.difference.provenance import Made, Provenance
from flowyml.errors import AssetNotFoundError, FlowymlError, StoreError
from flowyml.records import RunRecord
from flowyml.store import Store


def difference_of(store: Store, a: str, b: str, values: bool) -> Difference:
    """Return what differs; see `difference.diff`."""
    (kind, first), (other, second) = _meant(store, a), _meant(store, b)
    if kind != other:
        raise StoreError(
            f"Two versions can be compared, or two runs; {a!r} is a {kind} and {b!r} a {other}. "
            f"A version is given as 'name@v1', a run by its id."
        )
    pairing = Pairing(store, values)
    return pairing.versions(first, second) if kind == "version" else pairing.runs(first, second)


def _meant(store: Store, text: str) -> tuple[Kind, str]:
    """Return whether a text means a version or a run, and its full ref or id."""
    if not isinstance(text, str):
        raise TypeError(f"a ref such as 'digits@v1' or the id of a run is needed; got {text!r}")
    if "@" in text:
        return "version", str(store.get(text).ref)
    runs = journal.ids(store)
    if text in runs:
        return "run", text
    if names.is_name(text) and store.versions(text):
        return "version", str(store.get(text).ref)
    begun = [run_id for run_id in runs if text and run_id.startswith(text)]
    if len(begun) > 1:
        raise StoreError(
            f"{len(begun)} runs of {store.path} begin with {text!r}, such as {begun[0]} and "
            f"{begun[1]}. Give more of the id."
        )
    if not begun:
        raise _unknown(store, text, runs)
    return "run", begun[0]


def _unknown(store: Store, text: str, runs: list[str]) -> AssetNotFoundError:
    from difflib import get_close_matches

    near = get_close_matches(text, [*store.names(), *reversed(runs)], 3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return AssetNotFoundError(
        f"{store.path} holds neither an asset nor a run {text!r}.{hint} 'flowyml list' and "
        f"'flowyml runs' show what there is; another store is chosen with $FLOWYML_STORE."
    )


@attrs.frozen(eq=False)
class _Pair:
    """Two calls, and what differs between them."""

    difference: StepDifference
    before: Made
    after: Made

    @property
    def places(self) -> tuple[str, str]:
        return self.before.place, self.after.place


class Pairing:
    """Puts together what belongs together."""

    def __init__(self, store: Store, values: bool) -> None:
        self._store = store
        self._values = values
        self._provenance = Provenance(store)
        self._environments: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}

    def versions(self, a: str, b: str) -> Difference:
        """Compare two versions, and the calls that made them."""
        first, second = self._store.get(a), self._store.get(b)
        before, after = (self._maker(asset) for asset in (first, second))
        pairs, together = [], None
        if before is not None and after is not None:
            if before.place == after.place:
                together = before.step.name
            else:
                pairs = [self._pair(_either(before.step.name, after.step.name), before, after)]
        steps, upstream = self._traced(pairs, pairs if first.digest != second.digest else [])
        return Difference(
            "version",
            a,
            b,
            steps=steps,
            upstream=upstream,
            assets=(self._asset(_either(str(first.name), str(second.name)), first, second),),
            environment=steps[0].environment if steps else (),
            made_together=together,
            unrecorded=tuple(self._provenance.notes),
        )

    def _maker(self, asset: Asset) -> Made | None:
        if asset.stored is not None and asset.stored.run is None:
            self._provenance.note(
                f"{asset.ref} was not made by a step, so there is no record of how."
            )
        return self._provenance.maker(asset)

    def runs(self, a: str, b: str) -> Difference:
        """Compare two runs call by call."""
        first, second = journal.read(a, self._store), journal.read(b, self._store)
        calls, others = (dict(_numbered(run)) for run in (first, second))
        original = self._provenance.original
        pairs = [
            self._pair(label, original(made), original(others[label]))
            for label, made in calls.items()
            if label in others
        ]
        steps, upstream = self._traced(pairs, [pair for pair in pairs if pair.difference.differs])
        assets = tuple(self._outputs(steps))
        unstored = [*_unstored(first), *_unstored(second), *self._provenance.missing]
        return Difference(
            "run",
            a,
            b,
            steps=tuple(step for step in steps if step.involved or not step.is_empty),
            upstream=upstream,
            assets=assets,
            only_before=tuple(label for label in calls if label not in others),
            only_after=tuple(label for label in others if label not in calls),
            about=(
                *entries(_about(first), _about(second)),
                *durations(first.duration, second.duration),
            ),
            run_tags=entries(first.tags, second.tags),
            environment=self._environment(first, second),
            unrecorded=tuple(self._provenance.notes),
            notes=tuple(dict.fromkeys(unstored)),
            complete=not any(step.uncompared for step in steps),
        )

    def _pair(self, label: str, before: Made, after: Made) -> _Pair:
        environment = self._environment(before.run, after.run)
        return _Pair(
            step_difference(label, before, after, environment, self._provenance), before, after
        )

    def _environment(self, first: RunRecord, second: RunRecord) -> tuple[tuple[str, str], ...]:
        key = first.id, second.id
        if key not in self._environments:
            self._environments[key] = environment_differences(first, second)
        return self._environments[key]

    def _traced(
        self, pairs: list[_Pair], involved: list[_Pair]
    ) -> tuple[tuple[StepDifference, ...], tuple[StepDifference, ...]]:
        """Follow inputs that differ to the calls that made them.

        Returns:
            What differs in the pairs, and in further ones that were met, nearest first.
        """
        known = {pair.places: pair for pair in pairs}
        queue = {pair.places: pair for pair in involved}
        found: dict[tuple[str, str], StepDifference] = {}
        while queue:
            pair = queue.pop(next(iter(queue)))
            traced = set()
            for given in pair.difference.inputs:
                makers = self._makers(pair, given)
                if makers is not None:
                    traced.add(given.name)
                    places = makers[0].place, makers[1].place
                    if places not in found and places != pair.places:
                        known_pair = known.get(places)
                        queue[places] = known_pair or self._pair(makers[0].step.name, *makers)
            found[pair.places] = attrs.evolve(
                pair.difference, involved=True, traced=frozenset(traced)
            )
        steps = tuple(found.get(places, pair.difference) for places, pair in known.items())
        return steps, tuple(step for places, step in found.items() if places not in known)

    def _makers(self, pair: _Pair, given: InputDifference) -> tuple[Made, Made] | None:
        """Return the two calls of one step that made an input differ, if it is so."""
        if not given.differs or given.before is None or given.after is None:
            return None
        before = self._provenance.maker_of_input(pair.before, given.before)
        after = self._provenance.maker_of_input(pair.after, given.after)
        if before is None or after is None or before.step.name != after.step.name:
            return None
        return None if before.place == after.place else (before, after)

    def _outputs(self, steps: Iterable[StepDifference]) -> Iterator[AssetDifference]:
        for step in steps:
            for result in step.results:
                if result.ref_before is None or result.ref_after is None:
                    continue
                first = self._provenance.asset(result.ref_before, result.before)
                second = self._provenance.asset(result.ref_after, result.after)
                if first is not None and second is not None:
                    yield self._asset(result.name, first, second)

    def _asset(self, name: str, first: Asset, second: Asset) -> AssetDifference:
        found = asset_difference(name, first, second)
        if found.same:
            return attrs.evolve(found, values=())
        if not self._values:
            return found
        try:
            values = compare_assets(self._store, found.before, self._store, found.after)
        except (FlowymlError, OSError) as error:
            return attrs.evolve(found, note=f"The values can't be compared: {error}")
        if values is None:
            return attrs.evolve(found, note=_why_not(first, second))
        ordered = sorted(values, key=relative_norm, reverse=True)
        note = None if values else "The contents differ, and none of their values does."
        return attrs.evolve(found, values=tuple(ordered), note=note)


def _why_not(first: Asset, second: Asset) -> str:
    assert first.stored is not None
    assert second.stored is not None
    if first.stored.materializer != second.stored.materializer:
        return (
            f"The values aren't compared: one was saved by {first.stored.materializer!r}, the "
            f"other by {second.stored.materializer!r}."
        )
    return (
        f"The values aren't compared: {first.stored.materializer!r} doesn't tell how two differ "
        f"that were saved as {first.stored.format!r} and {second.stored.format!r}."
    )


def _either(first: str, second: str) -> str:
    return first if first == second else f"{first}, {second}"


def _numbered(run: RunRecord) -> Iterator[tuple[str, Made]]:
    """Yield a run's calls by their step's name, with a number from its second call on."""
    times = Counter[str]()
    for index, step in enumerate(run.steps):
        times[step.name] += 1
        number = times[step.name]
        yield step.name if number == 1 else f"{step.name} #{number}", Made(run, index)


def _about(run: RunRecord) -> dict[str, Any]:
    return {
        "name": run.name,
        "status": run.status,
        "seed": run.seed,
        "error": run.error and f"{run.error.type}: {run.error.message}",
    }


def _unstored(run: RunRecord) -> Iterator[str]:
    for step in run.steps:
        for item in step.not_stored:
            what = f"the output {item.key!r}" if item.key else "the output"
            yield (
                f"Not compared: {what} of {step.name!r}, a {item.type}, was not stored: "
                f"{item.reason}"
            )
