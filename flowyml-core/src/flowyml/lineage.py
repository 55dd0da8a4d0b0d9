"""Lineage: what an asset was made from, and what was made from it, as a store's manifests tell.

A parent is known by its ref. Where this store has no such version, or another one of that ref, it
is recognised by its content: a version that was saved elsewhere counts as the equal one here.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from flowyml import names
from flowyml.assets import Asset, Parent, Relation
from flowyml.errors import AssetNotFoundError, FlowymlWarning, IntegrityError, StoreError, warn
from flowyml.models import Model
from flowyml.store.catalog import deleted_key

if TYPE_CHECKING:
    from flowyml.store import Store

Status: TypeAlias = Literal["stored", "deleted", "missing", "damaged"]


@attrs.frozen
class Node:
    """One asset in a lineage.

    Attributes:
        id: its ref; where others go by that ref, the beginning of its digest is added.
        ref: ``"name@version"``, or a bare name for what is in no store.
        status: ``stored``; ``deleted`` or ``missing`` when it is not in this store any more, or
            never was; ``damaged`` when it is, but can't be read.
        digest: its content digest, if it is known.
        kind: ``"model"`` or ``"asset"``.
        type: the dotted name of its type.
        framework: of a model.
        architecture: of a model, if its adapter tells it.
        size: bytes of its files.
        created_at: when it was saved, in UTC.
        run: id of the run that made it.
        step: name of the step that made it.
    """

    id: str
    ref: str
    status: Status
    digest: str | None = None
    kind: str | None = None
    type: str | None = None
    framework: str | None = None
    architecture: str | None = None
    size: int | None = None
    created_at: datetime | None = None
    run: str | None = None
    step: str | None = None


@attrs.frozen
class Edge:
    """That one asset was made from another; both by their ids.

    Attributes:
        parent: from which.
        child: what was made.
        relation: ``"parent"``, or ``"trained_on"`` for data.
        recorded_as: the parent's ref when the child was made, where it was another one.
    """

    parent: str
    child: str
    relation: Relation = "parent"
    recorded_as: str | None = None


@attrs.frozen
class Lineage:
    """What an asset was made from, and what was made from it.

    Attributes:
        ref: the asset.
        nodes: it, then what is above it, then what is below it; each nearest first.
        edges: all between these.
        equal: refs of other versions in the store that have the same content.
    """

    ref: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    equal: tuple[str, ...] = ()

    @property
    def up(self) -> tuple[str, ...]:
        """Ids of everything that it was made from, nearest first."""
        return _reached(self.ref, self.parents())

    @property
    def down(self) -> tuple[str, ...]:
        """Ids of everything that was made from it, nearest first."""
        return _reached(self.ref, self.children())

    def parents(self) -> dict[str, list[str]]:
        """Return what each was made from, by id."""
        found: dict[str, list[str]] = defaultdict(list)
        for edge in self.edges:
            found[edge.child].append(edge.parent)
        return dict(found)

    def children(self) -> dict[str, list[str]]:
        """Return what was made from each, by id."""
        found: dict[str, list[str]] = defaultdict(list)
        for edge in self.edges:
            found[edge.parent].append(edge.child)
        return dict(found)

    def text(self) -> str:
        """Draw a graph in text: what it was made from above, what was made from it below."""
        from flowyml import drawing

        return drawing.as_text(self)

    def mermaid(self) -> str:
        """Draw a flowchart in the language of Mermaid."""
        from flowyml import drawing

        return drawing.as_mermaid(self)

    def __str__(self) -> str:
        return self.text()

    def _repr_markdown_(self) -> str:
        return f"```mermaid\n{self.mermaid()}\n```\n"

    def to_data(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        nodes = [attrs.asdict(node) for node in self.nodes]
        for node in nodes:
            node["created_at"] = node["created_at"] and node["created_at"].isoformat()
        return {
            "ref": self.ref,
            "equal": list(self.equal),
            "up": list(self.up),
            "down": list(self.down),
            "nodes": nodes,
            "edges": [attrs.asdict(edge) for edge in self.edges],
        }


def lineage(store: Store, ref: str) -> Lineage:
    """Return the lineage of a version, going all the way up and down.

    Manifests that can't be read are named in one warning; the rest is told.

    Args:
        store: where it is.
        ref: ``"name@v3"``, or ``"name"`` for its newest version.

    Raises:
        AssetNotFoundError: when there is no such name or version.
        IntegrityError: when its own manifest can't be read.
    """
    start = store.get(ref)
    graph = _Graph(store, {str(start.ref): start})
    return graph.around(start)


class _Graph:
    """All that a store's manifests say of where its assets come from."""

    def __init__(self, store: Store, known: Mapping[str, Asset]) -> None:
        self._store = store
        self._assets: dict[str, Asset] = dict(known)
        self._damaged: set[str] = set()
        self._read_all()
        self._nodes = {ref: _node(ref, asset) for ref, asset in self._assets.items()}
        self._by_digest: dict[str, list[Asset]] = defaultdict(list)
        for asset in sorted(self._assets.values(), key=_age):
            self._by_digest[str(asset.digest)].append(asset)
        self._above: dict[str, list[Edge]] = defaultdict(list)
        self._below: dict[str, list[Edge]] = defaultdict(list)
        for child in sorted(self._assets.values(), key=_age):
            for edge in dict.fromkeys(self._edge(parent, child) for parent in child.parents):
                self._above[edge.child].append(edge)
                self._below[edge.parent].append(edge)

    def _read_all(self) -> None:
        problems = []
        for ref in self._store.refs():
            if ref in self._assets:
                continue
            try:
                self._assets[ref] = self._store.get(ref)
            except AssetNotFoundError:
                continue  # somebody deletes at the same time
            except StoreError as error:
                self._damaged.add(ref)
                problems.append(str(error))
        if problems:
            warn(
                "The lineage lacks what can't be read, and may be cut off there:\n"
                + "\n".join(problems),
                FlowymlWarning,
            )

    def around(self, start: Asset) -> Lineage:
        """Return what is above and below an asset."""
        ref = str(start.ref)
        above = _reached(ref, {key: [e.parent for e in self._above[key]] for key in self._above})
        below = _reached(ref, {key: [e.child for e in self._below[key]] for key in self._below})
        edges = {
            **dict.fromkeys(edge for key in (ref, *above) for edge in self._above.get(key, ())),
            **dict.fromkeys(edge for key in (ref, *below) for edge in self._below.get(key, ())),
        }
        return Lineage(
            ref,
            tuple(self._nodes[key] for key in dict.fromkeys((ref, *above, *below))),
            tuple(edges),
            tuple(str(each.ref) for each in self._by_digest[str(start.digest)] if each.ref != ref),
        )

    def _edge(self, parent: Parent, child: Asset) -> Edge:
        same = self._assets.get(parent.ref)
        if same is None or parent.digest not in (None, same.digest):
            same = None if parent.ref in self._damaged else self._recognised(parent, child)
        if same is None:
            return Edge(self._elsewhere(parent), str(child.ref), parent.relation)
        recorded_as = None if same.ref == parent.ref else parent.ref
        return Edge(str(same.ref), str(child.ref), parent.relation, recorded_as)

    def _recognised(self, parent: Parent, child: Asset) -> Asset | None:
        """Return the version here that has a parent's content: the oldest that isn't the child."""
        if parent.digest is None:
            return None
        name = parent.ref.partition("@")[0]
        equal = [asset for asset in self._by_digest[parent.digest] if asset is not child]
        return next((asset for asset in equal if asset.name == name), equal[0] if equal else None)

    def _elsewhere(self, parent: Parent) -> str:
        """Return the id of a parent that can't be read here, making its node."""
        id, digest = parent.ref, parent.digest
        node = self._nodes.get(id)
        if node is not None and (
            node.status == "stored" or (digest not in (None, node.digest) and node.digest)
        ):
            id = f"{parent.ref}#{(digest or 'unknown')[:12]}"
            node = self._nodes.get(id)
        node = node or Node(id, parent.ref, self._status(parent))
        self._nodes[id] = attrs.evolve(node, digest=digest or node.digest)
        return id

    def _status(self, parent: Parent) -> Status:
        if parent.ref in self._damaged:
            return "damaged"
        try:
            name, version = names.parse_ref(parent.ref)
            self._store.read_record(deleted_key(name, str(version)))
        except IntegrityError:
            return "deleted"  # which is noted, if not when
        except (ValueError, StoreError, OSError):
            return "missing"
        return "deleted"


def _node(ref: str, asset: Asset) -> Node:
    stored = asset.stored
    assert stored is not None
    architecture = asset.metadata.properties.get("architecture")
    return Node(
        id=ref,
        ref=ref,
        status="stored",
        digest=stored.digest,
        kind=asset.kind,
        type=stored.type,
        framework=asset.framework if isinstance(asset, Model) else None,
        architecture=architecture if isinstance(architecture, str) else None,
        size=stored.size,
        created_at=stored.created_at,
        run=stored.run,
        step=stored.step,
    )


def _age(asset: Asset) -> tuple[Any, ...]:
    assert asset.stored is not None
    return asset.stored.created_at, names.version_order(str(asset.version)), str(asset.name)


def _reached(start: str, neighbours: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return everything that neighbours lead to, nearest first, without the start itself."""
    reached = {start: None}
    waiting = deque([start])
    while waiting:
        for other in neighbours.get(waiting.popleft(), ()):
            if other not in reached:
                reached[other] = None
                waiting.append(other)
    return tuple(reached)[1:]
