"""Assets: a thing that was made, with what is known about it and what it was made from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import attrs

from flowyml.properties import Metadata, type_name

if TYPE_CHECKING:
    from flowyml.store import Store
    from flowyml.stored import Stored

ParentLike: TypeAlias = "str | Asset | Parent"
Relation: TypeAlias = Literal["parent", "trained_on"]


@attrs.frozen
class Parent:
    """What an asset was made from.

    Attributes:
        ref: ``"name@version"``, or a bare name for what is in no store.
        digest: the content digest, when it is known.
        relation: ``"parent"`` or ``"trained_on"``.
    """

    ref: str
    digest: str | None = None
    relation: Relation = "parent"

    def __str__(self) -> str:
        return self.ref


@attrs.define(eq=False, kw_only=True, slots=False)
class Asset:
    """Something that was made: its data, and what is known about it.

    Attributes:
        name: its name in a store; None until it has one.
        version: ``"v1"``, ``"v2"``, ...: set when it is saved or loaded.
        data: the live object; None when only the metadata was read.
        metadata: ``metadata.properties`` is flat and JSON-able.
        tags: free text by key.
        stored: digest, files and more; None until it is saved or loaded.
        recognised: what the store found, when it last saved it, that it was made from.
    """

    kind: ClassVar[str] = "asset"

    name: str | None = None
    version: str | None = None
    data: Any = None
    metadata: Metadata = attrs.field(factory=Metadata)
    tags: dict[str, str] = attrs.field(factory=dict)
    stored: Stored | None = None
    _made_from: tuple[tuple[ParentLike, Relation], ...] = ()
    recognised: tuple[Parent, ...] = ()

    @property
    def ref(self) -> str | None:
        """``"name@version"``; the bare name, or None, until it is saved."""
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @property
    def digest(self) -> str | None:
        """The content digest: equal for equal content; None until it is saved."""
        return None if self.stored is None else self.stored.digest

    @property
    def required_trust(self) -> tuple[str, ...]:
        """Dotted names that loading needs in ``trust=``, besides imported module classes."""
        return () if self.stored is None else self.stored.required_trust

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What it was made from: as its maker said, then as flowyml recognised when saving it."""
        told = tuple(_parent(source, relation) for source, relation in self._made_from)
        known = {parent.ref for parent in told}
        return (*told, *(parent for parent in self.recognised if parent.ref not in known))

    def save(self, store: Store | str | os.PathLike[str] | None = None) -> Self:
        """Save as a new version and set `version`.

        Args:
            store: where; by default `Store.default`.

        Raises:
            TypeError: without a name.
            StoreError: when the store can't take it, or the asset was read without its data.
            MaterializationError: when no materializer handles the data.
        """
        from flowyml.store import Store

        Store.of(store).save(self)
        return self

    def before_save(self) -> None:
        """Bring what is known up to date with the data; a plain asset has nothing to do."""

    def described_with(self) -> dict[str, Any]:
        """Return the extractor's options that the user gave; a plain asset has none."""
        return {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ref or 'without a name'}: {self._in_short()}>"

    def _in_short(self) -> str:
        return self.stored.type if self.stored else type_name(self.data)


def sources(
    given: ParentLike | Iterable[ParentLike] | None, relation: Relation
) -> tuple[tuple[ParentLike, Relation], ...]:
    """Return one or many sources as pairs with their relation, checked."""
    if given is None:
        return ()
    many = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for source in many:
        if not isinstance(source, (str, Asset, Parent)):
            raise TypeError(f"{relation}= takes assets and refs; got a {type_name(source)}")
    return tuple((source, relation) for source in many)


def _parent(source: ParentLike, relation: Relation) -> Parent:
    if isinstance(source, Parent):
        return source
    if isinstance(source, str):
        return Parent(source, relation=relation)
    return Parent(source.ref or "unnamed", source.digest, relation)
