"""The versions of one checkpoint: which to go on from, which is the best, and which to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowyml import names, origins
from flowyml.assets import Asset
from flowyml.errors import FlowymlWarning, IntegrityError, MaterializationError, StoreError, warn
from flowyml.store import Store
from flowyml.store.freeing import Freeing
from flowyml_pytorch.checkpoints.progress import Best, Number

SCHEMA = 1
"""Version of what a checkpoint holds. A reader refuses those it doesn't know."""


@attrs.frozen
class Kept:
    """A version that is there; `value` is the best metric's, where it was given."""

    ref: str
    value: Number | None


class Versions:
    """The versions that one training has saved, oldest first.

    Attributes:
        name: the asset's name.
        tag: tells this training's versions from others of the name.
    """

    def __init__(
        self, store: Store, name: str, tag: tuple[str, str], keep: int | None, best: Best | None
    ) -> None:
        self.store = store
        self.name = name
        self.tag = tag
        self._keep = keep
        self._best = best
        self._kept: list[Kept] = []
        self._freeing = Freeing(store)

    @property
    def latest(self) -> str | None:
        """The ref of the newest version."""
        return self._kept[-1].ref if self._kept else None

    @property
    def best(self) -> Kept | None:
        """The version with the best value of the metric; of equal ones the first."""
        found: Kept | None = None
        for kept in self._kept:
            than = None if found is None else found.value
            if self._best and kept.value is not None and self._best.is_better(kept.value, than):
                found = kept
        return found

    def adopt(self, asset: Asset) -> None:
        """Go on from a version: those of the same training up to it are this one's."""
        self.tag = next(
            ((key, asset.tags[key]) for key in ("call", "training") if key in asset.tags), self.tag
        )
        self._kept = []
        for version in self.store.versions(self.name):
            try:
                known = self.store.get(f"{self.name}@{version}")
            except StoreError:  # damaged, or deleted meanwhile
                continue
            if known.tags.get(self.tag[0]) == self.tag[1]:
                self.note(known)
            if known.ref == asset.ref:
                break

    def note(self, asset: Asset) -> Kept:
        """Count a version among those that are there."""
        metrics = asset.metadata.properties.get("metrics", {})
        value = metrics.get(self._best.metric) if self._best else None
        # What JSON has no number for is written as text.
        kept = Kept(str(asset.ref), float(value) if isinstance(value, str) else value)
        self.keep(kept)
        return kept

    def keep(self, kept: Kept) -> None:
        """Count a version that another process has saved."""
        self._kept.append(kept)

    def save(self, data: Any, tags: Mapping[str, str], properties: Mapping[str, Any]) -> Kept:
        """Save a version and count it."""
        asset = Asset(name=self.name, data=data, tags={**tags, self.tag[0]: self.tag[1]})
        asset.metadata.properties.update(properties)
        self.store.save(asset)
        return self.note(asset)

    def drop_old(self, *, delete: bool = True) -> None:
        """Forget what isn't to be kept, delete it, and free the room that nobody else needs."""
        if self._keep is None:
            return
        best = self.best
        scope = origins.current_scope.get()
        for kept in self._kept[: -self._keep]:
            if kept is best:
                continue
            self._kept.remove(kept)
            if delete:
                self._freeing.delete(kept.ref)
            if scope is not None and kept.ref in scope.saved:
                scope.saved.remove(kept.ref)  # the record names what is there
        if delete:
            self._freeing.free()

    def find(self, resume: bool | str | None, call: str | None) -> tuple[Asset, Any] | None:
        """Return the version to go on from, with what it holds; None to begin anew.

        Args:
            resume: None takes the newest of this call, True the newest of the name, a ref that
                one, False none.
            call: the call of the step that is running, or None.

        Raises:
            AssetNotFoundError: when the version that was asked for isn't there.
            IntegrityError: when it is damaged; or when every one that would do is.
            MaterializationError: when it holds something else.
        """
        if resume is False or (resume is None and call is None):
            return None
        if isinstance(resume, str):
            name, version = names.parse_ref(resume)
            if version is not None:
                return self.opened(resume)
            return self._newest(name, None) or self.opened(resume)
        return self._newest(self.name, None if resume else call)

    def _newest(self, name: str, call: str | None) -> tuple[Asset, Any] | None:
        damaged: list[str] = []
        for version in reversed(self.store.versions(name)):
            ref = f"{name}@{version}"
            try:
                if call is not None and self.store.get(ref).tags.get("call") != call:
                    continue
                found = self.opened(ref)
            except IntegrityError as error:
                damaged.append(f"{ref} is damaged and was passed over: {error}")
                continue
            for text in damaged:
                warn(f"{text} Training goes on from {ref}.", FlowymlWarning)
            return found
        if damaged and call is None:
            raise IntegrityError(" ".join(damaged))
        for text in damaged:
            warn(f"{text} Training begins anew.", FlowymlWarning)
        return None

    def opened(self, ref: str) -> tuple[Asset, Any]:
        """Return a version, with what it holds, after comparing it with its digests.

        Raises:
            AssetNotFoundError: when it isn't there.
            IntegrityError: when it is damaged.
            MaterializationError: when it is no checkpoint.
        """
        asset, data = self.store.get(ref), self.store.load(ref)
        if not isinstance(data, dict) or "progress" not in data or "checkpoint" not in data:
            raise MaterializationError(
                f"{ref} is no checkpoint: it holds a {asset.stored and asset.stored.type}. "
                f"Give Checkpoint another name=, or resume= the ref of one that it has saved."
            )
        if data["checkpoint"] != SCHEMA:
            raise MaterializationError(
                f"{ref} was saved as a checkpoint of version {data['checkpoint']}; this "
                f"flowyml-pytorch knows version {SCHEMA}. Install a newer one."
            )
        return asset, data
