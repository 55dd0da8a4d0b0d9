"""What differs between two versions or two runs, and what may be the cause."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from flowyml.difference.items import (
    MISSING,
    AssetDifference,
    Entry,
    HistoryDifference,
    InputDifference,
    Result,
    StepDifference,
    relative_norm,
)
from flowyml.interfaces import Change

if TYPE_CHECKING:
    from flowyml.difference.explaining import Cause
    from flowyml.store import Store

Kind: TypeAlias = Literal["version", "run"]


@attrs.frozen
class Difference:
    """What differs between two versions or two runs; empty where nothing does.

    Attributes:
        kind: ``"version"`` or ``"run"``.
        before: ref or run id of the first.
        after: ref or run id of the second.
        steps: the calls that differ: of two runs, matched by name and order; of two versions,
            those that made them.
        upstream: the calls, in whatever run, that made inputs which differ.
        assets: the versions, or those that the runs stored.
        only_before: steps that only the first run called.
        only_after: steps that only the second run called.
        about: what else differs between two runs: name, seed, status and duration.
        run_tags: tags of the runs.
        environment: kind and words of each difference between the environments.
        made_together: of two versions, the step whose one call made both; None otherwise.
        unrecorded: in words, what isn't known of how they were made.
        notes: what couldn't be compared, with the reason.
        complete: whether everything that was made could be compared.
    """

    kind: Kind
    before: str
    after: str
    steps: tuple[StepDifference, ...] = ()
    upstream: tuple[StepDifference, ...] = ()
    assets: tuple[AssetDifference, ...] = ()
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    about: tuple[Entry, ...] = ()
    run_tags: tuple[Entry, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    made_together: str | None = None
    unrecorded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True

    @property
    def differs(self) -> bool:
        """Whether contents are known to differ: those of the versions, or what the runs made."""
        if self.kind == "version":
            return not all(asset.same for asset in self.assets)
        return bool(self.only_before or self.only_after or any(step.differs for step in self.steps))

    @property
    def identical(self) -> bool:
        """Whether all contents are known to be equal, bit for bit; metadata may differ."""
        return self.complete and not self.differs

    @property
    def hyperparameters(self) -> tuple[Entry, ...]:
        """Hyperparameters that differ."""
        return tuple(entry for step in self.steps for entry in step.hyperparameters)

    @property
    def seeds(self) -> tuple[Entry, ...]:
        """Seeds and random states at entry that differ."""
        return tuple(entry for step in self.steps for entry in step.seeds)

    @property
    def code(self) -> tuple[str, ...]:
        """What differs in the code, in words."""
        return _unique(text for step in self.steps for text in (*step.code, *step.libraries))

    @property
    def inputs(self) -> tuple[InputDifference, ...]:
        """Inputs that differ."""
        return tuple(given for step in self.steps for given in step.inputs)

    @property
    def metadata(self) -> tuple[Entry, ...]:
        """Properties that differ."""
        return tuple(entry for asset in self.assets for entry in asset.metadata)

    @property
    def history(self) -> tuple[HistoryDifference, ...]:
        """Metrics of the training history that differ."""
        return tuple(metric for asset in self.assets for metric in asset.history)

    @property
    def tags(self) -> tuple[Entry, ...]:
        """Tags that differ."""
        return (*self.run_tags, *(entry for asset in self.assets for entry in asset.tags))

    @property
    def outputs(self) -> tuple[Result, ...]:
        """What the runs made, as far as it differs."""
        return tuple(result for step in self.steps for result in step.results)

    @property
    def values(self) -> tuple[Change, ...]:
        """How the contents differ, value by value, largest relative change first."""
        changes = [change for asset in self.assets for change in asset.values or ()]
        return tuple(sorted(changes, key=relative_norm, reverse=True))

    def explain(self) -> list[Cause]:
        """Return what may have made the contents differ, the likeliest first; none if equal."""
        from flowyml.difference.explaining import causes

        return causes(self)

    def explanation(self) -> str:
        """Return the causes as text."""
        from flowyml.difference.text import explained

        return explained(self)

    def text(self) -> str:
        """Return what differs, laid out for a terminal; long lists are shortened."""
        from flowyml.difference.text import as_text

        return as_text(self)

    def __str__(self) -> str:
        return self.text()

    def to_data(self) -> dict[str, Any]:
        """Return everything as JSON-able data; a step's environment only if it is another."""
        data: dict[str, Any] = _plain(self)
        for step in (*data["steps"], *data["upstream"]):
            if step["environment"] == data["environment"]:
                del step["environment"]
        return {**data, "identical": self.identical}


def diff(store: Store, a: str, b: str, *, values: bool = True) -> Difference:
    """Return what differs between two versions, or two runs, of a store.

    Args:
        store: where both are.
        a: a ref such as ``"digits@v1"``, or a run's id, or how that begins.
        b: another of the same kind.
        values: whether to compare contents value by value, which imports their framework.

    Raises:
        AssetNotFoundError: when there is no such version or run.
        StoreError: when one is a version and the other a run, or several runs begin so.
        IntegrityError: when one of the two can't be read. Any other record that can't is a note.
    """
    from flowyml.difference.pairing import difference_of

    return difference_of(store, a, b, values)


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        members = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return {key: _plain(item) for key, item in members.items() if item is not MISSING}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
